// SPDX-License-Identifier: GPL-3.0-or-later
//
// Operation: one run of MountImage, UnmountImage, ...; it lives on its own, and streams only watch it.
//
//   running ──Finish(ok)──────────────────────────► succeeded
//      │  └──Finish(error)────────────────────────► failed
//      └──Cancel()── token ── the runner undoes ──► cancelled      (not once PassPointOfNoReturn() was true)
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_OPERATION_H_
#define DAEMON_FRONT_OPERATION_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/watch.h"
#include "dismd/v1/types.pb.h"
#include "libmount/base/log.h"
#include "libmount/base/monitor.h"

namespace dismd {

// How much of an operation's progress each phase is: the numbers of one row add up to less than 100, which only success
// reaches.
enum class ProgressPlan { kMount, kMountWithIntegrityCheck, kUnmount, kCommittingUnmount, kCommit, kRemount };

class Operation {
 public:
  using Snapshot = std::shared_ptr<const v1::Operation>;
  // Asks for Publish() to be called a little later.
  using PublishLater = std::function<void()>;

  Operation(std::string id, v1::OperationKind kind, uint32_t owner, ProgressPlan plan, PublishLater publish_later);
  // One that a front before this one has left: ended, or to be gone on with.
  Operation(const v1::Operation& left, uint32_t owner, ProgressPlan plan, PublishLater publish_later);
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  const std::string& id() const { return id_; }
  uint32_t owner() const { return owner_; }
  libmount::LogContext log_context() const { return {id_, "", owner_}; }
  // Whether a front before this one had begun it.
  bool resumed() const { return resumed_; }

  // The newest published snapshot, never null: watchers see at most one in kSnapshotInterval.
  Snapshot snapshot() const;
  bool ended() const;
  absl::Time end_time() const;
  // The outcome. REQUIRES: ended().
  absl::Status outcome() const;

  void AddWatch(std::shared_ptr<Watch> watch);
  void RemoveWatch(const std::shared_ptr<Watch>& watch);

  // For those who ask to stop it. False: it has ended, or is past its point of no return.
  bool Cancel();

  // `callback` runs once, on the thread that cancels; at once if it is cancelled already. At most one.
  void OnCancel(std::function<void()> callback);

  // For the runner. --------------------------------------------------------------------------------------------------
  CancelToken& cancel_token() { return cancel_; }
  bool cancelled() const { return cancel_.cancelled(); }
  // True: it can no longer be cancelled. False: it was cancelled before.
  bool PassPointOfNoReturn();
  void Report(const libmount::ProgressUpdate& update);
  void SetMount(const v1::Mount& mount);
  void Finish(const absl::Status& outcome, absl::Time end = absl::Now());
  // As it is now; as Finish will make it.
  v1::Operation State() const;
  v1::Operation StateWith(const absl::Status& outcome, absl::Time end) const;

  // For the table: publishes what has not been.
  void Publish();

 private:
  // True: watchers are to be told, now; else later, if it must be.
  bool MakeSnapshot(bool at_once) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Changed(bool at_once) ABSL_LOCKS_EXCLUDED(mutex_);
  void NotifyWatches() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string id_;
  const uint32_t owner_;
  const ProgressPlan plan_;
  const PublishLater publish_later_;
  const bool resumed_;
  CancelToken cancel_;

  mutable absl::Mutex mutex_;
  v1::Operation state_ ABSL_GUARDED_BY(mutex_);
  Snapshot published_ ABSL_GUARDED_BY(mutex_);
  absl::Time publish_time_ ABSL_GUARDED_BY(mutex_);
  bool publish_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool past_return_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> on_cancel_ ABSL_GUARDED_BY(mutex_);
  absl::Status outcome_ ABSL_GUARDED_BY(mutex_);
  absl::Time end_time_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::list<std::shared_ptr<Watch>> watches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_FRONT_OPERATION_H_
