// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/wim_file.h"

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/reason.h"
#include "libmount/base/small_thread.h"
#include "libmount/base/utf16.h"
#include "libmount/wim/image_tree.h"
#include "libmount/wim/integrity.h"
#include "libmount/wim/saved_metadata.h"
#include "libmount/wim/sha1.h"
#include "libmount/wim/wim_xml.h"

namespace libmount {
namespace {

// Each part is an open descriptor.
constexpr uint16_t kMaxParts = 512;
// A metadata resource compresses well, but not without end: empty files with similar names reach about 100.
constexpr uint64_t kMaxMetadataRatio = 512;
// The XML data is stored as it is by every known writer.
constexpr uint64_t kMaxXmlRatio = 64;

// "Windows.swm", 2 -> "Windows2.swm": how every tool names the parts.
std::string PartName(std::string_view first, uint16_t part) {
  const size_t dot = std::min(first.rfind('.'), first.size());
  return absl::StrFormat("%s%d%s", first.substr(0, dot), part, first.substr(dot));
}

class WimFileImpl final : public WimFile {
 public:
  absl::Status Load(UniqueFd fd, std::string name, const SiblingOpener& open_sibling, OperationMonitor& monitor);

  const std::vector<ImageInfo>& images() const override { return images_; }
  bool is_split() const override { return wim_->headers.size() > 1; }
  bool is_solid() const override { return wim_->blobs.has_solid_resources(); }
  bool is_pipable() const override { return header().pipable; }
  bool is_marked_read_only() const override { return header().flags & kWimReadOnly; }
  bool is_marked_write_in_progress() const override { return header().flags & kWimWriteInProgress; }
  bool has_integrity_table() const override { return !header().integrity_table.empty(); }

  absl::StatusOr<uint32_t> FindImage(std::string_view name) const override;
  absl::Status CheckIntegrity(OperationMonitor& monitor) const override;
  absl::StatusOr<std::unique_ptr<WimTree>> OpenTree(uint32_t index, const WimTreeOptions& options,
                                                    OperationMonitor& monitor) const override;
  absl::Status SaveMetadata(uint32_t index, int fd, OperationMonitor& monitor) const override;
  absl::StatusOr<std::unique_ptr<WimTree>> OpenTreeFromMetadata(int fd, const WimTreeOptions& options,
                                                                OperationMonitor& monitor) const override;

 private:
  const WimHeader& header() const { return wim_->headers.front(); }
  const std::string& name() const { return wim_->source.part_name(1); }

  absl::Status LoadFurtherParts(const SiblingOpener& open_sibling, OperationMonitor& monitor);
  absl::Status LoadPart(uint16_t part, const SiblingOpener& open_sibling);
  absl::Status LoadImages(OperationMonitor& monitor);
  absl::Status CheckIndex(uint32_t index) const;
  // Indexes the blobs, unless that is done. Only trees need it, and decoding theirs keeps the other cores busy
  // meanwhile.
  void IndexBlobs() const;
  // Frees the memory on a thread of its own: giving back a large metadata resource takes the kernel milliseconds, for
  // which nobody needs to wait.
  void FreeBehind(ChunkBuffer buffer) const;
  absl::StatusOr<ImageMetadata> LoadMetadata(uint32_t index, OperationMonitor& monitor) const;

  std::shared_ptr<WimContents> wim_ = std::make_shared<WimContents>();
  std::vector<ImageInfo> images_;
  mutable absl::Mutex mutex_;
  mutable bool indexed_ ABSL_GUARDED_BY(mutex_) = false;
  mutable SmallThread freer_ ABSL_GUARDED_BY(mutex_);
};

absl::Status WimFileImpl::Load(UniqueFd fd, std::string file_name, const SiblingOpener& open_sibling,
                               OperationMonitor& monitor) {
  monitor.Report({Phase::kOpening, 0, 0});
  if (absl::Status status = wim_->source.AddPart(std::move(fd), std::move(file_name)); !status.ok()) return status;
  absl::StatusOr<WimHeader> first = ReadWimHeader(wim_->source, 1);
  if (!first.ok()) return first.status();
  if (first->part != 1) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s is part %d of a split set of %d. Name the first part; the others are found "
                                     "beside it.",
                                     name(), first->part, first->part_count));
  }
  wim_->headers.push_back(*std::move(first));
  if (absl::Status status = LoadFurtherParts(open_sibling, monitor); !status.ok()) return status;
  absl::StatusOr<BlobTable> blobs = BlobTable::Read(wim_->source, wim_->headers, monitor);
  if (!blobs.ok()) return blobs.status();
  wim_->blobs = *std::move(blobs);
  return LoadImages(monitor);
}

