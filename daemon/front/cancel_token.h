// SPDX-License-Identifier: GPL-3.0-or-later
//
// CancelToken: tells those who wait that nobody wants the result any more.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_CANCEL_TOKEN_H_
#define DAEMON_FRONT_CANCEL_TOKEN_H_

#include <functional>
#include <list>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace dismd {

class CancelToken {
 public:
  CancelToken() = default;
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;

  // Cancelled once, cancelled for good. Runs the callbacks on this thread.
  void Cancel();
  bool cancelled() const;

  // Calls `callback` when the token is cancelled (at once, if it is), until the subscription ends; that waits for a
  // call that runs. The callback runs under the token's lock: it may only wake others and must not subscribe.
  class Subscription {
   public:
    Subscription(CancelToken& token, std::function<void()> callback);
    ~Subscription();
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    CancelToken& token_;
    std::list<std::function<void()>>::iterator place_;
  };

 private:
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::function<void()>> callbacks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_FRONT_CANCEL_TOKEN_H_
