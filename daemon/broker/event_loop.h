// SPDX-License-Identifier: GPL-3.0-or-later
//
// EventLoop: descriptors and timers of one thread.
//
// Callbacks run inside Run, one at a time. A callback may add and remove any watch or timer, its own included.
//
// Not thread-safe: there are no threads.

#ifndef DAEMON_BROKER_EVENT_LOOP_H_
#define DAEMON_BROKER_EVENT_LOOP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using TimerId = std::pair<Clock::time_point, uint64_t>;

  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `callback` with what epoll reports, for as long as any of `events` (EPOLLIN, ...) is so. The descriptor stays
  // the caller's: Unwatch it before it is closed.
  absl::Status Watch(int fd, uint32_t events, std::function<void(uint32_t)> callback);
  void ChangeEvents(int fd, uint32_t events);
  void Unwatch(int fd);

  // Calls `callback` once, when `delay` has passed.
  TimerId After(std::chrono::milliseconds delay, std::function<void()> callback);
  void Cancel(const TimerId& timer);

  // Until Quit.
  void Run();
  void Quit() { quit_ = true; }

  // Closes the loop's own descriptor, in a forked child.
  void CloseInChild() { epoll_.reset(); }

 private:
  struct Watched {
    uint64_t generation;  // events of an earlier owner of the same descriptor number are dropped
    std::function<void(uint32_t)> callback;
  };

  int MillisecondsToNextTimer() const;
  void RunDueTimers();

  libmount::UniqueFd epoll_;
  uint64_t next_generation_ = 1;
  std::map<int, std::shared_ptr<Watched>> watched_;
  std::map<TimerId, std::function<void()>> timers_;
  uint64_t next_timer_ = 1;
  bool quit_ = false;
};

}  // namespace dismd

#endif  // DAEMON_BROKER_EVENT_LOOP_H_
