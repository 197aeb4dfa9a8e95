// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/wim_rebuild.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/wim/blob_table_writer.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/commit_source.h"
#include "libmount/wim/commit_tables.h"
#include "libmount/wim/file_appender.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/metadata_writer.h"
#include "libmount/wim/new_blobs.h"
#include "libmount/wim/resource_reader.h"
#include "libmount/wim/resource_writer.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/xml_writer.h"

namespace libmount {
namespace {

constexpr size_t kCopyPiece = size_t{1} << 20;
// Of decoded chunks: blobs are read once, from begin to end.
constexpr size_t kReadCache = size_t{16} << 20;
// As wimlib and Windows write.
constexpr uint32_t kUsualChunkSize = 1 << 15;
constexpr uint32_t kUsualChunkSizeLzms = 1 << 17;

std::string Hex(const Sha1Digest& hash) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

// One rebuild, step by step.
class Rebuild {
 public:
  Rebuild(int from, int to, const std::string& name, uint32_t index, const ImageContents* contents,
          const WimRebuildOptions& options, OperationMonitor& monitor)
      : from_(from),
        to_(to),
        name_(name),
        index_(index),
        contents_(options.unchanged ? nullptr : contents),
        holder_(contents),
        options_(options),
        monitor_(monitor) {}

  absl::StatusOr<WimCommitResult> Run();

 private:
  // A resource of the old file on its way into the new one.
  struct Moved {
    ResourceHeader place;
    Sha1Digest hash = {};
  };

  absl::Status Load();
  void AddTableCounts();
  absl::Status StartWriting();
  absl::Status WriteNewBlobs();
  absl::Status CopyBlobs();
  absl::Status WriteMetadata();
  absl::Status WriteTables();
  absl::Status WriteHeader();

  absl::Status CopyRaw(const ResourceLocation& location, ResourceHeader* place);
  absl::Status MoveBlob(uint32_t blob);
  absl::Status MoveMetadata(uint32_t index);
  absl::Status AddBytes(absl::Span<const char> bytes, Moved* moved);
  uint64_t WorkOf(const ResourceLocation& location) const {
    return options_.recompress ? location.size : location.size_in_file;
  }

  const int from_;
  const int to_;
  const std::string& name_;
  const uint32_t index_;
  const ImageContents* const contents_;  // null: the image stays as it is
  const ImageContents* const holder_;    // null: nothing else is in use
  const WimRebuildOptions& options_;
  OperationMonitor& monitor_;
  CommitProgress progress_{Phase::kRebuilding, monitor_};

  CommitSource old_;
  Compression compression_ = Compression::kNone;
  uint32_t chunk_size_ = 0;
  BlobReferences references_;  // of all images of the new file
  std::optional<MetadataWriter> tree_;

