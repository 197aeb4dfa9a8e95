// SPDX-License-Identifier: GPL-3.0-or-later
//
// OperationTable: the operations that run, and those that ended a short time ago.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_OPERATION_TABLE_H_
#define DAEMON_FRONT_OPERATION_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/caller.h"
#include "daemon/front/operation.h"

namespace dismd {

class OperationTable {
 public:
  // `on_forget` is called, without locks, with the id of each that is no longer remembered.
  explicit OperationTable(std::function<void(const std::string& id)> on_forget);
  ~OperationTable();
  OperationTable(const OperationTable&) = delete;
  OperationTable& operator=(const OperationTable&) = delete;

  // TOO_MANY_OPERATIONS.
  absl::StatusOr<std::shared_ptr<Operation>> Create(const Caller& caller, v1::OperationKind kind, ProgressPlan plan);

  // One that a front before this one has left.
  std::shared_ptr<Operation> Restore(const v1::Operation& left, uint32_t owner, ProgressPlan plan);

  // OPERATION_NOT_FOUND, also for other users' operations.
  absl::StatusOr<std::shared_ptr<Operation>> Find(const Caller& caller, const std::string& id);

  std::vector<std::shared_ptr<Operation>> Running();

 private:
  void Run();
  void PublishLater(const std::string& id);
  // Forgets what ended too long ago, and the oldest of those of whom there are too many.
  void Forget() ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<std::string> TakeOld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void(const std::string&)> on_forget_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Operation>> operations_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> to_publish_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_OPERATION_TABLE_H_
