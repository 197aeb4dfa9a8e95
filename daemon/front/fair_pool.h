// SPDX-License-Identifier: GPL-3.0-or-later
//
// FairPool: threads that run tasks which may wait (for the broker, a worker, a disk).
//
// Each task belongs to a key (a uid). Keys take turns, and none has more than its share of the threads, so that one
// user's files on a file system that does not answer hold up nobody else. Threads come on demand and leave when they
// have had nothing to do for a while. Queues are bounded by whoever submits (operations per uid, streams per
// connection).
//
// Thread safety: all methods are thread-safe; the destructor runs what is queued and waits.

#ifndef DAEMON_FRONT_FAIR_POOL_H_
#define DAEMON_FRONT_FAIR_POOL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace dismd {

class FairPool {
 public:
  using Task = std::function<void()>;
  using Ticket = uint64_t;

  FairPool(size_t threads, size_t threads_per_key);
  ~FairPool();
  FairPool(const FairPool&) = delete;
  FairPool& operator=(const FairPool&) = delete;

  Ticket Submit(uint32_t key, Task task);

  // Takes a task back that has not begun: true, and it will never run.
  bool Withdraw(Ticket ticket);

 private:
  struct Lane {
    std::deque<std::pair<Ticket, Task>> tasks;
    size_t running = 0;
  };
  using ThreadList = std::list<std::thread>;

  void ThreadMain(ThreadList::iterator self);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // REQUIRES: HasWork(). The lanes take turns.
  std::pair<uint32_t, Task> TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_threads_;
  const size_t threads_per_key_;
  absl::Mutex mutex_;
  absl::CondVar work_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  Ticket last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t last_key_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t queued_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint32_t, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  ThreadList threads_ ABSL_GUARDED_BY(mutex_);
  ThreadList ended_ ABSL_GUARDED_BY(mutex_);  // to be joined
};

}  // namespace dismd

#endif  // DAEMON_FRONT_FAIR_POOL_H_
