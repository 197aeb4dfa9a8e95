// SPDX-License-Identifier: GPL-3.0-or-later
//
// WorkerLink: the front's side of a worker's control socket.
//
// A worker parses images and runs as its user, who can stop or kill it: nothing here waits for a worker without a
// bound, and nothing it sends is believed. A worker that talks nonsense is treated like one that has died.
//
// Thread safety: all methods are thread-safe. Events come on the loop's thread.

#ifndef DAEMON_FRONT_WORKER_LINK_H_
#define DAEMON_FRONT_WORKER_LINK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/event_loop.h"
#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class WorkerLink : public std::enable_shared_from_this<WorkerLink> {
 public:
  // Damage, ImageChanged, CacheWanted, StagingState, ServingEnded. Must not block.
  using EventHandler = std::function<void(const internal::WorkerToFront& event)>;
  using ProgressHandler = std::function<void(const internal::WorkerProgress& progress)>;

  static std::shared_ptr<WorkerLink> Start(EventLoop& loop, libmount::UniqueFd control, EventHandler on_event);
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // Sends a request and waits until it is answered, `cancel` is cancelled (CANCELLED), the worker has died
  // (WORKER_DIED), or nothing was heard of the request for `silence` (PATH_TIMED_OUT). Not on the loop's thread.
  absl::StatusOr<internal::WorkerToFront> Call(internal::FrontToWorker request, CancelToken& cancel,
                                               absl::Duration silence, ProgressHandler on_progress = nullptr);

  // The same for what ends only when the worker says so: `cancel` is passed on to it, and its answer is waited for.
  absl::StatusOr<internal::WorkerToFront> CallToTheEnd(internal::FrontToWorker request, CancelToken& cancel,
                                                       absl::Duration silence, ProgressHandler on_progress = nullptr);

  // Sends a request and waits for nothing. `on_end` is called once: when it is answered or never will be, perhaps
  // before this returns; under the link's lock, so that it may only wake others. The result is for Forget.
  uint64_t Ask(internal::FrontToWorker request, std::function<void()> on_end);
  // `on_end` is not called any more. `overdue`: if it was not yet, the worker has had time enough, and is mute until it
  // answers. The result: it was not.
  bool Forget(uint64_t ask, bool overdue);
  // It is stopped, or hangs: waiting for it is likely to be in vain.
  bool mute();

  // Waits until the worker serves the kernel; errors as above.
  absl::Status AwaitServing(CancelToken& cancel, absl::Duration deadline);

  // Asks for counters unless an answer is outstanding; never waits. Newer counters come when they come.
  void RequestStats();
  // The newest counters. Waits at most `patience` for such as were asked for after the call.
  internal::WorkerStats FreshStats(absl::Duration patience);
  internal::WorkerStats LastStats();

  // Lends the worker so many bytes. Only lost on a worker that does not read its socket; never waits.
  void LendCache(uint64_t bytes);

  // Events and answers end here; calls fail. The socket stays open until destruction.
  void Close();
  // It is closed, or its worker has died.
  bool ended();

 private:
  struct Pending {
    bool done = false;
    absl::StatusOr<internal::WorkerToFront> answer = absl::UnknownError("");
    ProgressHandler on_progress;
    absl::Time last_sign;
  };

  absl::StatusOr<internal::WorkerToFront> CallAndWait(internal::FrontToWorker request, CancelToken& cancel,
                                                      absl::Duration silence, ProgressHandler on_progress,
                                                      bool to_the_end);

  WorkerLink(EventLoop& loop, libmount::UniqueFd control, EventHandler on_event);

  void OnReadable();
  void Handle(internal::WorkerToFront& message);
  void HandleAnswer(internal::WorkerToFront& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& why);
  bool SendWithoutWaiting(const internal::FrontToWorker& message);

  EventLoop& loop_;
  Channel channel_;
  const EventHandler on_event_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  EventLoop::WatchId watch_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status state_ ABSL_GUARDED_BY(mutex_);  // not ok: the worker is gone
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  // From the time on: no late answer to a front before this one can be taken for one to a request of this one's.
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  std::map<uint64_t, Pending*> pending_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::function<void()>> asked_ ABSL_GUARDED_BY(mutex_);
  uint64_t overdue_ ABSL_GUARDED_BY(mutex_) = 0;        // the newest request that is; 0: none
  uint64_t stats_request_ ABSL_GUARDED_BY(mutex_) = 0;  // outstanding; 0: none
  uint64_t stats_count_ ABSL_GUARDED_BY(mutex_) = 0;
  internal::WorkerStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_FRONT_WORKER_LINK_H_