  std::optional<FileAppender> out_;
  std::unique_ptr<ResourceReader> reader_;
  std::unique_ptr<ResourceWriter> writer_;
  std::optional<NewBlobs> new_blobs_;
  ChunkBuffer piece_;
  std::deque<Moved> blobs_;   // which do not move: the writer fills them in
  std::deque<Moved> images_;  // likewise: the metadata of each
  std::optional<CommitTables> tables_;
  WimCommitResult result_;
};

absl::Status Rebuild::Load() {
  if (absl::Status status = old_.Load(from_, name_, monitor_); !status.ok()) return status;
  if (absl::Status status = CheckCommitIndex(old_, name_, index_, options_.append); !status.ok()) return status;
  compression_ = old_.header().compression;
  chunk_size_ = old_.header().chunk_size;
  if (options_.recompress && *options_.recompress != compression_) {
    compression_ = *options_.recompress;
    chunk_size_ = compression_ == Compression::kNone   ? 0
                  : compression_ == Compression::kLzms ? kUsualChunkSizeLzms
                                                       : kUsualChunkSize;
  }
  bool complete = true;
  for (uint32_t index = 1; index <= old_.image_count(); ++index) {
    absl::StatusOr<ChunkBuffer> bytes = old_.ReadMetadata(index, monitor_);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<ImageMetadata> image = ParseMetadata(bytes->span(), old_.blobs, name_, monitor_);
    if (!image.ok()) return image.status();
    progress_.Expect(WorkOf(old_.blobs.metadata()[index - 1].location));
    const bool replaced = index == index_ && contents_ != nullptr && !options_.append;
    if (index == index_) tree_.emplace(*image, name_);
    if (replaced) continue;
    complete = complete && image->dropped_entries == 0;
    for (const auto& [hash, count] : CountReferences(*image, old_.blobs)) references_[hash] += count;
  }
  // An image with entries that cannot be shown is kept as it is, and with it everything that the table calls used.
  if (!complete) AddTableCounts();
  return absl::OkStatus();
}

void Rebuild::AddTableCounts() {
  const BlobTableWriter table(old_.table, old_.image_count());
  for (uint32_t i = 0; i < old_.blobs.size(); ++i) {
    const uint32_t count = table.references(old_.blobs.hash(i));
    if (count == 0) continue;
    uint64_t& counted = references_[old_.blobs.hash(i)];
    counted = std::max<uint64_t>(counted, count);
  }
}

absl::Status Rebuild::StartWriting() {
  out_.emplace(to_, name_, 0);
  if (absl::Status status = out_->Skip(kWimHeaderSize); !status.ok()) return status;
  ResourceReader::Options reading;
  reading.cache_budget = kReadCache;
  reading.decoder_threads = 1;
  reader_ = std::make_unique<ResourceReader>(&old_.source, &old_.blobs.resources(), reading);
  ResourceWriter::Format format{compression_, chunk_size_, options_.threads};
  absl::StatusOr<std::unique_ptr<ResourceWriter>> writer =
      ResourceWriter::Create(&*out_, format, [this](uint64_t bytes) { return progress_.Add(bytes); });
  if (!writer.ok()) return writer.status();
  writer_ = *std::move(writer);
  return absl::OkStatus();
}

absl::Status Rebuild::WriteNewBlobs() {
  if (contents_ == nullptr) return absl::OkStatus();
  new_blobs_.emplace(&old_.blobs, writer_.get(), contents_);
  absl::Status status = tree_->AddTree(*contents_, [this](NodeId node, ImageContents::File& file) {
    if (absl::Status stop = CheckCancelled(monitor_); !stop.ok()) return stop;
    return new_blobs_->Store(node, file, result_.stored, [this](uint64_t bytes) { return progress_.Add(bytes); });
  });
  if (status.ok()) status = writer_->Finish();
  if (!status.ok()) return status;
  for (const auto& [hash, count] : tree_->references()) references_[hash] += count;
  return out_->Flush();
}

absl::Status Rebuild::CopyRaw(const ResourceLocation& location, ResourceHeader* place) {
  if (piece_.empty()) piece_ = ChunkBuffer(kCopyPiece);
  if (piece_.empty()) return MakeError(Reason::kOutOfResources, "no memory for copying the image's data");
  const uint8_t flags = location.compression == Compression::kNone ? 0 : kResourceCompressed;
  *place = {location.size_in_file, out_->offset(), location.size, flags};
  for (uint64_t done = 0; done < location.size_in_file;) {
    absl::Span<char> piece = piece_.span().first(std::min<uint64_t>(kCopyPiece, location.size_in_file - done));
    absl::Status status = old_.source.Read(1, location.offset + done, piece);
    if (status.ok()) status = out_->Append(piece);
    if (status.ok()) status = progress_.Add(piece.size());
    if (!status.ok()) return status;
    done += piece.size();
  }
  return absl::OkStatus();
}

absl::Status Rebuild::MoveBlob(uint32_t blob) {
  Moved& moved = blobs_.emplace_back();
  moved.hash = old_.blobs.hash(blob);
  auto damaged = [&](std::string_view what) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the data with the SHA-1 %s %s. The file was not changed; get a whole copy of "
                                     "it, or commit without a rebuild.",
                                     name_, Hex(moved.hash), what));
  };
  if (!old_.blobs.readable(blob)) return damaged("lies outside the file");
  const uint32_t resource = old_.blobs.location(blob).resource;
  const ResourceLocation& location = old_.blobs.resources()[resource];
  if (!options_.recompress) return CopyRaw(location, &moved.place);
  auto read = [this, resource](uint64_t offset, absl::Span<char> out) { return reader_->Read(resource, offset, out); };
  absl::StatusOr<Sha1Digest> hash = writer_->Add(location.size, read, &moved.place);
  if (!hash.ok()) return hash.status();
  return *hash == moved.hash ? absl::OkStatus() : damaged("is damaged: its SHA-1 is another now");
}

// In the order in which they lie in the old file.
absl::Status Rebuild::CopyBlobs() {
  absl::flat_hash_set<Sha1Digest> wanted, written;
  if (new_blobs_) {
    for (const NewBlobs::Blob& blob : new_blobs_->blobs()) written.insert(blob.hash);
  }
  auto want = [&](const Sha1Digest& hash) {
    if (!written.contains(hash)) wanted.insert(hash);
  };
  for (const auto& [hash, count] : references_) want(hash);
  if (holder_ != nullptr) holder_->VisitHeldBlobs(want);
  std::vector<std::pair<uint64_t, uint32_t>> order;
  for (const Sha1Digest& hash : wanted) {
    const uint32_t blob = old_.blobs.Find(hash);
    if (blob == kNoBlob) continue;  // in another file (a delta WIM)
    const ResourceLocation& location = old_.blobs.resources()[old_.blobs.location(blob).resource];
    order.emplace_back(location.offset, blob);
    progress_.Expect(WorkOf(location));
  }
  std::sort(order.begin(), order.end());
  for (const auto& [offset, blob] : order) {
    if (absl::Status status = MoveBlob(blob); !status.ok()) return status;
    if (absl::Status status = progress_.Step(blobs_.size() == 2 ? "rebuild-resource" : ""); !status.ok()) return status;
  }
  if (absl::Status status = writer_->Finish(); !status.ok()) return status;
  return out_->Flush();
}

