// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice: what reaches the disk, and when space is given back.
//
//   sync n:   data | log | mark n into the log (on the disk with sync n + 1) | punch what was freed before sync n - 1
//
// A mark lets a replay go over groups without looking at their data. So what a group freed may go once a mark of that
// group, or of a later one, is on the disk: until then a replay after a power loss wants to see the data.

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/block/overlay_impl.h"

namespace libmount {
namespace {

constexpr uint64_t kRewriteFactor = 4;
// Freed space that waits for a sync; beyond it one is made.
constexpr uint64_t kMaxFreedBytes = uint64_t{128} << 20;
// What a replacement of this process has to read again; and the records for it.
constexpr uint64_t kMaxUnsyncedBytes = uint64_t{256} << 20;
constexpr uint64_t kMaxUnsyncedLog = uint64_t{8} << 20;

}  // namespace

int OverlayImpl::AppendNote(const EditWriter& edits) { return log_->Append({0, 0, 0, edits.bytes()}); }

int OverlayImpl::RewriteLog() {
  // The data first: what the new log says is on the disk.
  int error = arena_->Sync();
  if (error == 0) {
    error = log_->Replace([&](EditLog::Appender append) {
      mutex_.AssertHeld();
      DumpOverlay(state_, append);
    });
  }
  if (error != 0) {
    rewrite_at_ = log_->size() + rewrite_log_at_;  // disk full, most likely
    return error;
  }
  rewrite_at_ = std::max(rewrite_log_at_, log_->size() * kRewriteFactor);
  state_.marked_group = state_.last_group;
  unmarked_log_bytes_ = 0;
  unsynced_bytes_ = 0;
  return 0;
}

void OverlayImpl::Free(uint64_t slot, uint64_t count) {
  const ArenaRange range{slot * kClusterSize, count * kClusterSize};
  freed_bytes_ += range.length;
  if (!freed_.empty() && freed_.back().offset + freed_.back().length == range.offset) {
    freed_.back().length += range.length;
  } else {
    freed_.push_back(range);
  }
}

void OverlayImpl::Punch(std::vector<ArenaRange> ranges) {
  if (ranges.empty()) return;
  punches_.fetch_add(1, std::memory_order_seq_cst);
  arena_->Punch(std::move(ranges));
}

bool OverlayImpl::SyncIsDue() const {
  absl::MutexLock lock(&mutex_);
  return (freed_bytes_ > kMaxFreedBytes && snapshot_ == nullptr) || unsynced_bytes_ > kMaxUnsyncedBytes ||
         unmarked_log_bytes_ > kMaxUnsyncedLog;
}

int OverlayImpl::SyncOnce() {
  uint64_t group;
  uint64_t log_bytes;
  uint64_t data_bytes;
  bool mark_is_logged;
  std::vector<ArenaRange> freed;
  {
    absl::MutexLock lock(&mutex_);
    group = state_.last_group;
    log_bytes = std::exchange(unmarked_log_bytes_, 0);
    data_bytes = std::exchange(unsynced_bytes_, 0);
    mark_is_logged = state_.marked_group == group;
    freed = std::exchange(freed_, {});
    freed_bytes_ = 0;
  }
  // The data first: a log that is on the disk has its data there.
  int error = arena_->Sync();
  if (error == 0) error = log_->Sync();
  std::vector<ArenaRange> punchable;
  {
    absl::MutexLock lock(&mutex_);
    int mark_error = error;
    if (error == 0 && state_.marked_group < group) {
      EditWriter edits;
      edits.Number(static_cast<uint64_t>(OverlayRecord::kMark)).Number(group);
      mark_error = AppendNote(edits);
      if (mark_error == 0) state_.marked_group = group;
    }
    if (mark_error != 0) {
      unmarked_log_bytes_ += log_bytes;
      unsynced_bytes_ += data_bytes;
      for (const ArenaRange& range : freed) freed_bytes_ += range.length;
      freed_.insert(freed_.end(), freed.begin(), freed.end());
      freed.clear();
    }
    if (error != 0) return error;
    if (!mark_is_logged) {
      punchable = std::exchange(freed_before_sync_, std::move(freed));
    } else {
      punchable = std::exchange(freed_before_sync_, {});
      punchable.insert(punchable.end(), freed.begin(), freed.end());
    }
    if (snapshot_ != nullptr) {
      freed_before_sync_.insert(freed_before_sync_.end(), punchable.begin(), punchable.end());
      punchable.clear();
    }
  }
  Punch(std::move(punchable));
  return 0;
}

int OverlayImpl::Sync() {
  absl::MutexLock lock(&sync_mutex_);
  const uint64_t mine = ++syncs_wanted_;
  while (syncs_done_ < mine) {
    if (syncing_) {
      auto may_go_on = [this, mine]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mutex_) { return !syncing_ || syncs_done_ >= mine; };
      sync_mutex_.Await(absl::Condition(&may_go_on));
      continue;
    }
    // For all who have come by now.
    syncing_ = true;
    const uint64_t target = syncs_wanted_;
    sync_mutex_.Unlock();
    const int error = SyncOnce();
    sync_mutex_.Lock();
    syncing_ = false;
    syncs_done_ = std::max(syncs_done_, target);
    // What the disk has lost once stays lost, though the next sync would not say so.
    if (error != 0) sync_error_ = error;
  }
  return sync_error_;
}

}  // namespace libmount
