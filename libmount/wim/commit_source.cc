// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/commit_source.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"
#include "libmount/wim/resource_reader.h"
#include "libmount/wim/wim_xml.h"

namespace libmount {

absl::Status SyncData(int fd, const std::string& name) {
  if (fdatasync(fd) == 0) return absl::OkStatus();
  const bool full = errno == ENOSPC || errno == EDQUOT;
  return MakeErrnoError(full ? Reason::kOutOfResources : Reason::kUnspecified, errno,
                        absl::StrFormat("%s: its data could not be brought to the disk", name));
}

absl::Status CommitSource::CheckWritable(const std::string& name) const {
  if (header().pipable) return MakeError(Reason::kImageReadOnly, absl::StrFormat("%s is pipable", name));
  if (header().flags & kWimReadOnly) {
    return MakeError(Reason::kImageReadOnly, absl::StrFormat("%s is marked as read-only", name));
  }
  if (header().part_count != 1 || (header().flags & kWimSpanned)) {
    return MakeError(Reason::kSplitImage, absl::StrFormat("%s is a part of a split set", name));
  }
  if (header().flags & kWimWriteInProgress) {
    return MakeError(Reason::kImageInUse, absl::StrFormat("%s is being written by another program, or was when that "
                                                          "ended",
                                                          name));
  }
  return absl::OkStatus();
}

absl::Status CommitSource::Load(int fd, const std::string& name, OperationMonitor& monitor) {
  UniqueFd own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own) return MakeErrnoError(Reason::kOutOfResources, errno, "no descriptor for the commit");
  if (absl::Status status = source.AddPart(std::move(own), name); !status.ok()) return status;
  size = source.part_size(1);
  absl::StatusOr<WimHeader> first = ReadWimHeader(source, 1);
  if (!first.ok()) return first.status();
  headers.push_back(*std::move(first));
  if (absl::Status status = CheckWritable(name); !status.ok()) return status;
  header_bytes.resize(kWimHeaderSize);
  if (absl::Status status = source.Read(1, 0, absl::MakeSpan(header_bytes)); !status.ok()) return status;

  absl::StatusOr<BlobTable> loaded = BlobTable::Load(source, headers, monitor);
  if (!loaded.ok()) return loaded.status();
  blobs = *std::move(loaded);
  if (blobs.has_solid_resources()) {
    return MakeError(Reason::kSolidImage, absl::StrFormat("%s has solid resources", name));
  }
  auto read_whole = [&](const ResourceHeader& resource, uint64_t most, std::string_view what,
                        std::string& bytes) -> absl::Status {
    if (resource.empty()) return absl::OkStatus();
    absl::StatusOr<ResourceLocation> location = LocateResource(resource, header(), source, 1, what);
    if (!location.ok()) return location.status();
    absl::StatusOr<ChunkBuffer> read = ReadWholeResource(source, *location, most, monitor);
    if (!read.ok()) return read.status();
    bytes.assign(read->data(), read->size());
    return absl::OkStatus();
  };
  absl::Status status = read_whole(header().blob_table, kMaxBlobTableSize, "blob table", table);
  if (status.ok()) status = read_whole(header().xml, kMaxXmlSize, "XML data", xml);
  if (!status.ok()) return status;
  if (!header().integrity_table.empty()) {
    absl::StatusOr<IntegrityTable> read = ReadIntegrityTable(source, 1, header());
    if (!read.ok()) return read.status();
    integrity = *std::move(read);
  }
  return absl::OkStatus();
}

absl::StatusOr<ChunkBuffer> CommitSource::ReadMetadata(uint32_t index, OperationMonitor& monitor) const {
  const BlobTable::Metadata& metadata = blobs.metadata()[index - 1];
  absl::StatusOr<ChunkBuffer> bytes = ReadWholeResource(source, metadata.location, kMaxMetadataSize, monitor);
  if (!bytes.ok()) return bytes.status();
  if (Sha1::Of(bytes->span()) != metadata.hash) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the directory tree of image %d is damaged", source.part_name(1), index));
  }
  return bytes;
}

absl::Status CheckCommitIndex(const CommitSource& source, const std::string& name, uint32_t index, bool append) {
  const uint32_t count = source.image_count();
  if (index == 0 || index > count) {
    return MakeError(Reason::kInvalidImageIndex,
                     absl::StrFormat("%s holds the images 1 to %d, and not one of index %d", name, count, index));
  }
  if (append && count >= kMaxImagesOfFile) {
    return MakeError(Reason::kOutOfResources,
                     absl::StrFormat("%s holds %d images, and no more can be added", name, count));
  }
  return absl::OkStatus();
}

}  // namespace libmount
