// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/event_loop.h"

#include <errno.h>
#include <sys/epoll.h>

#include <algorithm>
#include <climits>

namespace dismd {
namespace {

constexpr int kMaxEventsAtOnce = 64;

// epoll hands back 64 bits: the descriptor and the low half of the watch's generation.
uint64_t Tag(int fd, uint64_t generation) { return (generation << 32) | static_cast<uint32_t>(fd); }

}  // namespace

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {}

absl::Status EventLoop::Watch(int fd, uint32_t events, std::function<void(uint32_t)> callback) {
  uint64_t generation = next_generation_++ & 0xffffffff;
  epoll_event event = {};
  event.events = events;
  event.data.u64 = Tag(fd, generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return absl::ErrnoToStatus(errno, "epoll_ctl");
  watched_[fd] = std::make_shared<Watched>(Watched{generation, std::move(callback)});
  return absl::OkStatus();
}

void EventLoop::ChangeEvents(int fd, uint32_t events) {
  auto found = watched_.find(fd);
  if (found == watched_.end()) return;
  epoll_event event = {};
  event.events = events;
  event.data.u64 = Tag(fd, found->second->generation);
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::Unwatch(int fd) {
  if (watched_.erase(fd) != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::After(std::chrono::milliseconds delay, std::function<void()> callback) {
  TimerId id(Clock::now() + delay, next_timer_++);
  timers_.emplace(id, std::move(callback));
  return id;
}

void EventLoop::Cancel(const TimerId& timer) { timers_.erase(timer); }

int EventLoop::MillisecondsToNextTimer() const {
  if (timers_.empty()) return -1;
  auto wait = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(wait, 0, INT_MAX));
}

void EventLoop::RunDueTimers() {
  Clock::time_point now = Clock::now();
  while (!quit_ && !timers_.empty() && timers_.begin()->first.first <= now) {
    std::function<void()> callback = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    callback();
  }
}

void EventLoop::Run() {
  quit_ = false;
  epoll_event events[kMaxEventsAtOnce];
  while (!quit_) {
    int count = epoll_wait(epoll_.get(), events, kMaxEventsAtOnce, MillisecondsToNextTimer());
    for (int i = 0; i < count && !quit_; ++i) {
      auto found = watched_.find(static_cast<int>(events[i].data.u64 & 0xffffffff));
      if (found == watched_.end() || found->second->generation != events[i].data.u64 >> 32) continue;
      std::shared_ptr<Watched> watched = found->second;  // the callback may remove itself
      watched->callback(events[i].events);
    }
    RunDueTimers();
  }
}

}  // namespace dismd
