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

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
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
  void SuspendWatch() const ABSL_LOCKS_EXCLUDED(mutex_);
  void RenewWatch() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckUnchanged() const;
  bool changed() const { return changed_.load(std::memory_order_relaxed); }

  // A replayed log. REQUIRES: set once, before threads read.
  void SetPatches(std::unique_ptr<FilePatches> patches);
  // Null: none. Lives as long as the file.
  const FilePatches* patches() const { return patches_.load(std::memory_order_acquire); }
  // Once they are written to the file itself. Reads that are under way may still use them.
  void DropPatches() { patches_.store(nullptr, std::memory_order_release); }

 private:
  // What tells a file from one that was changed: size and times, in nanoseconds.
  struct State {
    explicit State(const struct stat& facts);
    bool operator==(const State&) const = default;
    int64_t size;
    int64_t modification_time;
    int64_t change_time;
  };

  DiskFile(UniqueFd fd, std::string name, const struct stat& facts);
  bool Unchanged() const ABSL_LOCKS_EXCLUDED(mutex_);
  void Expect(const State& state) const;
  int ReadRaw(uint64_t offset, absl::Span<char> out, size_t* done) const;
  absl::Status ChangedError() const;

  const UniqueFd fd_;
  const std::string name_;
  const dev_t device_;
  const ino_t inode_;
  uint64_t size_;

  std::unique_ptr<FilePatches> owned_patches_;
  std::atomic<const FilePatches*> patches_ = nullptr;

  mutable absl::Mutex mutex_;  // held to change these, and to look again when a look without it found a difference
  mutable std::atomic<int> suspended_ = 0;
  mutable std::atomic<int64_t> expected_size_;
  mutable std::atomic<int64_t> expected_modification_time_;
  mutable std::atomic<int64_t> expected_change_time_;
  mutable std::atomic<bool> changed_ = false;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_DISK_FILE_H_