void WimFileImpl::IndexBlobs() const {
  absl::MutexLock lock(&mutex_);
  if (!std::exchange(indexed_, true)) wim_->blobs.Index();
}

void WimFileImpl::FreeBehind(ChunkBuffer buffer) const {
  constexpr size_t kWorthAThread = size_t{1} << 20;
  if (buffer.size() < kWorthAThread) return;
  auto shared = std::make_shared<ChunkBuffer>(std::move(buffer));  // std::function wants to be copied
  absl::MutexLock lock(&mutex_);
  freer_.Join();
  // Where no thread can be started it is freed here.
  freer_.Start("dismd-free", [shared = std::move(shared)] {}).IgnoreError();
}

absl::Status WimFileImpl::LoadFurtherParts(const SiblingOpener& open_sibling, OperationMonitor& monitor) {
  if (header().part_count > kMaxParts) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s claims to be one of %d parts, and at most %d are supported", name(),
                                     header().part_count, kMaxParts));
  }
  const uint16_t part_count = header().part_count;
  for (uint16_t part = 2; part <= part_count; ++part) {
    if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
    if (absl::Status status = LoadPart(part, open_sibling); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WimFileImpl::LoadPart(uint16_t part, const SiblingOpener& open_sibling) {
  const std::string part_name = PartName(name(), part);
  const uint16_t part_count = header().part_count;
  absl::StatusOr<UniqueFd> fd = open_sibling(part_name);
  if (!fd.ok()) {
    const Reason reason = ReasonOf(fd.status());
    if (reason == Reason::kAccessDenied || reason == Reason::kCancelled || reason == Reason::kPathTimedOut ||
        reason == Reason::kImageOnNetwork) {
      return fd.status();
    }
    return MakeError(Reason::kPartMissing,
                     absl::StrCat("part ", part, " of ", part_count, ", ", part_name, ", was not found beside ", name(),
                                  ". Put all parts of the set into one directory. (", fd.status().message(), ")"));
  }
  if (absl::Status status = wim_->source.AddPart(*std::move(fd), part_name); !status.ok()) return status;
  absl::StatusOr<WimHeader> part_header = ReadWimHeader(wim_->source, part);
  if (!part_header.ok()) return part_header.status();
  if (part_header->guid != header().guid || part_header->part != part || part_header->part_count != part_count) {
    return MakeError(Reason::kPartMissing,
                     absl::StrFormat("%s is not part %d of the set that %s begins: it is part %d of %d, %s. Put the "
                                     "parts of one set into a directory of their own.",
                                     part_name, part, name(), part_header->part, part_header->part_count,
                                     part_header->guid == header().guid ? "of this set" : "of another set"));
  }
  wim_->headers.push_back(*std::move(part_header));
  return absl::OkStatus();
}

absl::Status WimFileImpl::LoadImages(OperationMonitor& monitor) {
  const uint32_t image_count = static_cast<uint32_t>(wim_->blobs.metadata().size());
  ChunkBuffer xml;
  if (!header().xml.empty()) {
    absl::StatusOr<ResourceLocation> location = LocateResource(header().xml, header(), wim_->source, 1, "XML data");
    if (!location.ok()) return location.status();
    const uint64_t most = std::min<uint64_t>(kMaxXmlSize, location->size_in_file * kMaxXmlRatio);
    absl::StatusOr<ChunkBuffer> bytes = ReadWholeResource(wim_->source, *location, most, monitor);
    if (!bytes.ok()) return bytes.status();
    xml = *std::move(bytes);
  }
  absl::StatusOr<std::vector<ImageInfo>> images = ParseWimXml({xml.data(), xml.size()}, image_count, name());
  if (!images.ok()) return images.status();
  images_ = *std::move(images);
  for (ImageInfo& image : images_) image.bootable = image.index == header().boot_index;
  return absl::OkStatus();
}

// DISM's documentation does not say how names compare. The exact one is taken first; otherwise case does not matter, as
// nowhere in Windows.
absl::StatusOr<uint32_t> WimFileImpl::FindImage(std::string_view wanted) const {
  std::vector<uint32_t> exact;
  std::vector<uint32_t> folded;
  for (const ImageInfo& image : images_) {
    if (image.name == wanted) exact.push_back(image.index);
    if (EqualFolded(image.name, wanted)) folded.push_back(image.index);
  }
  const std::vector<uint32_t>& found = exact.empty() ? folded : exact;
  if (!wanted.empty() && found.size() == 1) return found[0];
  return MakeError(Reason::kInvalidImageName,
                   found.size() < 2 || wanted.empty()
                       ? absl::StrFormat("%s holds no image named \"%s\"", name(), wanted)
                       : absl::StrFormat("%s holds %d images named \"%s\": name the image by its index", name(),
                                         found.size(), wanted));
}

absl::Status WimFileImpl::CheckIntegrity(OperationMonitor& monitor) const {
  IntegrityProgress progress;
  for (const WimHeader& part : wim_->headers) progress.bytes_total += IntegrityCoverage(part);
  monitor.Report({Phase::kCheckingIntegrity, 0, progress.bytes_total});
  for (uint16_t part = 1; part <= wim_->headers.size(); ++part) {
    absl::Status status = CheckPartIntegrity(wim_->source, part, wim_->headers[part - 1], progress, monitor);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<ImageMetadata> WimFileImpl::LoadMetadata(uint32_t index, OperationMonitor& monitor) const {
  const BlobTable::Metadata& metadata = wim_->blobs.metadata()[index - 1];
  monitor.Report({Phase::kReadingMetadata, 0, metadata.location.size});
  const uint64_t most = std::min(kMaxMetadataSize, wim_->source.part_size(1) * kMaxMetadataRatio);
  absl::StatusOr<ChunkBuffer> bytes =
      ReadWholeResource(wim_->source, metadata.location, most, monitor, [this] { IndexBlobs(); });
  if (!bytes.ok()) return bytes.status();
  IndexBlobs();  // of an image of nothing
  // Hashed while it is parsed: each takes as long as the other, and the parser trusts nothing in any case.
  Sha1Digest hash;
  SmallThread hasher;
  if (!hasher.Start("dismd-hash", [&hash, &bytes] { hash = Sha1::Of(bytes->span()); }).ok())
    hash = Sha1::Of(bytes->span());
  absl::StatusOr<ImageMetadata> parsed = ParseMetadata(bytes->span(), wim_->blobs, name(), monitor);
  hasher.Join();
  FreeBehind(*std::move(bytes));
  if (hash != metadata.hash) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the directory tree of image %d is damaged: its SHA-1 differs from the one "
                                     "stored with it. Copy the file again from its source.",
                                     name(), index));
  }
  return parsed;
}

absl::Status WimFileImpl::CheckIndex(uint32_t index) const {
  if (index != 0 && index <= images_.size()) return absl::OkStatus();
  return MakeError(Reason::kInvalidImageIndex, absl::StrFormat("%s holds the images 1 to %d, and not one of index %d",
                                                               name(), images_.size(), index));
}

absl::StatusOr<std::unique_ptr<WimTree>> WimFileImpl::OpenTree(uint32_t index, const WimTreeOptions& options,
                                                               OperationMonitor& monitor) const {
  if (absl::Status status = CheckIndex(index); !status.ok()) return status;
  absl::StatusOr<ImageMetadata> metadata = LoadMetadata(index, monitor);
  if (!metadata.ok()) return metadata.status();
  return std::make_unique<ImageTree>(wim_, *std::move(metadata), options);
}

absl::Status WimFileImpl::SaveMetadata(uint32_t index, int fd, OperationMonitor& monitor) const {
  if (absl::Status status = CheckIndex(index); !status.ok()) return status;
  const BlobTable::Metadata& metadata = wim_->blobs.metadata()[index - 1];
  const uint64_t most = std::min(kMaxMetadataSize, wim_->source.part_size(1) * kMaxMetadataRatio);
  absl::StatusOr<ChunkBuffer> bytes = ReadWholeResource(wim_->source, metadata.location, most, monitor);
  if (!bytes.ok()) return bytes.status();
  return WriteSavedMetadata(bytes->span(), fd);
}

absl::StatusOr<std::unique_ptr<WimTree>> WimFileImpl::OpenTreeFromMetadata(int fd, const WimTreeOptions& options,
                                                                           OperationMonitor& monitor) const {
  absl::StatusOr<ChunkBuffer> bytes = ReadSavedMetadata(fd);
  if (!bytes.ok()) return bytes.status();
  IndexBlobs();
  absl::StatusOr<ImageMetadata> metadata = ParseMetadata(bytes->span(), wim_->blobs, name(), monitor);
  if (!metadata.ok()) return metadata.status();
  return std::make_unique<ImageTree>(wim_, *std::move(metadata), options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<WimFile>> WimFile::Open(UniqueFd fd, std::string name, const SiblingOpener& open_sibling,
                                                       OperationMonitor& monitor) {
  auto file = std::make_unique<WimFileImpl>();
  if (absl::Status status = file->Load(std::move(fd), std::move(name), open_sibling, monitor); !status.ok()) {
    return status;
  }
  return file;
}

}  // namespace libmount
