// SPDX-License-Identifier: GPL-3.0-or-later
//
// The front's Service with a broker that the test plays, for tests of operations, registry and limits without gRPC.

#ifndef TESTS_UNIT_FRONT_HARNESS_H_
#define TESTS_UNIT_FRONT_HARNESS_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/service.h"
#include "tests/unit/front_fake_broker.h"

namespace dismd {

inline constexpr absl::Duration kPatience = absl::Seconds(20);
inline constexpr uint32_t kAnna = 1000;
inline constexpr uint32_t kBert = 1001;

// Waits for the end of an operation, and remembers all that its watchers see.
class Watcher {
 public:
  explicit Watcher(std::shared_ptr<Operation> operation) : operation_(std::move(operation)) {
    watch_ = std::make_shared<Watch>([this] {
      absl::MutexLock lock(&mutex_);
      seen_.push_back(operation_->snapshot());
    });
    operation_->AddWatch(watch_);
    watch_->Notify();
  }
  ~Watcher() {
    operation_->RemoveWatch(watch_);
    watch_->Stop();
  }

  absl::Status Outcome() {
    absl::MutexLock lock(&mutex_);
    auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !seen_.empty() && seen_.back()->state() != v1::OPERATION_STATE_RUNNING;
    };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&ended), kPatience)) << "the operation does not end";
    return operation_->outcome();
  }
  std::vector<Operation::Snapshot> seen() {
    absl::MutexLock lock(&mutex_);
    return seen_;
  }

 private:
  std::shared_ptr<Operation> operation_;
  std::shared_ptr<Watch> watch_;
  absl::Mutex mutex_;
  std::vector<Operation::Snapshot> seen_ ABSL_GUARDED_BY(mutex_);
};

// The events of a subscription.
class Events {
 public:
  Events(Service& service, const Caller& caller) : service_(service) {
    subscription_ = service.registry().Subscribe(caller, [this] {
      absl::MutexLock lock(&mutex_);
      ++notifications_;
    });
  }
  ~Events() { service_.registry().Unsubscribe(subscription_); }

  // Waits for the next event.
  v1::WatchMountsResponse Next() {
    absl::Time deadline = absl::Now() + kPatience;
    while (true) {
      size_t before;
      {
        absl::MutexLock lock(&mutex_);
        before = notifications_;
      }
      bool overflowed = false;
      if (auto event = subscription_->Take(&overflowed)) return *event;
      absl::MutexLock lock(&mutex_);
      auto notified = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return notifications_ != before; };
      if (!mutex_.AwaitWithDeadline(absl::Condition(&notified), deadline)) break;
    }
    ADD_FAILURE() << "no event";
    return {};
  }
  bool Empty() {
    bool overflowed = false;
    return subscription_->Take(&overflowed) == nullptr;
  }

 private:
  Service& service_;
  std::shared_ptr<MountSubscription> subscription_;
  absl::Mutex mutex_;
  size_t notifications_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FrontService : public testing::Test {
 protected:
  FrontService() : service_(loop_, broker_.TakeFrontEnd()) {
    service_.Start([](libmount::UniqueFd, Caller) {});
    broker_.WaitFor("ready");
  }
  ~FrontService() override { broker_.Hangup(); }

  Caller Of(uint32_t uid) {
    return {uid, uid, 1, std::make_shared<ConnectionLease>(uid, [](uint64_t) {})};
  }
  static v1::MountImageRequest Request(const std::string& mount_path = "/home/mnt") {
    v1::MountImageRequest request;
    request.set_image_path("/home/install.wim");
    request.set_mount_path(mount_path);
    request.set_image_index(1);
    request.set_read_only(true);
    return request;
  }
  absl::Status Mount(uint32_t uid, const v1::MountImageRequest& request) {
    auto operation = service_.StartMount(Of(uid), request);
    if (!operation.ok()) return operation.status();
    return Watcher(*operation).Outcome();
  }
  absl::Status Unmount(uint32_t uid, const std::string& path) {
    v1::UnmountImageRequest request;
    request.set_mount_path(path);
    return Unmount(uid, request);
  }
  absl::Status Unmount(uint32_t uid, const v1::UnmountImageRequest& request) {
    auto operation = service_.StartUnmount(Of(uid), request);
    if (!operation.ok()) return operation.status();
    return Watcher(*operation).Outcome();
  }
  std::vector<v1::Mount> List(uint32_t uid) {
    v1::ListMountsResponse response = service_.ListMounts(Of(uid));
    return {response.mounts().begin(), response.mounts().end()};
  }

  CancelToken never_;
  FakeBroker broker_;
  EventLoop loop_;
  Service service_;
};

}  // namespace dismd

#endif  // TESTS_UNIT_FRONT_HARNESS_H_
