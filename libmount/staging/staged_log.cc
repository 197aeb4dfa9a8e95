// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: how a change gets into the log and onto the disk, and freed space back.

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/staging/staged_tree_impl.h"

namespace libmount {
namespace {

// See kMinRewriteSize.
constexpr uint64_t kMinRewriteSize = uint64_t{64} << 20;
constexpr uint64_t kRewriteFactor = 4;
// Freed space that waits for a sync; beyond it one is made.
constexpr uint64_t kMaxFreedBytes = uint64_t{256} << 20;

}  // namespace

const Catalog::Outcome* StagedTreeImpl::Repeated(const Request& request, Operation operation) const {
  const Catalog::Outcome* outcome = catalog_.FindOutcome(request.id);
  return outcome != nullptr && outcome->operation == static_cast<uint32_t>(operation) ? outcome : nullptr;
}

ErrnoOr<NodeAttributes> StagedTreeImpl::RepeatedNode(const Catalog::Outcome& outcome) const {
  return AttributesLocked(outcome.result);
}

int StagedTreeImpl::Commit(uint64_t request, Operation operation, uint64_t outcome, const EditWriter& edits) {
  EditLog::Record record;
  record.request = request;
  record.operation = static_cast<uint32_t>(operation);
  record.outcome = outcome;
  record.edits = edits.bytes();
  if (record.edits.size() > EditLog::kMaxEdits) return EFBIG;
  int error = log_->Append(record);
  if (IsOutOfSpace(error)) {
    arena_->GiveBackAllAhead();
    error = log_->Append(record);
  }
  if (error != 0) return error;
  const uint64_t number = catalog_.last_change() + (operation == Operation::kInternal ? 0 : 1);
  if (!catalog_.Apply(record.edits, number)) return EIO;  // cannot be: see Catalog::Apply
  catalog_.Remember(request, {record.operation, outcome});
  for (const ArenaRange& range : catalog_.TakeFreed()) {
    freed_.push_back(range);
    freed_bytes_ += range.length;
  }
  if (log_->size() >= rewrite_at_) RewriteLog();
  return 0;
}

int StagedTreeImpl::RewriteLog() {
  SecurityTable table;
  // The data first: what the log says will be on the disk.
  int error = arena_->Sync();
  if (error == 0) {
    error = log_->Replace([&](EditLog::Appender append) {
      mutex_.AssertHeld();
      table = catalog_.Dump([&](std::string_view edits) { append({0, 0, 0, edits}); });
    });
  }
  if (error == 0) {
    catalog_.SetSecurityTable(std::move(table));
    rewrite_at_ = std::max(kMinRewriteSize, log_->size() * kRewriteFactor);
  } else {
    rewrite_at_ = log_->size() + kMinRewriteSize;  // disk full, most likely: the old one does as well
  }
  return error;
}

std::vector<ArenaRange> StagedTreeImpl::TakePunchable() {
  if (frozen_ != nullptr) return {};
  freed_bytes_ = 0;
  return std::exchange(freed_, {});
}

void StagedTreeImpl::ReclaimSpace(bool now) {
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (freed_.empty() || (!now && freed_bytes_ < kMaxFreedBytes)) return;
  }
  std::vector<ArenaRange> ranges;
  {
    absl::MutexLock lock(&mutex_);
    ranges = TakePunchable();
  }
  if (ranges.empty()) return;
  if (log_->Sync() == 0) {
    arena_->Punch(std::move(ranges));
    return;
  }
  absl::MutexLock lock(&mutex_);
  freed_.insert(freed_.end(), ranges.begin(), ranges.end());
}

int StagedTreeImpl::Sync() {
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
    std::vector<ArenaRange> ranges;
    {
      absl::MutexLock catalog_lock(&mutex_);
      ranges = TakePunchable();
    }
    // The data first: a log that is on the disk has its data there.
    int error = arena_->Sync();
    if (error == 0) error = log_->Sync();
    if (error == 0) {
      arena_->Punch(std::move(ranges));
    } else {
      absl::MutexLock catalog_lock(&mutex_);
      freed_.insert(freed_.end(), ranges.begin(), ranges.end());
    }
    sync_mutex_.Lock();
    syncing_ = false;
    syncs_done_ = std::max(syncs_done_, target);
    if (error != 0) sync_error_ = error;
  }
  return sync_error_;
}

}  // namespace libmount
