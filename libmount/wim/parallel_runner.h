// SPDX-License-Identifier: GPL-3.0-or-later
//
// ParallelRunner: runs the parts of one task on the caller's thread and on helpers that are free.
//
// Helpers are started at the first use. When none is free the caller does all parts itself: nothing ever waits for a
// helper that is busy with another's task.
//
// Thread safety: Run may be called from any number of threads at once.

#ifndef LIBMOUNT_WIM_PARALLEL_RUNNER_H_
#define LIBMOUNT_WIM_PARALLEL_RUNNER_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/small_thread.h"

namespace libmount {

class ParallelRunner {
 public:
  explicit ParallelRunner(size_t helper_count) : helper_count_(helper_count) {}
  ~ParallelRunner();
  ParallelRunner(const ParallelRunner&) = delete;
  ParallelRunner& operator=(const ParallelRunner&) = delete;

  size_t helper_count() const { return helper_count_; }

  // Calls body(0) ... body(count - 1), each once, and returns when all have returned.
  void Run(size_t count, absl::FunctionRef<void(size_t)> body);

 private:
  struct Task {
    explicit Task(size_t count, absl::FunctionRef<void(size_t)> body) : count(count), body(body) {}
    const size_t count;
    const absl::FunctionRef<void(size_t)> body;
    std::atomic<size_t> next = 0;
    size_t helpers = 0;  // at work on it; guarded by the runner's mutex
  };

  void StartHelpers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunHelper();
  static void Work(Task& task);

  const size_t helper_count_;
  absl::Mutex mutex_;
  absl::CondVar wake_;
  absl::CondVar left_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;  // helpers not at work on a task
  Task* offered_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<SmallThread> helpers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_PARALLEL_RUNNER_H_
