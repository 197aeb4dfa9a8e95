// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/parallel_runner.h"

#include <utility>

namespace libmount {

ParallelRunner::~ParallelRunner() {
  std::vector<SmallThread> helpers;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
    helpers.swap(helpers_);
  }
  // ~SmallThread joins.
}

void ParallelRunner::Run(size_t count, absl::FunctionRef<void(size_t)> body) {
  Task task(count, body);
  bool offered = false;
  {
    absl::MutexLock lock(&mutex_);
    if (helpers_.empty()) StartHelpers();
    if (count > 1 && offered_ == nullptr && idle_ > 0) {
      offered = true;
      offered_ = &task;
      for (size_t i = 1; i < count; ++i) wake_.Signal();
    }
  }
  Work(task);
  if (!offered) return;
  absl::MutexLock lock(&mutex_);
  if (offered_ == &task) offered_ = nullptr;
  while (task.helpers > 0) left_.Wait(&mutex_);
}

void ParallelRunner::Work(Task& task) {
  for (size_t part = task.next++; part < task.count; part = task.next++) task.body(part);
}

void ParallelRunner::StartHelpers() {
  for (size_t i = 0; i < helper_count_; ++i) {
    SmallThread helper;
    if (!helper.Start("decode", [this] { RunHelper(); }).ok()) break;
    helpers_.push_back(std::move(helper));
    ++idle_;  // from now on, not from when it runs: the first task is offered to it, too
  }
}

void ParallelRunner::RunHelper() {
  mutex_.Lock();
  while (!stop_) {
    if (offered_ == nullptr) {
      wake_.Wait(&mutex_);
      continue;
    }
    Task* task = offered_;
    ++task->helpers;
    --idle_;
    mutex_.Unlock();
    Work(*task);
    mutex_.Lock();
    ++idle_;
    // Its parts are all taken.
    if (offered_ == task) offered_ = nullptr;
    if (--task->helpers == 0) left_.SignalAll();
  }
  mutex_.Unlock();
}

}  // namespace libmount
