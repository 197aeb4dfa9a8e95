// SPDX-License-Identifier: GPL-3.0-or-later
//
// CacheBudget: lends the service's memory for decoded chunks to the workers that have use for it.
//
// A worker is lent a share when it starts, and again whenever it says that it has work (CacheWanted). While any has a
// share, their counters are asked for every kBudgetInterval; who had no request for kIdleAfter gives his back, and the
// others' shares grow. When all are idle nothing ticks.
//
// Shares: each of n active workers may have kCacheBudget / n; what one does not want is divided among the others.
//
// Thread safety: all methods are thread-safe and none waits.

#ifndef DAEMON_FRONT_CACHE_BUDGET_H_
#define DAEMON_FRONT_CACHE_BUDGET_H_

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "daemon/front/worker_link.h"

namespace dismd {

// What each of the active workers gets, given what each wants (0: no idea, so as much as there is).
std::vector<uint64_t> DivideBudget(uint64_t budget, const std::vector<uint64_t>& wanted);

class CacheBudget {
 public:
  CacheBudget();
  ~CacheBudget();
  CacheBudget(const CacheBudget&) = delete;
  CacheBudget& operator=(const CacheBudget&) = delete;

  // What a worker that is about to start is told: its share, were it active.
  uint64_t FirstShare();
  // From now on the worker takes part, active at first.
  void Add(uint64_t slot, std::shared_ptr<WorkerLink> worker);
  void Remove(uint64_t slot);
  // CacheWanted came.
  void Want(uint64_t slot, uint64_t bytes);

 private:
  struct Borrower {
    std::shared_ptr<WorkerLink> worker;
    bool active = true;
    uint64_t wanted = 0;
    uint64_t lent = 0;
    uint64_t requests = 0;  // as of its newest counters
    absl::Time last_work;
  };

  void Run();
  bool AnyActive() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CallBackIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Divide() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool divide_ ABSL_GUARDED_BY(mutex_) = false;  // someone came, left or wants
  std::map<uint64_t, Borrower> borrowers_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_CACHE_BUDGET_H_
