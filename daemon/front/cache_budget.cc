// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/cache_budget.h"

#include <algorithm>
#include <utility>

#include "daemon/front/limits.h"

namespace dismd {

std::vector<uint64_t> DivideBudget(uint64_t budget, const std::vector<uint64_t>& wanted) {
  std::vector<uint64_t> shares(wanted.size(), 0);
  std::vector<size_t> open(wanted.size());
  for (size_t i = 0; i < open.size(); ++i) open[i] = i;
  // Those who want less than an even share get what they want; then again among the rest.
  while (!open.empty()) {
    uint64_t even = budget / open.size();
    auto modest =
        std::partition(open.begin(), open.end(), [&](size_t i) { return wanted[i] == 0 || wanted[i] > even; });
    if (modest == open.end()) {
      for (size_t i : open) shares[i] = even;
      break;
    }
    for (auto place = modest; place != open.end(); ++place) {
      shares[*place] = wanted[*place];
      budget -= wanted[*place];
    }
    open.erase(modest, open.end());
  }
  return shares;
}

CacheBudget::CacheBudget() : thread_([this] { Run(); }) {}

CacheBudget::~CacheBudget() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

uint64_t CacheBudget::FirstShare() {
  absl::MutexLock lock(&mutex_);
  uint64_t active = 1;
  for (const auto& [slot, borrower] : borrowers_) active += borrower.active ? 1 : 0;
  return kCacheBudget / active;
}

void CacheBudget::Add(uint64_t slot, std::shared_ptr<WorkerLink> worker) {
  absl::MutexLock lock(&mutex_);
  Borrower& borrower = borrowers_[slot];
  borrower.worker = std::move(worker);
  borrower.last_work = absl::Now();
  divide_ = true;
  changed_.SignalAll();
}

void CacheBudget::Remove(uint64_t slot) {
  std::shared_ptr<WorkerLink> worker;  // let go outside the lock
  absl::MutexLock lock(&mutex_);
  auto place = borrowers_.find(slot);
  if (place == borrowers_.end()) return;
  worker = std::move(place->second.worker);
  borrowers_.erase(place);
  divide_ = true;
  changed_.SignalAll();
}

void CacheBudget::Want(uint64_t slot, uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  auto place = borrowers_.find(slot);
  if (place == borrowers_.end()) return;
  Borrower& borrower = place->second;
  if (borrower.active && borrower.wanted == bytes) return;
  borrower.active = true;
  borrower.wanted = bytes;
  borrower.last_work = absl::Now();
  divide_ = true;
  changed_.SignalAll();
}

bool CacheBudget::AnyActive() const {
  return std::any_of(borrowers_.begin(), borrowers_.end(), [](const auto& entry) { return entry.second.active; });
}

void CacheBudget::CallBackIdle() {
  absl::Time now = absl::Now();
  for (auto& [slot, borrower] : borrowers_) {
    if (!borrower.active) continue;
    internal::WorkerStats stats = borrower.worker->LastStats();
    if (stats.requests() != borrower.requests) borrower.last_work = now;
    borrower.requests = stats.requests();
    if (stats.wanted_bytes() != 0) borrower.wanted = stats.wanted_bytes();
    if (now - borrower.last_work >= kIdleAfter) {
      borrower.active = false;
      divide_ = true;
    } else {
      borrower.worker->RequestStats();  // for the next round
    }
  }
}

void CacheBudget::Divide() {
  std::vector<Borrower*> active;
  std::vector<uint64_t> wanted;
  uint64_t rest = kCacheBudget;
  for (auto& [slot, borrower] : borrowers_) {
    if (borrower.active) {
      active.push_back(&borrower);
      wanted.push_back(borrower.wanted);
    } else {
      rest -= std::min(rest, kIdleCacheBytes);
      if (std::exchange(borrower.lent, kIdleCacheBytes) != kIdleCacheBytes) borrower.worker->LendCache(kIdleCacheBytes);
    }
  }
  std::vector<uint64_t> shares = DivideBudget(rest, wanted);
  // First those who give, then those who take: the sum stays within the budget.
  for (bool growing : {false, true}) {
    for (size_t i = 0; i < active.size(); ++i) {
      if (shares[i] == active[i]->lent || (shares[i] > active[i]->lent) != growing) continue;
      active[i]->lent = shares[i];
      active[i]->worker->LendCache(shares[i]);
    }
  }
}

void CacheBudget::Run() {
  absl::MutexLock lock(&mutex_);
  absl::Time next_round = absl::Now();
  while (!ending_) {
    if (AnyActive() && absl::Now() >= next_round) {
      CallBackIdle();
      next_round = absl::Now() + kBudgetInterval;
    }
    if (std::exchange(divide_, false)) Divide();
    if (ending_) break;
    if (AnyActive()) {
      changed_.WaitWithDeadline(&mutex_, next_round);
    } else {
      changed_.Wait(&mutex_);
    }
  }
}

}  // namespace dismd
