// SPDX-License-Identifier: GPL-3.0-or-later
//
// EventLoop: one thread that waits for all descriptors of the front: the broker's socket, the workers' sockets, and a
// duplicate of each client's socket (for its end). Callbacks run on that thread and must not block.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_EVENT_LOOP_H_
#define DAEMON_FRONT_EVENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class EventLoop {
 public:
  // Gets the epoll events.
  using Callback = std::function<void(uint32_t events)>;
  using WatchId = uint64_t;

  EventLoop();
  // REQUIRES: not on the loop's thread.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `callback` while `events` are ready on `fd` (level-triggered). The descriptor stays the caller's and must be
  // open until Remove.
  WatchId Add(int fd, uint32_t events, Callback callback);

  // After it returns the callback is not called again; it waits for a call that runs, unless it is called from it.
  void Remove(WatchId id);

 private:
  struct Watch {
    int fd;
    absl::Mutex mutex;  // held while the callback runs
    Callback callback ABSL_GUARDED_BY(mutex);
  };

  void Run();
  void Dispatch(WatchId id, uint32_t events);

  libmount::UniqueFd epoll_;
  libmount::UniqueFd wake_;
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  WatchId last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<WatchId, std::shared_ptr<Watch>> watches_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_EVENT_LOOP_H_
