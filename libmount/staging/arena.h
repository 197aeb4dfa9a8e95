// SPDX-License-Identifier: GPL-3.0-or-later
//
// Arena: the file that holds staged data. Space is handed out once and never again: what is freed is punched out of the
// file, once the log that frees it is on the disk (else a power loss would bring a file back without its data).
//
// Blocks of 4 KiB belong to one stream. A stream that grows gets its space ahead, so that its extents stay few; a large
// one has it reserved in the file, too: writing there takes half the time that it takes where the file system has to
// look for space with each write.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_STAGING_ARENA_H_
#define LIBMOUNT_STAGING_ARENA_H_

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/staging/extent_map.h"
#include "libmount/staging/staging_files.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class Arena {
 public:
  static constexpr uint64_t kBlockSize = 4096;
  // Of the arena file. A log that says more is damaged.
  static constexpr uint64_t kMaxSize = uint64_t{1} << 60;

  explicit Arena(std::unique_ptr<StagingFile> file) : file_(std::move(file)) {}

  // Space of `bytes` at most, behind `follows` (where the stream's data before it ends; Extent::kZeros: nowhere), where
  // that is kept for it. `size`: the stream's, from which follows how much is kept ahead. Empty: the arena is full.
  ArenaRange Allocate(NodeId stream, uint64_t follows, uint64_t bytes, uint64_t size);

  // Fills `out`; what the file does not have (it was lost with the power) is zeros.
  int Read(uint64_t offset, absl::Span<char> out) const;
  int Write(uint64_t offset, absl::Span<const char> data) { return file_->Write(offset, data); }
  int Reserve(uint64_t offset, uint64_t length) { return file_->Reserve(offset, length); }
  // What is reserved ahead goes back: of a stream that grows no more, as it seems; of all, where space is needed.
  void GiveBackAhead(NodeId stream);
  void GiveBackAllAhead();
  int Sync() { return file_->Sync(); }

  // Takes whole blocks within the ranges out of the file. Failures only cost space.
  void Punch(std::vector<ArenaRange> ranges);
  // From here on allocates behind what there is. Gives back what is not in `used`.
  // REQUIRES: nobody allocates meanwhile.
  std::vector<ArenaRange> TakeOver(std::vector<ArenaRange> used);
  // The same, and punches that.
  void KeepOnly(std::vector<ArenaRange> used) { Punch(TakeOver(std::move(used))); }
  // Where what was never allocated begins.
  uint64_t end() const {
    absl::MutexLock lock(&mutex_);
    return end_;
  }

 private:
  // Space kept for a stream behind what it has. A few streams grow at once; others lose theirs to the next.
  struct Ahead {
    NodeId stream = 0;
    uint64_t at = 0;
    uint64_t left = 0;
    bool reserved = false;
  };
  static constexpr size_t kAheadSlots = 64;

  void GiveBack(Ahead& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<StagingFile> file_;
  mutable absl::Mutex mutex_;
  uint64_t end_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<Ahead, kAheadSlots> ahead_ ABSL_GUARDED_BY(mutex_);
};

// The blocks that hold the range: all of them are free where a stream is gone as a whole.
ArenaRange WholeBlocks(const ArenaRange& range);

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_ARENA_H_
