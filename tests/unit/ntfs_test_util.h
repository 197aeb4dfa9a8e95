// SPDX-License-Identifier: GPL-3.0-or-later
//
// NTFS volumes for tests: made by mkntfs on a file, filled through libntfs-3g's own device, read back by the tree.

#ifndef TESTS_UNIT_NTFS_TEST_UTIL_H_
#define TESTS_UNIT_NTFS_TEST_UTIL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/base/unique_fd.h"
#include "libmount/block/block_device.h"
#include "libmount/ntfs/library.h"
#include "libmount/ntfs/ntfs_tree.h"

namespace libmount {

// A directory that is removed with all that is in it.
class TestDirectory {
 public:
  TestDirectory();
  ~TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// A raw file as a disk.
class FileDevice final : public WritableBlockDevice {
 public:
  explicit FileDevice(const std::string& path, bool writable = false, uint32_t sector_size = 512);
  uint64_t size() const override { return size_; }
  uint32_t sector_size() const override { return sector_size_; }
  int Read(uint64_t offset, absl::Span<char> out) const override;
  int Write(uint64_t offset, absl::Span<const char> data) override;
  int Sync() override { return 0; }

  uint64_t writes() const { return writes_; }
  // From now on writes fail.
  void FailWrites(int error) { write_error_ = error; }

 private:
  UniqueFd fd_;
  uint64_t size_ = 0;
  uint32_t sector_size_;
  std::atomic<uint64_t> writes_ = 0;
  std::atomic<int> write_error_ = 0;
};

// Makes a file of `size` bytes and an NTFS volume in it. Fails the test where that cannot be done.
void MakeVolume(const std::string& path, uint64_t size, uint32_t sector_size = 512, uint32_t cluster_size = 4096,
                const std::string& more_options = "");

// A volume mounted by the library itself, to put into it what mkntfs does not. Closed when it is destroyed.
class VolumeFiller {
 public:
  explicit VolumeFiller(const std::string& path);
  ~VolumeFiller();
  VolumeFiller(const VolumeFiller&) = delete;
  VolumeFiller& operator=(const VolumeFiller&) = delete;

  // Paths begin with a slash. Each fails the test where it cannot be done.
  void MakeDirectory(const std::string& path);
  void MakeFile(const std::string& path, std::string_view content = {});
  void MakeLink(const std::string& path, const std::string& new_path);
  void WriteStream(const std::string& path, const std::string& stream, std::string_view content, uint64_t offset = 0);
  void Resize(const std::string& path, uint64_t size);
  void Change(const std::string& path, const std::function<void(ntfs_inode*, ntfs_inode* parent)>& change);
  void SetShortName(const std::string& path, const std::string& name);
  void SetReparsePoint(const std::string& path, uint32_t tag, std::string_view data);

 private:
  ntfs_inode* Open(const std::string& path);
  ntfs_inode* Make(const std::string& path, mode_t type);
  ntfs_volume* volume_ = nullptr;
};

// UTF-16 of ASCII.
std::u16string Utf16(std::string_view ascii);
// The data of a symbolic link of Windows.
std::string SymlinkData(std::string_view target, bool relative);
std::string JunctionData(std::string_view target);

std::string RandomBytes(size_t size, uint32_t seed);
std::string Sha1(std::string_view bytes);

// What a command writes to its standard output; fails the test where it does not end with 0.
std::string RunCommand(const std::string& command);

// --- a tree, seen as paths
NodeId Find(const FileTree& tree, const std::string& path);  // 0: not there
std::string ReadAll(const FileTree& tree, NodeId node, size_t step = 128 << 10);
struct Seen {
  NodeAttributes attributes;
  std::string content;  // of files, or a link's target; "error N"
};
// Everything below the root, by path.
std::map<std::string, Seen> Walk(const FileTree& tree);
std::vector<std::string> List(const FileTree& tree, NodeId directory);

}  // namespace libmount

#endif  // TESTS_UNIT_NTFS_TEST_UTIL_H_
