// SPDX-License-Identifier: GPL-3.0-or-later
//
// RequestSource: how several threads share the reading of one /dev/fuse descriptor.
//
// One thread at a time holds the turn to receive. It looks for the next request without blocking for a short while (a
// spin), then blocks. Handling a small request it keeps the turn; before work that may take long (a read that decodes)
// it passes the turn to a sleeping thread. When requests queue up, a second thread is woken to help (not when they only
// come quickly one after the other: a lone client's next request is often there when its last one was answered).
//
//   receiver:  read - spin - epoll ──► request ──► small: answer it, go on receiving
//                                             └──► long: pass the turn on, answer it, sleep or receive again
//
// Why not just N threads blocked in read(2): waking a thread costs more than most requests do (on two CPUs the walk
// of a tree took 3.7 s with blocking and 2.6 s with spinning reads), and threads that sleep in read(2) beside one that
// spins are woken by the kernel for each request that the spinning thread takes.
//
// The spin adapts: it is only done while requests come faster than kSpinNanoseconds apart, so that an idle or slow
// mount costs nothing.
//
// Thread safety: Stop, end_status from any thread; Receive and PassTurn from threads with a Turn of their own.

#ifndef LIBMOUNT_FUSE_REQUEST_SOURCE_H_
#define LIBMOUNT_FUSE_REQUEST_SOURCE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"

namespace libmount {

class RequestSource {
 public:
  // One for each receiving thread.
  class Turn {
   public:
    // Both run on the thread. `prepare`: before it first looks for a request, and again after `on_idle`. `on_idle`:
    // when it had nothing to do for a while, a chance to give memory back; its argument tells whether nothing at all
    // came (else other threads are at work).
    Turn(std::function<void()> prepare, std::function<void(bool all)> on_idle)
        : prepare_(std::move(prepare)), on_idle_(std::move(on_idle)) {}

   private:
    friend class RequestSource;
    void Prepare();
    void BecomeIdle(bool all);

    bool held_ = false;
    bool prepared_ = false;
    std::function<void()> prepare_;
    std::function<void(bool)> on_idle_;
  };

  RequestSource() = default;
  RequestSource(const RequestSource&) = delete;
  RequestSource& operator=(const RequestSource&) = delete;

  // Makes `fd` (which must outlive the source) non-blocking and watches it.
  absl::Status Open(int fd);

  // Waits for a request and reads it into `buffer`. Returns its size; 0 when there will be no more.
  size_t Receive(Turn* turn, absl::Span<char> buffer);

  // Lets another thread receive while the caller works for long. Cheap when called twice.
  void PassTurn(Turn* turn);

  // Makes each Receive return 0, the waiting ones too.
  void Stop();

  // Why there are no more requests: OK after Stop or an unmount.
  absl::Status end_status() const;

 private:
  bool TakeTurn(Turn* turn);
  void SleepUntilNeeded(Turn* turn);
  size_t TryRead(absl::Span<char> buffer);
  size_t SpinRead(absl::Span<char> buffer);
  void Block(Turn* turn);
  bool IsMoreQueued() const;
  void InviteHelp();
  void End(absl::Status status);

  int fd_ = -1;
  UniqueFd stop_event_;
  UniqueFd epoll_;
  std::atomic<bool> ended_{false};

  mutable absl::Mutex mutex_;
  absl::CondVar needed_;
  bool turn_taken_ ABSL_GUARDED_BY(mutex_) = false;
  int sleeping_ ABSL_GUARDED_BY(mutex_) = 0;
  int help_wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);

  // Of the thread that holds the turn; handed over with it.
  int64_t average_gap_ = 0;  // nanoseconds between looking for a request and its arrival, smoothed
  int backlog_ = 0;          // requests in a row that were there at once
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_REQUEST_SOURCE_H_
