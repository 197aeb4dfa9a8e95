// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/operation.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "daemon/front/errors.h"
#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::Phase;

struct Span {
  Phase phase;
  uint32_t from;
  uint32_t to;
};

// Opening and reading metadata are quick beside a check of every byte.
constexpr Span kMountSpans[] = {
    {Phase::kOpening, 0, 30}, {Phase::kReadingMetadata, 30, 80}, {Phase::kMounting, 80, 99}};
constexpr Span kCheckedMountSpans[] = {{Phase::kOpening, 0, 3},
                                       {Phase::kReadingMetadata, 3, 10},
                                       {Phase::kCheckingIntegrity, 10, 95},
                                       {Phase::kMounting, 95, 99}};
constexpr Span kUnmountSpans[] = {{Phase::kUnmounting, 0, 99}};
constexpr Span kCommittingUnmountSpans[] = {
    {Phase::kUnmounting, 0, 5}, {Phase::kWaiting, 5, 5}, {Phase::kCommitting, 5, 99}, {Phase::kRebuilding, 5, 99}};
constexpr Span kCommitSpans[] = {{Phase::kWaiting, 0, 1}, {Phase::kCommitting, 1, 99}, {Phase::kRebuilding, 1, 99}};
constexpr Span kRemountSpans[] = {{Phase::kOpening, 0, 20},
                                  {Phase::kReadingMetadata, 20, 50},
                                  {Phase::kRecovering, 50, 80},
                                  {Phase::kMounting, 80, 99}};
constexpr uint32_t kTotal = 100;

template <size_t kCount>
uint32_t Position(const Span (&spans)[kCount], const libmount::ProgressUpdate& update) {
  for (const Span& span : spans) {
    if (span.phase != update.phase) continue;
    if (update.bytes_total == 0) return span.from;
    double share = std::min(1.0, static_cast<double>(update.bytes_done) / static_cast<double>(update.bytes_total));
    return span.from + static_cast<uint32_t>(share * (span.to - span.from));
  }
  return 0;
}

uint32_t Position(ProgressPlan plan, const libmount::ProgressUpdate& update) {
  switch (plan) {
    case ProgressPlan::kMount: return Position(kMountSpans, update);
    case ProgressPlan::kMountWithIntegrityCheck: return Position(kCheckedMountSpans, update);
    case ProgressPlan::kUnmount: return Position(kUnmountSpans, update);
    case ProgressPlan::kCommittingUnmount: return Position(kCommittingUnmountSpans, update);
    case ProgressPlan::kCommit: return Position(kCommitSpans, update);
    case ProgressPlan::kRemount: return Position(kRemountSpans, update);
  }
  return 0;
}

void SetOutcome(const absl::Status& outcome, absl::Time end, v1::Operation* state) {
  SetTimestamp(end, state->mutable_end_time());
  if (outcome.ok()) {
    state->set_state(v1::OPERATION_STATE_SUCCEEDED);
    state->mutable_progress()->set_current(kTotal);
    return;
  }
  bool cancelled = libmount::ReasonOf(outcome) == libmount::Reason::kCancelled;
  state->set_state(cancelled ? v1::OPERATION_STATE_CANCELLED : v1::OPERATION_STATE_FAILED);
  *state->mutable_error() = ToOperationError(outcome);
}

}  // namespace

Operation::Operation(std::string id, v1::OperationKind kind, uint32_t owner, ProgressPlan plan,
                     PublishLater publish_later)
    : id_(std::move(id)), owner_(owner), plan_(plan), publish_later_(std::move(publish_later)), resumed_(false) {
  absl::MutexLock lock(&mutex_);
  state_.set_operation_id(id_);
  state_.set_kind(kind);
  state_.set_state(v1::OPERATION_STATE_RUNNING);
  state_.mutable_progress()->set_total(kTotal);
  SetTimestamp(absl::Now(), state_.mutable_start_time());
  MakeSnapshot(true);
}

Operation::Operation(const v1::Operation& left, uint32_t owner, ProgressPlan plan, PublishLater publish_later)
    : id_(left.operation_id()), owner_(owner), plan_(plan), publish_later_(std::move(publish_later)), resumed_(true) {
  absl::MutexLock lock(&mutex_);
  state_ = left;
  if (left.state() != v1::OPERATION_STATE_RUNNING) {
    end_time_ = absl::FromUnixSeconds(left.end_time().seconds());
    if (left.has_error()) outcome_ = FromOperationError(left.error());
  }
  MakeSnapshot(true);
}

