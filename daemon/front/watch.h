// SPDX-License-Identifier: GPL-3.0-or-later
//
// Watch: tells one watcher that there is something new to fetch.
//
// Notify carries no data: the watcher fetches the newest state when it is ready to send, so that a slow one costs no
// queue. Lock order: Watch, then the watcher's own, then that of what is watched (whose lock is not held in Notify).
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_WATCH_H_
#define DAEMON_FRONT_WATCH_H_

#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace dismd {

class Watch {
 public:
  explicit Watch(std::function<void()> notify) : notify_(std::move(notify)) {}

  void Notify() {
    absl::MutexLock lock(&mutex_);
    if (notify_) notify_();
  }

  // No notification runs or comes after it. Not from within a notification.
  void Stop() {
    absl::MutexLock lock(&mutex_);
    notify_ = nullptr;
  }

 private:
  absl::Mutex mutex_;
  std::function<void()> notify_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_FRONT_WATCH_H_
