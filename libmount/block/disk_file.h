// SPDX-License-Identifier: GPL-3.0-or-later
//
// DiskFile: one file of a disk image, read with pread and watched for changes made by others, as WimSource does it.
//
// Thread safety: const methods may be called from any number of threads, and none waits for another's read.

#ifndef LIBMOUNT_BLOCK_DISK_FILE_H_
#define LIBMOUNT_BLOCK_DISK_FILE_H_

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/file_watch.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/file_patches.h"

namespace libmount {

class DiskFile {
 public:
  // kBadImageFormat: not a regular file.
  static absl::StatusOr<std::unique_ptr<DiskFile>> Open(UniqueFd fd, std::string name);

  const std::string& name() const { return name_; }
  // When it was opened; with a replayed log: as the log leaves it.
  uint64_t size() const { return size_; }
  dev_t device() const { return device_; }
  ino_t inode() const { return inode_; }

  // Fills `out`. 0, or EIO: beyond the end, the disk failed, or the file was changed by others (from then on always).
  int Read(uint64_t offset, absl::Span<char> out) const;
  // The same, with words: `what` is being read. kBadImageFormat: beyond the end.
  absl::Status ReadPart(uint64_t offset, absl::Span<char> out, const char* what) const;

  // Between these two, reads do not look whether the file was changed. Calls nest. RenewWatch takes the file as it is
  // then for what it should be.
  void SuspendWatch() const { watch_.Suspend(); }
  void RenewWatch() const { watch_.Renew(); }
  absl::Status CheckUnchanged() const;
  bool changed() const { return watch_.changed(); }

  // A replayed log. REQUIRES: set once, before threads read.
  void SetPatches(std::unique_ptr<FilePatches> patches);
  // Null: none. Lives as long as the file.
  const FilePatches* patches() const { return patches_.load(std::memory_order_acquire); }
  // Once they are written to the file itself. Reads that are under way may still use them.
  void DropPatches() { patches_.store(nullptr, std::memory_order_release); }

 private:
  DiskFile(UniqueFd fd, std::string name, const struct stat& facts);
  int ReadRaw(uint64_t offset, absl::Span<char> out, size_t* done) const;
  absl::Status ChangedError() const;

  const UniqueFd fd_;
  const std::string name_;
  const dev_t device_;
  const ino_t inode_;
  uint64_t size_;
  mutable FileWatch watch_;

  std::unique_ptr<FilePatches> owned_patches_;
  std::atomic<const FilePatches*> patches_ = nullptr;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_DISK_FILE_H_
