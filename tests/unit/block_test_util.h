// SPDX-License-Identifier: GPL-3.0-or-later
//
// Opens disk images for tests by path, makes them with qemu-img, and compares them with raw files.

#ifndef TESTS_UNIT_BLOCK_TEST_UTIL_H_
#define TESTS_UNIT_BLOCK_TEST_UTIL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/disk_image.h"

namespace libmount {

// A directory that is removed with all that is in it.
class DiskDirectory {
 public:
  DiskDirectory();
  ~DiskDirectory();
  DiskDirectory(const DiskDirectory&) = delete;
  DiskDirectory& operator=(const DiskDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// Runs a command with its output swallowed; its exit status, and what it said in `output`.
int RunCommand(const std::string& command, std::string* output = nullptr);

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, bool writable = false);
std::string ReadWholeFile(const std::string& path);
void WriteWholeFile(const std::string& path, std::string_view bytes);

// Parents are looked for beneath the image's directory.
absl::StatusOr<std::unique_ptr<DiskImage>> OpenDisk(const std::string& path, bool may_be_raw = false);

// SHA-256 of the whole disk, in hex, read in pieces of odd sizes; the errno where a read fails.
std::string HashOf(const BlockDevice& device);

// Fails the test where libvhdi (its tool vhdiinfo) tells another type, size, identifier or parent of the image.
void CompareWithLibvhdi(const std::string& path);

// All bytes of the disk. REQUIRES: it is small.
std::string Contents(const BlockDevice& device);

// A file of random clusters with holes, written in one go: what a disk is made from.
void MakeRawDisk(const std::string& path, uint64_t size, uint32_t seed);

}  // namespace libmount

#endif  // TESTS_UNIT_BLOCK_TEST_UTIL_H_
