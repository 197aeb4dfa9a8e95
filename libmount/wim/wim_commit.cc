// SPDX-License-Identifier: GPL-3.0-or-later
//
// CommitImage. README.md draws the order of its writes.

#include "libmount/wim/wim_commit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/wim/blob_table_writer.h"
#include "libmount/wim/commit_source.h"
#include "libmount/wim/commit_tables.h"
#include "libmount/wim/file_appender.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/metadata_writer.h"
#include "libmount/wim/new_blobs.h"
#include "libmount/wim/resource_writer.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/xml_writer.h"

namespace libmount {
namespace {

uint64_t FileSize(int fd) {
  struct stat facts;
  return fstat(fd, &facts) == 0 ? static_cast<uint64_t>(facts.st_size) : 0;
}

absl::Status CutOff(int fd, const std::string& name, uint64_t size) {
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) {
    return MakeErrnoError(Reason::kUnspecified, errno,
                          absl::StrFormat("%s: what an unfinished commit left at its end could not be removed", name));
  }
  return SyncData(fd, name);
}

// One commit, step by step.
class Commit {
 public:
  Commit(int fd, const std::string& name, uint32_t index, const ImageContents& contents,
         const WimCommitOptions& options, OperationMonitor& monitor)
      : fd_(fd), name_(name), index_(index), contents_(contents), options_(options), monitor_(monitor) {}
  ~Commit();

  absl::StatusOr<WimCommitResult> Run();

 private:
  absl::Status Load();
  absl::Status WriteResources();
  absl::Status WriteMetadata();
  absl::Status WriteTables();
  absl::Status WriteHeader();

  const WimHeader& header() const { return old_.header(); }

  const int fd_;
  const std::string& name_;
  const uint32_t index_;
  const ImageContents& contents_;
  const WimCommitOptions& options_;
  OperationMonitor& monitor_;
  CommitProgress progress_{Phase::kCommitting, monitor_};

  CommitSource old_;  // the file as it was
  uint64_t old_metadata_size_ = 0;
  BlobReferences old_references_;
  std::optional<MetadataWriter> tree_;

  // What becomes of it.
  bool began_ = false;      // something may have been written
  bool committed_ = false;  // the header may have been written: nothing is cut off any more
  std::optional<FileAppender> out_;
  std::unique_ptr<ResourceWriter> writer_;
  std::optional<NewBlobs> new_blobs_;
  std::optional<BlobTableWriter> table_;
  uint32_t new_index_ = 0;
  Sha1Digest metadata_hash_ = {};
  ResourceHeader metadata_;
  std::optional<CommitTables> tables_;
  WimCommitResult result_;
};

Commit::~Commit() {
  writer_.reset();  // its threads
  if (!began_ || committed_) return;
  if (absl::Status status = CutOff(fd_, name_, old_.size); !status.ok()) {
    Log(Severity::kError, std::string_view(status.message().data(), status.message().size()));
  }
}

absl::Status Commit::Load() {
  if (fcntl(fd_, F_GETFL) & O_APPEND) {
    return MakeError(Reason::kUnspecified, absl::StrFormat("%s is open for appending only", name_));
  }
  if (absl::Status status = old_.Load(fd_, name_, monitor_); !status.ok()) return status;
  if (absl::Status status = CheckCommitIndex(old_, name_, index_, options_.append); !status.ok()) return status;
  const uint32_t image_count = old_.image_count();
  new_index_ = options_.append ? image_count + 1 : index_;
  table_.emplace(old_.table, image_count);
  if (table_->image_count() != image_count) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: its blob table cannot be changed", name_));
  }
  // The image as the file has it now: whose references go, and whose security descriptors keep their numbers.
  absl::StatusOr<ChunkBuffer> bytes = old_.ReadMetadata(index_, monitor_);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<ImageMetadata> image = ParseMetadata(bytes->span(), old_.blobs, name_, monitor_);
  if (!image.ok()) return image.status();
  old_metadata_size_ = bytes->size();
  tree_.emplace(*image, name_);
  if (!options_.append) old_references_ = CountReferences(*image, old_.blobs);
  return absl::OkStatus();
}

absl::Status Commit::WriteResources() {
  began_ = true;
  out_.emplace(fd_, name_, old_.size);
  ResourceWriter::Format format{header().compression, header().chunk_size, options_.threads};
  absl::StatusOr<std::unique_ptr<ResourceWriter>> writer =
      ResourceWriter::Create(&*out_, format, [this](uint64_t bytes) { return progress_.Add(bytes); });
  if (!writer.ok()) return writer.status();
  writer_ = *std::move(writer);
  new_blobs_.emplace(&old_.blobs, writer_.get(), &contents_);
  absl::Status status = tree_->AddTree(contents_, [this](NodeId node, ImageContents::File& file) {
    const absl::Status stop = progress_.Step(new_blobs_->blobs().empty() ? "" : "commit-resource");
    if (!stop.ok()) return stop;
    return new_blobs_->Store(node, file, result_.stored, [this](uint64_t bytes) { return progress_.Add(bytes); });
  });
  if (!status.ok()) return status;
  if (status = writer_->Finish(); !status.ok()) return status;
  // Written out already, so that a kill at the next seam leaves what a kill at any time may leave.
  return out_->Flush();
}

