// SPDX-License-Identifier: GPL-3.0-or-later
//
// ContainerWriter: writes into the VHD, VHDX or raw file of a DiskImage: never into its parents.
//
// The file is a valid container for any tool at every moment, also after a crash or a power loss: a block's data are
// on the disk before the entry of the BAT that points to them (README.md draws the order). What is inside is between
// two states until Finish: after a crash, the same writes are done again, with a new DiskImage and a new writer, and
// the file ends as it would have without the crash. Space that the broken-off attempt took is used again.
//
//   DiskImage::SuspendWatch
//   ContainerWriter::Open, Write..., Finish
//   DiskImage::RenewWatch
//
// While it writes, the image's device() reads of what is written the old or the new; after Finish the new, so that what
// hides it, an overlay, can be let go.
//
// Thread safety: none; one owner. Reads of the image may go on all the while.

#ifndef LIBMOUNT_BLOCK_CONTAINER_WRITER_H_
#define LIBMOUNT_BLOCK_CONTAINER_WRITER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/monitor.h"
#include "libmount/block/container_file.h"
#include "libmount/block/disk_image.h"

namespace libmount {

class ContainerWriter {
 public:
  // `image` must outlive the writer; `file` is its own file, open for reading and writing. Writes nothing yet.
  // kImageChanged: not that file, or changed since the image was opened; kBadImageFormat: parts of the file overlap in
  // a way that reading can live with and writing cannot; kOutOfResources.
  static absl::StatusOr<std::unique_ptr<ContainerWriter>> Open(DiskImage& image, std::unique_ptr<ContainerFile> file,
                                                               OperationMonitor& monitor);

  virtual ~ContainerWriter() = default;

  // Any offset and length within the disk; ascending offsets and whole clusters are fastest. kDiskFull: no space (or
  // the format's end); the container is valid, and what was written before may be in it or not. After an error, only
  // destruction.
  virtual absl::Status Write(uint64_t offset, absl::Span<const char> data) = 0;

  // By how much the file would grow if that range, within one block, were written first of all: for estimates.
  virtual absl::StatusOr<uint64_t> GrowthFor(uint64_t offset, uint64_t length) { return 0; }

  // Everything written is in the file and on the disk. Without it (the writer is just destroyed) the container is
  // valid, and holds some of what was written.
  virtual absl::Status Finish() = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_CONTAINER_WRITER_H_
