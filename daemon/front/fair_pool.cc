// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/fair_pool.h"

#include <algorithm>
#include <system_error>

#include "absl/time/time.h"

namespace dismd {
namespace {

constexpr absl::Duration kThreadIdle = absl::Seconds(5);

}  // namespace

FairPool::FairPool(size_t threads, size_t threads_per_key) : max_threads_(threads), threads_per_key_(threads_per_key) {}

FairPool::~FairPool() {
  mutex_.Lock();
  ending_ = true;
  work_.SignalAll();
  while (!threads_.empty()) work_.Wait(&mutex_);
  mutex_.Unlock();
  for (std::thread& thread : ended_) thread.join();
}

FairPool::Ticket FairPool::Submit(uint32_t key, Task task) {
  ThreadList to_join;
  absl::MutexLock lock(&mutex_);
  to_join.swap(ended_);
  Ticket ticket = ++last_ticket_;
  lanes_[key].tasks.emplace_back(ticket, std::move(task));
  ++queued_;
  // An idle thread that was signalled counts until it has taken its task, and so does the task.
  if (idle_ >= queued_) {
    work_.Signal();
  } else if (threads_.size() < max_threads_) {
    auto place = threads_.emplace(threads_.end());
    try {
      *place = std::thread([this, place] { ThreadMain(place); });
    } catch (const std::system_error&) {
      threads_.erase(place);
      if (threads_.empty()) throw;  // nobody is left to take it: the next front is better off
    }
  }
  for (std::thread& thread : to_join) thread.join();  // they have left the lock for good
  return ticket;
}

bool FairPool::Withdraw(Ticket ticket) {
  Task taken;  // destroyed outside the lock: it may own anything
  absl::MutexLock lock(&mutex_);
  for (auto& [key, lane] : lanes_) {
    auto place = std::find_if(lane.tasks.begin(), lane.tasks.end(), [&](const auto& t) { return t.first == ticket; });
    if (place == lane.tasks.end()) continue;
    taken = std::move(place->second);
    lane.tasks.erase(place);
    --queued_;
    if (lane.tasks.empty() && lane.running == 0) lanes_.erase(key);
    return true;
  }
  return false;
}

bool FairPool::HasWork() const {
  return std::any_of(lanes_.begin(), lanes_.end(), [this](const auto& entry) {
    return !entry.second.tasks.empty() && entry.second.running < threads_per_key_;
  });
}

std::pair<uint32_t, FairPool::Task> FairPool::TakeNext() {
  auto place = lanes_.upper_bound(last_key_);
  while (true) {
    if (place == lanes_.end()) place = lanes_.begin();
    if (!place->second.tasks.empty() && place->second.running < threads_per_key_) break;
    ++place;
  }
  auto& [key, lane] = *place;
  last_key_ = key;
  ++lane.running;
  --queued_;
  Task task = std::move(lane.tasks.front().second);
  lane.tasks.pop_front();
  return {key, std::move(task)};
}

void FairPool::ThreadMain(ThreadList::iterator self) {
  mutex_.Lock();
  while (true) {
    if (HasWork()) {
      auto [key, task] = TakeNext();
      mutex_.Unlock();
      task();
      task = nullptr;
      mutex_.Lock();
      auto place = lanes_.find(key);
      --place->second.running;
      if (place->second.tasks.empty() && place->second.running == 0) lanes_.erase(place);
      continue;
    }
    if (ending_) break;
    ++idle_;
    bool timed_out = work_.WaitWithTimeout(&mutex_, kThreadIdle);
    --idle_;
    if (timed_out && !HasWork() && !ending_) break;
  }
  ended_.splice(ended_.end(), threads_, self);
  // What this thread could not take (its key's share was used up) another one may now.
  work_.SignalAll();
  mutex_.Unlock();
}

}  // namespace dismd