absl::Status Rebuild::AddBytes(absl::Span<const char> bytes, Moved* moved) {
  auto read = [bytes](uint64_t offset, absl::Span<char> out) {
    memcpy(out.data(), bytes.data() + offset, out.size());
    return absl::OkStatus();
  };
  absl::StatusOr<Sha1Digest> hash = writer_->Add(bytes.size(), read, &moved->place);
  if (!hash.ok()) return hash.status();
  moved->hash = *hash;
  return writer_->Finish();  // while the bytes are there
}

absl::Status Rebuild::MoveMetadata(uint32_t index) {
  Moved& moved = images_.emplace_back();
  const BlobTable::Metadata& metadata = old_.blobs.metadata()[index - 1];
  moved.hash = metadata.hash;
  if (!options_.recompress) return CopyRaw(metadata.location, &moved.place);
  absl::StatusOr<ChunkBuffer> bytes = old_.ReadMetadata(index, monitor_);
  if (!bytes.ok()) return bytes.status();
  return AddBytes(bytes->span(), &moved);
}

absl::Status Rebuild::WriteMetadata() {
  std::string changed;
  if (contents_ != nullptr) {
    absl::StatusOr<std::string> bytes = tree_->Finish();
    if (!bytes.ok()) return bytes.status();
    changed = *std::move(bytes);
  }
  const uint32_t changed_index = contents_ == nullptr ? 0 : result_.image_index;
  for (uint32_t index = 1; index <= old_.image_count() + (options_.append ? 1 : 0); ++index) {
    const absl::Status status =
        index == changed_index ? AddBytes(changed, &images_.emplace_back()) : MoveMetadata(index);
    if (!status.ok()) return status;
  }
  writer_.reset();
  for (Moved& image : images_) image.place.flags |= kResourceMetadata;
  return out_->Flush();
}

absl::Status Rebuild::WriteTables() {
  BlobTableWriter table("", 0);
  for (const Moved& image : images_) table.AppendMetadata(image.place, image.hash);
  for (const Moved& blob : blobs_) table.SetBlob(blob.place, blob.hash);
  if (new_blobs_) {
    for (const NewBlobs::Blob& blob : new_blobs_->blobs()) table.SetBlob(blob.place, blob.hash);
  }
  for (const auto& [hash, count] : references_) table.AddReferences(hash, static_cast<int64_t>(count));
  tables_.emplace(old_, to_, name_, *out_, progress_);
  absl::Status status = tables_->WriteBlobTable(table);
  XmlChange change;
  if (contents_ != nullptr) {
    change.index = index_;
    change.new_index = result_.image_index;
    change.counts = tree_->counts();
    change.modification_time = WindowsTimeNow();
  }
  if (status.ok() && (contents_ != nullptr || !old_.xml.empty())) status = tables_->WriteXml(change);
  if (status.ok() && (old_.integrity || options_.generate_integrity)) {
    status = tables_->WriteIntegrityTable(/*kept_end=*/0, options_.threads);
  }
  return status;
}

absl::Status Rebuild::WriteHeader() {
  std::string bytes = tables_->Header(static_cast<uint32_t>(images_.size()));
  if (options_.recompress) {
    PutHeaderNumber(bytes, kHeaderFlagsAt,
                    (old_.header().flags & ~kWimCompressionFlags) | CompressionFlags(compression_));
    PutHeaderNumber(bytes, kHeaderChunkSizeAt, chunk_size_);
  }
  const uint32_t boot = old_.header().boot_index;
  PutHeaderResource(bytes, kHeaderBootMetadataAt,
                    boot >= 1 && boot <= images_.size() ? images_[boot - 1].place : ResourceHeader());
  if (absl::Status status = WriteAt(to_, name_, 0, bytes); !status.ok()) return status;
  return SyncData(to_, name_);
}

absl::StatusOr<WimCommitResult> Rebuild::Run() {
  if (absl::Status status = Load(); !status.ok()) return status;
  result_.image_index = options_.append ? old_.image_count() + 1 : index_;
  if (contents_ != nullptr) progress_.Expect(contents_->staged_bytes());
  absl::Status status = progress_.Step("rebuild-begin");
  if (status.ok()) status = StartWriting();
  if (status.ok()) status = WriteNewBlobs();
  if (status.ok()) status = CopyBlobs();
  if (status.ok()) status = progress_.Step("rebuild-resources-written");
  if (status.ok()) status = WriteMetadata();
  if (status.ok()) status = WriteTables();
  if (status.ok()) status = progress_.Step("rebuild-tables-written");
  if (status.ok()) status = old_.source.CheckUnchanged();
  if (status.ok()) status = WriteHeader();
  if (!status.ok()) return status;
  progress_.Finish();
  return std::move(result_);
}

}  // namespace

absl::StatusOr<WimCommitResult> RebuildWim(int from, int to, const std::string& name, uint32_t index,
                                           const ImageContents* contents, const WimRebuildOptions& options,
                                           OperationMonitor& monitor) {
  if (options.append && (contents == nullptr || options.unchanged))
    return absl::InvalidArgumentError("nothing to append");
  return Rebuild(from, to, name, index, contents, options, monitor).Run();
}

}  // namespace libmount
