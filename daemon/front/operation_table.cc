// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/operation_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;

}  // namespace

OperationTable::OperationTable(std::function<void(const std::string& id)> on_forget)
    : on_forget_(std::move(on_forget)), thread_([this] { Run(); }) {}

OperationTable::~OperationTable() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

absl::StatusOr<std::shared_ptr<Operation>> OperationTable::Create(const Caller& caller, v1::OperationKind kind,
                                                                  ProgressPlan plan) {
  Forget();
  absl::MutexLock lock(&mutex_);
  size_t running = 0;
  size_t own = 0;
  for (const auto& [id, operation] : operations_) {
    if (operation->ended()) continue;
    ++running;
    if (operation->owner() == caller.uid) ++own;
  }
  if (own >= kMaxOperationsPerUid) {
    return MakeError(Reason::kTooManyOperations,
                     absl::StrCat("you have ", own,
                                  " operations running, which is the limit per user (operations_per_uid); "
                                  "wait for one to end"));
  }
  if (running >= kMaxOperations) {
    return MakeError(
        Reason::kTooManyOperations,
        absl::StrCat("the service has ", running, " operations running, which is its limit; try again later"));
  }
  std::string id;
  do {
    id = NewId("op-");
  } while (operations_.count(id) != 0);
  auto operation = std::make_shared<Operation>(id, kind, caller.uid, plan, [this, id] { PublishLater(id); });
  operations_[id] = operation;
  return operation;
}

std::shared_ptr<Operation> OperationTable::Restore(const v1::Operation& left, uint32_t owner, ProgressPlan plan) {
  const std::string& id = left.operation_id();
  auto operation = std::make_shared<Operation>(left, owner, plan, [this, id] { PublishLater(id); });
  absl::MutexLock lock(&mutex_);
  return operations_[id] = operation;
}

absl::StatusOr<std::shared_ptr<Operation>> OperationTable::Find(const Caller& caller, const std::string& id) {
  Forget();
  absl::MutexLock lock(&mutex_);
  auto place = operations_.find(id);
  if (place != operations_.end() && caller.MaySee(place->second->owner())) return place->second;
  return MakeError(Reason::kOperationNotFound,
                   absl::StrFormat("you have no operation \"%s\", or it ended more than %d minutes ago",
                                   BoundedText(id, 64), absl::ToInt64Minutes(kOperationRetention)));
}

std::vector<std::shared_ptr<Operation>> OperationTable::Running() {
  std::vector<std::shared_ptr<Operation>> running;
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, operation] : operations_) {
    if (!operation->ended()) running.push_back(operation);
  }
  return running;
}

void OperationTable::Forget() {
  std::vector<std::string> old;
  {
    absl::MutexLock lock(&mutex_);
    old = TakeOld();
  }
  for (const std::string& id : old) on_forget_(id);
}

std::vector<std::string> OperationTable::TakeOld() {
  std::vector<std::string> old;
  absl::Time oldest = absl::Now() - kOperationRetention;
  std::map<uint32_t, std::vector<std::pair<absl::Time, std::string>>> ended;
  for (auto place = operations_.begin(); place != operations_.end();) {
    const Operation& operation = *place->second;
    absl::Time end = operation.end_time();
    if (end < oldest) {
      old.push_back(place->first);
      place = operations_.erase(place);
      continue;
    }
    if (end != absl::InfiniteFuture()) ended[operation.owner()].emplace_back(end, operation.id());
    ++place;
  }
  for (auto& [uid, ids] : ended) {
    if (ids.size() <= kMaxEndedOperationsPerUid) continue;
    std::sort(ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size() - kMaxEndedOperationsPerUid; ++i) {
      old.push_back(ids[i].second);
      operations_.erase(ids[i].second);
    }
  }
  return old;
}

void OperationTable::PublishLater(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  to_publish_.insert(id);
  changed_.Signal();
}

void OperationTable::Run() {
  mutex_.Lock();
  while (!ending_) {
    if (to_publish_.empty()) {
      changed_.Wait(&mutex_);
      continue;
    }
    // What is reported meanwhile goes out together; an ending table does not wait.
    absl::Time until = absl::Now() + kSnapshotInterval;
    while (!ending_ && absl::Now() < until) changed_.WaitWithDeadline(&mutex_, until);
    std::vector<std::shared_ptr<Operation>> due;
    for (const std::string& id : to_publish_) {
      auto place = operations_.find(id);
      if (place != operations_.end()) due.push_back(place->second);
    }
    to_publish_.clear();
    mutex_.Unlock();
    for (const auto& operation : due) operation->Publish();
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace dismd
