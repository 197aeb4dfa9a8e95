// SPDX-License-Identifier: GPL-3.0-or-later
//
// What tests of the overlay share: a disk in memory, and random groups of writes with what they lead to.

#ifndef TESTS_UNIT_OVERLAY_TEST_UTIL_H_
#define TESTS_UNIT_OVERLAY_TEST_UTIL_H_

#include <algorithm>
#include <cerrno>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "libmount/block/overlay.h"
#include "tests/unit/staging_memory_files.h"

namespace libmount {

inline std::string RandomBytes(std::mt19937& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// The disk beneath.
class MemoryDevice final : public BlockDevice {
 public:
  explicit MemoryDevice(std::string content) : content_(std::move(content)) {}

  uint64_t size() const override { return content_.size(); }
  uint32_t sector_size() const override { return 512; }
  int Read(uint64_t offset, absl::Span<char> out) const override {
    if (offset > content_.size() || out.size() > content_.size() - offset) return EINVAL;
    content_.copy(out.data(), out.size(), offset);
    return 0;
  }
  std::string& content() { return content_; }

 private:
  std::string content_;
};

inline std::string Content(const BlockDevice& device) {
  std::string content(device.size(), '?');
  const int error = device.Read(0, absl::MakeSpan(content));
  return error == 0 ? content : "error " + std::to_string(error);
}

// One group, the same each time for a seed; some are given up.
struct RandomGroup {
  struct OneWrite {
    uint64_t offset;
    std::string data;
  };
  std::vector<OneWrite> writes;
  bool given_up = false;

  RandomGroup(uint64_t disk_size, uint32_t seed) {
    std::mt19937 random(seed);
    given_up = random() % 8 == 0;
    const int count = 1 + static_cast<int>(random() % 6);
    for (int i = 0; i < count; ++i) {
      uint64_t size = 1 + random() % 700;
      if (random() % 4 == 0) size = (1 + random() % 3) * OverlayDevice::kClusterSize;
      if (random() % 8 == 0) size = (16 + random() % 20) * OverlayDevice::kClusterSize + random() % 2 * 100;
      uint64_t offset = random() % (disk_size - size + 1);
      if (random() % 3 == 0) offset = disk_size - size;
      if (size >= OverlayDevice::kClusterSize && random() % 4 != 0) offset -= offset % OverlayDevice::kClusterSize;
      writes.push_back({offset, RandomBytes(random, size)});
    }
  }

  // On the device; 0 or what it failed with. Reads what it wrote.
  int Run(OverlayDevice& device, uint64_t request) const {
    device.Begin(request);
    for (const OneWrite& write : writes) {
      if (device.Write(write.offset, write.data) != 0) break;
      std::string back(write.data.size(), '?');
      EXPECT_EQ(device.Read(write.offset, absl::MakeSpan(back)), 0);
      EXPECT_EQ(back, write.data);
    }
    if (given_up) {
      device.Abort();
      return 0;
    }
    return device.End({static_cast<uint32_t>(request % 100), request * 3});
  }

  void Apply(std::string& model) const {
    if (given_up) return;
    for (const OneWrite& write : writes) model.replace(write.offset, write.data.size(), write.data);
  }
};

inline absl::StatusOr<std::unique_ptr<OverlayDevice>> TryOpenOverlay(std::shared_ptr<MemoryDisk> disk,
                                                                     const BlockDevice& base,
                                                                     const OverlayOptions& options = {}) {
  return OverlayDevice::OpenOn(std::make_unique<MemoryFiles>(std::move(disk)), &base, options);
}

inline std::unique_ptr<OverlayDevice> OpenOverlay(std::shared_ptr<MemoryDisk> disk, const BlockDevice& base,
                                                  const OverlayOptions& options = {}) {
  auto device = TryOpenOverlay(std::move(disk), base, options);
  EXPECT_TRUE(device.ok()) << device.status();
  return device.ok() ? *std::move(device) : nullptr;
}

}  // namespace libmount

#endif  // TESTS_UNIT_OVERLAY_TEST_UTIL_H_
