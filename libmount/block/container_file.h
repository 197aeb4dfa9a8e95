// SPDX-License-Identifier: GPL-3.0-or-later
//
// ContainerFile: how a ContainerWriter changes the file of a disk image. A border, so that tests can say what a crash
// or a power loss at any moment would leave.

#ifndef LIBMOUNT_BLOCK_CONTAINER_FILE_H_
#define LIBMOUNT_BLOCK_CONTAINER_FILE_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"

namespace libmount {

class ContainerFile {
 public:
  virtual ~ContainerFile() = default;

  // Each: 0 or an errno.
  virtual int Write(uint64_t offset, absl::Span<const char> data) = 0;  // all of it
  virtual int Resize(uint64_t size) = 0;                                // what is new reads as zeros
  virtual int Sync() = 0;  // everything before is on the disk, the file's size too

  virtual int descriptor() const = 0;  // of the file itself, to be examined and read
};

std::unique_ptr<ContainerFile> MakeContainerFile(UniqueFd fd);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_CONTAINER_FILE_H_