absl::Status Commit::WriteMetadata() {
  absl::StatusOr<std::string> bytes = tree_->Finish();
  if (!bytes.ok()) return bytes.status();
  auto read = [&bytes](uint64_t offset, absl::Span<char> out) {
    memcpy(out.data(), bytes->data() + offset, out.size());
    return absl::OkStatus();
  };
  absl::StatusOr<Sha1Digest> hash = writer_->Add(bytes->size(), read, &metadata_);
  if (!hash.ok()) return hash.status();
  if (absl::Status status = writer_->Finish(); !status.ok()) return status;
  writer_.reset();
  metadata_hash_ = *hash;
  metadata_.flags |= kResourceMetadata;
  return out_->Flush();
}

absl::Status Commit::WriteTables() {
  for (const NewBlobs::Blob& blob : new_blobs_->blobs()) table_->SetBlob(blob.place, blob.hash);
  for (const auto& [hash, count] : old_references_) table_->AddReferences(hash, -static_cast<int64_t>(count));
  for (const auto& [hash, count] : tree_->references()) table_->AddReferences(hash, static_cast<int64_t>(count));
  options_.append ? table_->AppendMetadata(metadata_, metadata_hash_)
                  : table_->SetMetadata(index_, metadata_, metadata_hash_);
  tables_.emplace(old_, fd_, name_, *out_, progress_);
  absl::Status status = tables_->WriteBlobTable(*table_);
  if (status.ok()) status = progress_.Step("commit-blob-table-written");
  XmlChange change;
  change.index = index_;
  change.new_index = new_index_;
  change.counts = tree_->counts();
  change.modification_time = WindowsTimeNow();
  if (status.ok()) status = tables_->WriteXml(change);
  if (status.ok()) status = progress_.Step("commit-xml-written");
  if (status.ok() && (old_.integrity || options_.generate_integrity)) {
    const ResourceHeader& old_table = header().blob_table;
    status = tables_->WriteIntegrityTable(old_table.offset + old_table.size_in_file, options_.threads);
  }
  return status;
}

absl::Status Commit::WriteHeader() {
  std::string bytes = tables_->Header(static_cast<uint32_t>(table_->image_count()));
  if (header().boot_index == new_index_) PutHeaderResource(bytes, kHeaderBootMetadataAt, metadata_);

  // The point of no return. From here on nothing is cut off, unless the former header is surely there again.
  committed_ = true;
  absl::Status status = WriteAt(fd_, name_, 0, bytes);
  if (!status.ok()) {
    if (WriteAt(fd_, name_, 0, old_.header_bytes).ok() && fdatasync(fd_) == 0) committed_ = false;
    return status;
  }
  TestSeam("commit-header-written");
  return SyncData(fd_, name_);
}

absl::StatusOr<WimCommitResult> Commit::Run() {
  if (absl::Status status = Load(); !status.ok()) return status;
  progress_.Expect(contents_.staged_bytes() + old_metadata_size_);
  absl::Status status = progress_.Step("commit-begin");
  if (status.ok()) status = WriteResources();
  if (status.ok()) status = progress_.Step("commit-resources-written");
  if (status.ok()) status = WriteMetadata();
  if (status.ok()) status = progress_.Step("commit-metadata-written");
  if (status.ok()) status = WriteTables();
  if (status.ok()) status = progress_.Step("commit-integrity-written");
  if (status.ok()) status = SyncData(fd_, name_);
  if (status.ok()) status = progress_.Step("commit-synced");
  if (status.ok()) status = WriteHeader();
  if (!status.ok()) return status;
  progress_.Finish();
  result_.image_index = new_index_;
  return std::move(result_);
}

}  // namespace

absl::StatusOr<WimCommitResult> CommitImage(int fd, const std::string& name, uint32_t index,
                                            const ImageContents& contents, const WimCommitOptions& options,
                                            OperationMonitor& monitor) {
  return Commit(fd, name, index, contents, options, monitor).Run();
}

absl::Status RemoveUncommittedTail(int fd, const std::string& name, uint64_t old_size) {
  const uint64_t size = FileSize(fd);
  if (size <= old_size) return absl::OkStatus();
  char bytes[kWimHeaderSize];
  if (absl::Status status = ReadAt(fd, name, 0, absl::MakeSpan(bytes)); !status.ok()) return status;
  absl::StatusOr<WimHeader> header = ParseWimHeader({bytes, sizeof bytes}, name);
  if (!header.ok()) return header.status();
  const ResourceHeader boot_metadata = ParseResourceHeader(bytes + kHeaderBootMetadataAt);
  for (const ResourceHeader& resource : {header->blob_table, header->xml, header->integrity_table, boot_metadata}) {
    if (resource.offset >= old_size || resource.size_in_file > old_size - resource.offset) return absl::OkStatus();
  }
  return CutOff(fd, name, old_size);
}

}  // namespace libmount
