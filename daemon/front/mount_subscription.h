// SPDX-License-Identifier: GPL-3.0-or-later
//
// MountSubscription: the events that wait for one WatchMounts stream. Bounded: who does not fetch them is ended.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_MOUNT_SUBSCRIPTION_H_
#define DAEMON_FRONT_MOUNT_SUBSCRIPTION_H_

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/caller.h"
#include "daemon/front/limits.h"
#include "daemon/front/watch.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

class MountSubscription {
 public:
  using Event = std::shared_ptr<const v1::WatchMountsResponse>;

  MountSubscription(uint32_t uid, std::function<void()> notify) : uid_(uid), watch_(std::move(notify)) {}

  bool MaySee(uint32_t owner) const { return uid_ == 0 || uid_ == owner; }
  Watch& watch() { return watch_; }

  // The events at the beginning do not count against the bound: there are as many as mounts.
  void PushExisting(Event event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
    ++allowance_;
  }

  void Push(Event event) {
    absl::MutexLock lock(&mutex_);
    if (overflowed_) return;
    if (events_.size() >= kMaxWaitingEvents + allowance_) {
      overflowed_ = true;
      events_.clear();
      return;
    }
    events_.push_back(std::move(event));
  }

  // The next event, or null. `overflowed`: there will be no more.
  Event Take(bool* overflowed) {
    absl::MutexLock lock(&mutex_);
    *overflowed = overflowed_;
    if (events_.empty()) return nullptr;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  const uint32_t uid_;
  Watch watch_;
  absl::Mutex mutex_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);
  size_t allowance_ ABSL_GUARDED_BY(mutex_) = 0;
  bool overflowed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_MOUNT_SUBSCRIPTION_H_
