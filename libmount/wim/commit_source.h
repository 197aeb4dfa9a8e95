// SPDX-License-Identifier: GPL-3.0-or-later
//
// CommitSource: a file as it is before a commit or a rebuild, with all its tables; and what both need besides.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_COMMIT_SOURCE_H_
#define LIBMOUNT_WIM_COMMIT_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/tree/windows.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/image_metadata.h"
#include "libmount/wim/integrity.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

// Fields of the header that a commit changes.
inline constexpr size_t kHeaderFlagsAt = 0x10;
inline constexpr size_t kHeaderChunkSizeAt = 0x14;
inline constexpr size_t kHeaderImageCountAt = 0x2c;
inline constexpr size_t kHeaderBlobTableAt = 0x30;
inline constexpr size_t kHeaderXmlAt = 0x48;
inline constexpr size_t kHeaderBootMetadataAt = 0x60;
inline constexpr size_t kHeaderIntegrityTableAt = 0x7c;

inline constexpr uint64_t kMaxBlobTableSize = uint64_t{16 << 20} * 50;  // as BlobTable reads
inline constexpr uint32_t kMaxImagesOfFile = 1 << 16;

struct CommitSource {
  // Reads header, blob table, XML and integrity table. kImageReadOnly (pipable, READONLY flag), kSplitImage,
  // kSolidImage, kImageInUse (WRITE_IN_PROGRESS), kBadImageFormat, kCancelled. The object must not be moved.
  absl::Status Load(int fd, const std::string& name, OperationMonitor& monitor);

  // The bytes of an image's metadata resource, whose SHA-1 was compared. REQUIRES: 1 <= index <= image_count().
  absl::StatusOr<ChunkBuffer> ReadMetadata(uint32_t index, OperationMonitor& monitor) const;

  const WimHeader& header() const { return headers[0]; }
  uint32_t image_count() const { return static_cast<uint32_t>(blobs.metadata().size()); }

  WimSource source;
  uint64_t size = 0;
  std::vector<WimHeader> headers;  // one
  std::string header_bytes;
  BlobTable blobs;
  std::string table;
  std::string xml;
  std::optional<IntegrityTable> integrity;

 private:
  absl::Status CheckWritable(const std::string& name) const;
};

// kInvalidImageIndex; kOutOfResources: there is no room for one more image.
absl::Status CheckCommitIndex(const CommitSource& source, const std::string& name, uint32_t index, bool append);

// kOutOfResources: no space for what was written before.
absl::Status SyncData(int fd, const std::string& name);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_COMMIT_SOURCE_H_
