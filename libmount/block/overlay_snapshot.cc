// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice: snapshots for a commit.
//
// A snapshot is a list of runs, in slots that exist: nothing is written to a slot twice, and nothing is punched while
// there is a snapshot. Slots are numbered upwards: what the snapshot has lies below `slots_end`, and what is written
// later lies above, which is how FinishCommit tells what may go.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "libmount/base/reason.h"
#include "libmount/block/overlay_impl.h"

namespace libmount {

class OverlayImpl::RunSnapshot final : public OverlayDevice::Snapshot {
 public:
  RunSnapshot(std::vector<Run> runs, uint64_t slots_end, const Arena* arena)
      : runs_(std::move(runs)), slots_end_(slots_end), arena_(arena) {
    for (const Run& run : runs_) bytes_ += run.length;
  }

  const std::vector<Run>& runs() const override { return runs_; }
  uint64_t bytes() const override { return bytes_; }
  int Read(const Run& run, uint64_t offset_in_run, absl::Span<char> out) const override {
    if (ended_ || offset_in_run > run.length || out.size() > run.length - offset_in_run) return EINVAL;
    return arena_->Read(run.staged_at + offset_in_run, out);
  }

  uint64_t slots_end() const { return slots_end_; }
  void End() { ended_ = true; }

 private:
  const std::vector<Run> runs_;
  const uint64_t slots_end_;
  const Arena* const arena_;
  uint64_t bytes_ = 0;
  std::atomic<bool> ended_ = false;
};

absl::StatusOr<std::shared_ptr<const OverlayDevice::Snapshot>> OverlayImpl::TakeSnapshot() {
  std::shared_ptr<RunSnapshot> snapshot;
  {
    OwnGroup own(this);
    absl::MutexLock lock(&mutex_);
    if (snapshot_ != nullptr) return absl::FailedPreconditionError("a commit is under way");
    std::vector<Run> runs;
    state_.map.VisitChanged([&](uint64_t cluster, ClusterMap::Entry entry) {
      const uint64_t offset = cluster * kClusterSize;
      const uint64_t staged_at = (entry - uint64_t{1}) * kClusterSize;
      const uint64_t length = std::min(kClusterSize, size_ - offset);
      if (!runs.empty() && runs.back().offset + runs.back().length == offset &&
          runs.back().staged_at + runs.back().length == staged_at) {
        runs.back().length += length;
      } else {
        runs.push_back({offset, length, staged_at});
      }
    });
    snapshot_ = snapshot = std::make_shared<RunSnapshot>(std::move(runs), arena_->end() / kClusterSize, arena_.get());
  }
  if (int error = Sync()) {
    AbandonCommit();
    return MakeErrnoError(Reason::kOutOfResources, error, "cannot sync the staging directory");
  }
  return std::shared_ptr<const Snapshot>(std::move(snapshot));
}

absl::Status OverlayImpl::NoteCommitBegun() {
  {
    absl::MutexLock lock(&mutex_);
    EditWriter edits;
    edits.Number(static_cast<uint64_t>(OverlayRecord::kCommitBegun));
    if (int error = AppendNote(edits)) {
      return MakeErrnoError(Reason::kOutOfResources, error,
                            "cannot note in the staging directory that a commit begins");
    }
    state_.commit_pending = true;
  }
  if (int error = Sync()) {
    return MakeErrnoError(Reason::kOutOfResources, error, "cannot note in the staging directory that a commit begins");
  }
  return absl::OkStatus();
}

absl::Status OverlayImpl::FinishCommit(std::string new_base_identity) {
  if (new_base_identity.size() > kMaxIdentity) {
    return MakeError(Reason::kUnspecified, "too long an identity of the disk");
  }
  int error;
  {
    OwnGroup own(this);
    absl::MutexLock lock(&mutex_);
    if (snapshot_ == nullptr) return absl::FailedPreconditionError("no commit is under way");
    EditWriter edits;
    edits.Number(static_cast<uint64_t>(OverlayRecord::kCommitted)).Number(snapshot_->slots_end());
    edits.Text(new_base_identity);
    error = AppendNote(edits);
    if (error == 0) {
      DropCommitted(state_.map, snapshot_->slots_end(), [&](uint64_t slot) {
        mutex_.AssertHeld();
        Free(slot, 1);
      });
      state_.commit_pending = false;
      state_.base_identity = std::move(new_base_identity);
    }
    snapshot_->End();
    snapshot_.reset();
  }
  if (error == 0) error = Sync();
  if (error == 0) error = Sync();  // gives the space back
  if (error == 0) return absl::OkStatus();
  return MakeErrnoError(Reason::kOutOfResources, error, "cannot note in the staging directory what was committed");
}

void OverlayImpl::AbandonCommit() {
  absl::MutexLock lock(&mutex_);
  if (snapshot_ != nullptr) snapshot_->End();
  snapshot_.reset();
}

}  // namespace libmount