Operation::Snapshot Operation::snapshot() const {
  absl::MutexLock lock(&mutex_);
  return published_;
}

bool Operation::ended() const {
  absl::MutexLock lock(&mutex_);
  return state_.state() != v1::OPERATION_STATE_RUNNING;
}

absl::Time Operation::end_time() const {
  absl::MutexLock lock(&mutex_);
  return end_time_;
}

absl::Status Operation::outcome() const {
  absl::MutexLock lock(&mutex_);
  return outcome_;
}

void Operation::AddWatch(std::shared_ptr<Watch> watch) {
  absl::MutexLock lock(&mutex_);
  watches_.push_back(std::move(watch));
}

void Operation::RemoveWatch(const std::shared_ptr<Watch>& watch) {
  absl::MutexLock lock(&mutex_);
  watches_.remove(watch);
}

bool Operation::Cancel() {
  std::function<void()> on_cancel;
  {
    absl::MutexLock lock(&mutex_);
    if (past_return_ || state_.state() != v1::OPERATION_STATE_RUNNING) return false;
    cancel_asked_ = true;
    on_cancel.swap(on_cancel_);
  }
  cancel_.Cancel();
  if (on_cancel) on_cancel();
  return true;
}

void Operation::OnCancel(std::function<void()> callback) {
  {
    absl::MutexLock lock(&mutex_);
    if (state_.state() != v1::OPERATION_STATE_RUNNING) return;
    if (!cancel_asked_) {
      on_cancel_ = std::move(callback);
      return;
    }
  }
  callback();
}

bool Operation::PassPointOfNoReturn() {
  absl::MutexLock lock(&mutex_);
  if (cancel_asked_) return false;
  past_return_ = true;
  return true;
}

void Operation::Report(const libmount::ProgressUpdate& update) {
  {
    absl::MutexLock lock(&mutex_);
    if (state_.state() != v1::OPERATION_STATE_RUNNING) return;
    v1::Progress& progress = *state_.mutable_progress();
    progress.set_phase(static_cast<v1::Phase>(update.phase));
    progress.set_current(std::max(progress.current(), Position(plan_, update)));
    progress.set_bytes_done(std::min(update.bytes_done, update.bytes_total));
    progress.set_bytes_total(update.bytes_total);
  }
  Changed(false);
}

void Operation::SetMount(const v1::Mount& mount) {
  absl::MutexLock lock(&mutex_);
  *state_.mutable_mount() = mount;
}

void Operation::Finish(const absl::Status& outcome, absl::Time end) {
  {
    absl::MutexLock lock(&mutex_);
    if (state_.state() != v1::OPERATION_STATE_RUNNING) return;
    outcome_ = outcome;
    end_time_ = end;
    SetOutcome(outcome, end, &state_);
  }
  Changed(true);
}

v1::Operation Operation::State() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

v1::Operation Operation::StateWith(const absl::Status& outcome, absl::Time end) const {
  v1::Operation state = State();
  SetOutcome(outcome, end, &state);
  return state;
}

bool Operation::MakeSnapshot(bool at_once) {
  absl::Time now = absl::Now();
  if (!at_once && now < publish_time_ + kSnapshotInterval) return false;
  publish_time_ = now;
  publish_pending_ = false;
  published_ = std::make_shared<const v1::Operation>(state_);
  return true;
}

void Operation::Changed(bool at_once) {
  bool notify = false;
  bool later = false;
  {
    absl::MutexLock lock(&mutex_);
    notify = MakeSnapshot(at_once);
    later = !notify && !std::exchange(publish_pending_, true);
  }
  if (notify) NotifyWatches();
  if (later) publish_later_();
}

void Operation::Publish() {
  {
    absl::MutexLock lock(&mutex_);
    if (!publish_pending_) return;
    MakeSnapshot(true);
  }
  NotifyWatches();
}

void Operation::NotifyWatches() {
  std::vector<std::shared_ptr<Watch>> watches;
  {
    absl::MutexLock lock(&mutex_);
    watches.assign(watches_.begin(), watches_.end());
  }
  for (const auto& watch : watches) watch->Notify();
}

}  // namespace dismd
