// SPDX-License-Identifier: GPL-3.0-or-later
//
// FileWatch: whether a file that is read is still the one that was opened.
//
// Size and mtime tell. A change of ctime alone is what chmod, chown, setxattr, link and rename leave, and what somebody
// leaves who wrote to the file and put its mtime back. So the first reads of the file, those that everything else
// follows from (headers, tables, the start of the volume), are noted by checksum: where they read the same again and
// the file still has a name, the new ctime is taken for what it should be. Otherwise the file is a changed one, for
// good.
//
// Thread safety: all functions may be called from any number of threads; none waits for another's read.

#ifndef LIBMOUNT_BASE_FILE_WATCH_H_
#define LIBMOUNT_BASE_FILE_WATCH_H_

#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace libmount {

class FileWatch {
 public:
  // What is noted at most: the tables of an image of half a million files.
  static constexpr size_t kMaxNotes = 256;
  static constexpr uint64_t kMaxNotedBytes = uint64_t{32} << 20;

  // `facts`: the file's as of now. `fd` outlives the object.
  FileWatch(int fd, const struct stat& facts);
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Around a read of the file: Note(Epoch as it was before the read, where, what was read).
  uint64_t Epoch() const { return epoch_.load(std::memory_order_acquire); }
  void Note(uint64_t epoch, uint64_t offset, absl::Span<const char> bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  // Between these two, changes are our own and not looked for. Calls nest. Renew takes the file as it is then for what
  // it should be.
  void Suspend() ABSL_LOCKS_EXCLUDED(mutex_);
  void Renew() ABSL_LOCKS_EXCLUDED(mutex_);

  // Looks now. Once false, always false.
  bool Unchanged() ABSL_LOCKS_EXCLUDED(mutex_);
  bool changed() const { return changed_.load(std::memory_order_relaxed); }

 private:
  // Access time is left out: our own reads change it.
  struct State {
    int64_t size = 0;
    int64_t modification_time = 0;  // nanoseconds, as the other one
    int64_t change_time = 0;
    bool has_name = false;
  };
  struct NotedRead {
    uint64_t offset;
    uint32_t size;
    uint32_t crc;
  };
  enum class Difference { kNone, kChangeTimeOnly, kMore };

  static State StateOf(const struct stat& facts);
  Difference Compare(State* now) const;
  void Expect(const State& state);
  bool ReadsTheSame() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OnlyAttributesChanged() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int fd_;
  absl::Mutex mutex_;  // held to change what is expected, and to look again when a look without it found a difference
  std::atomic<int> suspended_ = 0;
  std::atomic<uint64_t> epoch_ = 0;  // changes with Suspend and Renew
  std::atomic<int64_t> expected_size_;
  std::atomic<int64_t> expected_modification_time_;
  std::atomic<int64_t> expected_change_time_;
  std::atomic<bool> expected_name_;
  std::atomic<bool> changed_ = false;
  std::atomic<bool> noting_ = true;
  std::vector<NotedRead> noted_ ABSL_GUARDED_BY(mutex_);
  uint64_t noted_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BASE_FILE_WATCH_H_
