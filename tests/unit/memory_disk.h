// SPDX-License-Identifier: GPL-3.0-or-later
//
// MemoryDisk: a disk that is a string.

#ifndef TESTS_UNIT_MEMORY_DISK_H_
#define TESTS_UNIT_MEMORY_DISK_H_

#include <errno.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "libmount/block/block_device.h"

namespace libmount {

class MemoryDisk : public BlockDevice {
 public:
  explicit MemoryDisk(std::string bytes, uint32_t sector_size = 512)
      : bytes_(std::move(bytes)), sector_size_(sector_size) {}

  uint64_t size() const override { return bytes_.size(); }
  uint32_t sector_size() const override { return sector_size_; }
  int Read(uint64_t offset, absl::Span<char> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return EINVAL;
    std::copy_n(bytes_.data() + offset, out.size(), out.data());
    return 0;
  }

 private:
  std::string bytes_;
  uint32_t sector_size_;
};

}  // namespace libmount

#endif  // TESTS_UNIT_MEMORY_DISK_H_
