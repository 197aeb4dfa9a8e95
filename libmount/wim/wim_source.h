// SPDX-License-Identifier: GPL-3.0-or-later
//
// WimSource: the file or files of a WIM, read with pread, watched for changes made by others.
//
// A commit of our own (of this mount, or of another one of the same file) only appends, and so leaves in place what
// was read here. It is announced: SuspendWatch before its first write, RenewWatch after its last.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_WIM_WIM_SOURCE_H_
#define LIBMOUNT_WIM_WIM_SOURCE_H_

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"

namespace libmount {

class WimSource {
 public:
  WimSource() = default;
  WimSource(const WimSource&) = delete;
  WimSource& operator=(const WimSource&) = delete;

  // Adds the next part (the first call: part 1). kBadImageFormat: not a regular file.
  absl::Status AddPart(UniqueFd fd, std::string name);

  uint16_t part_count() const { return static_cast<uint16_t>(parts_.size()); }
  // REQUIRES: 1 <= part <= part_count().
  uint64_t part_size(uint16_t part) const { return parts_[part - 1].size; }
  const std::string& part_name(uint16_t part) const { return parts_[part - 1].name; }
  int part_fd(uint16_t part) const { return parts_[part - 1].fd.get(); }

  // Fills `out` from `offset` of a part. After the read, size, mtime and ctime of the file are compared with those at
  // AddPart: kImageChanged when they differ (or the file is now shorter), and from then on for every read.
  absl::Status Read(uint16_t part, uint64_t offset, absl::Span<char> out) const;

  // Between these two, reads do not look whether the file was changed. Calls may nest. RenewWatch takes the file as it
  // is then for what it should be.
  void SuspendWatch() const ABSL_LOCKS_EXCLUDED(mutex_);
  void RenewWatch() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Looks now; as Read does after each read.
  absl::Status CheckUnchanged() const;
  // Lets the system read from the disk ahead of Read.
  void WillNeed(uint16_t part, uint64_t offset, uint64_t size) const;

  // True once a read has found the file changed.
  bool changed() const { return changed_.load(std::memory_order_relaxed); }

 private:
  struct Part {
    UniqueFd fd;
    std::string name;
    uint64_t size = 0;  // when it was added: what is read lies within
  };
  // What tells a file from one that was changed.
  struct State {
    uint64_t size = 0;
    timespec modification_time = {};
    timespec change_time = {};
  };

  static State StateOf(const struct stat& facts);
  absl::Status CheckUnchanged(size_t part_index) const ABSL_LOCKS_EXCLUDED(mutex_);

  std::vector<Part> parts_;
  mutable absl::Mutex mutex_;
  mutable std::vector<State> expected_ ABSL_GUARDED_BY(mutex_);  // of each part
  mutable int suspended_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable std::atomic<bool> changed_ = false;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_SOURCE_H_
