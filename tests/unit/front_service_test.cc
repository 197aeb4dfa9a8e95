// SPDX-License-Identifier: GPL-3.0-or-later
//
// The front's operations, registry and limits, without gRPC, against a broker that the test plays.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/front/event_loop.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "libmount/base/reason.h"
#include "tests/unit/front_fake_broker.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::ReasonOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr absl::Duration kPatience = absl::Seconds(20);
constexpr uint32_t kAnna = 1000;
constexpr uint32_t kBert = 1001;

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

TEST_F(FrontService, MountsListsAndUnmounts) {
  auto operation = service_.StartMount(Of(kAnna), Request());
  ASSERT_TRUE(operation.ok()) << operation.status();
  Watcher watcher(*operation);
  ASSERT_TRUE(watcher.Outcome().ok()) << watcher.Outcome();
  EXPECT_EQ(broker_.slots(), 1u);

  std::vector<v1::Mount> mounts = List(kAnna);
  ASSERT_THAT(mounts, SizeIs(1));
  EXPECT_THAT(mounts[0].mount_id(), testing::MatchesRegex("m-[0-9a-f]{12}"));
  EXPECT_EQ(mounts[0].mount_path(), "/home/mnt");
  EXPECT_EQ(mounts[0].image_path(), "/home/install.wim");
  EXPECT_EQ(mounts[0].image_name(), "Windows");
  EXPECT_EQ(mounts[0].owner_uid(), kAnna);
  EXPECT_EQ(mounts[0].status(), v1::MOUNT_STATUS_OK);
  EXPECT_EQ(mounts[0].worker_pid(), 4711);
  v1::Mount recorded;
  ASSERT_TRUE(recorded.ParseFromString(broker_.record(1)));
  EXPECT_EQ(recorded.mount_id(), mounts[0].mount_id());

  // Progress never goes backwards, and is complete only at the end.
  std::vector<Operation::Snapshot> seen = watcher.seen();
  for (size_t i = 1; i < seen.size(); ++i) EXPECT_GE(seen[i]->progress().current(), seen[i - 1]->progress().current());
  for (size_t i = 0; i + 1 < seen.size(); ++i) EXPECT_LT(seen[i]->progress().current(), 100u);
  EXPECT_EQ(seen.back()->progress().current(), 100u);
  EXPECT_EQ(seen.back()->mount().mount_id(), mounts[0].mount_id());

  v1::GetMountRequest get;
  get.set_mount_id(mounts[0].mount_id());
  auto got = service_.GetMount(Of(kAnna), get, never_);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->mount().stats().requests(), 42u);

  ASSERT_TRUE(Unmount(kAnna, "/home/mnt").ok());
  EXPECT_THAT(List(kAnna), IsEmpty());
  EXPECT_EQ(broker_.slots(), 0u);
  EXPECT_EQ(ReasonOf(Unmount(kAnna, "/home/mnt")), Reason::kNotMounted);
}

// The rows of the contract, by what is wrong: the first one in the table answers.
struct Row {
  std::string name;
  std::function<void(FakeBroker&, v1::MountImageRequest&)> spoil;
  Reason reason;
};

template <typename Change>
void ChangeFacts(FakeBroker& broker, Change change) {
  auto before = broker.facts;
  broker.facts = [before, change](const internal::InspectPaths& paths) {
    internal::PathFacts facts = before(paths);
    change(facts);
    return facts;
  };
}

std::vector<Row> Rows() {
  using Request = v1::MountImageRequest;
  using Facts = internal::PathFacts;
  return {
      {"path", [](FakeBroker&, Request& r) { r.set_mount_path("mnt"); }, Reason::kInvalidPath},
      {"missing image", [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_image_errno(ENOENT); }); },
       Reason::kImageNotFound},
      {"missing mount point",
       [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_mount_errno(ENOENT); }); },
       Reason::kMountPointNotFound},
      {"extension", [](FakeBroker&, Request& r) { r.set_image_path("/home/a.iso"); }, Reason::kUnsupportedImageType},
      {"content", [](FakeBroker& b, Request&) { b.open_error = Reason::kBadImageFormat; }, Reason::kBadImageFormat},
      {"not empty", [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_mount_is_empty(false); }); },
       Reason::kMountPointNotEmpty},
      {"root", [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_mount_is_root(true); }); },
       Reason::kMountPointIsRoot},
      {"network", [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_image_on_network(true); }); },
       Reason::kImageOnNetwork},
      {"integrity",
       [](FakeBroker& b, Request& r) {
         r.set_check_integrity(true);
         b.check_error = Reason::kIntegrityCheckFailed;
       },
       Reason::kIntegrityCheckFailed},
      {"owner", [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_mount_owned_by_caller(false); }); },
       Reason::kAccessDenied},
      {"policy", [](FakeBroker&, Request& r) { r.set_allow_other(true); }, Reason::kDeniedByPolicy},
  };
}

TEST(FrontContract, TheFirstRowAnswers) {
  std::vector<Row> rows = Rows();
  for (size_t first = 0; first < rows.size(); ++first) {
    // Everything from this row on is wrong; then this row alone.
    for (size_t end : {rows.size(), first + 1}) {
      SCOPED_TRACE(rows[first].name);
      FakeBroker broker;
      v1::MountImageRequest request;
      request.set_image_path("/home/install.wim");
      request.set_mount_path("/home/mnt");
      request.set_image_index(1);
      request.set_read_only(true);
      for (size_t row = first; row < end; ++row) rows[row].spoil(broker, request);
      EventLoop loop;
      Service service(loop, broker.TakeFrontEnd());
      service.Start([](libmount::UniqueFd, Caller) {});
      Caller caller{kAnna, kAnna, 1, std::make_shared<ConnectionLease>(1, [](uint64_t) {})};
      absl::Status outcome;
      auto operation = service.StartMount(caller, request);
      outcome = operation.ok() ? Watcher(*operation).Outcome() : operation.status();
      EXPECT_EQ(ReasonOf(outcome), rows[first].reason) << outcome;
      EXPECT_EQ(broker.slots(), 0u);
      EXPECT_THAT(broker.journal(), Not(testing::Contains("attach")));
    }
  }
}

TEST_F(FrontService, AnImageThatMayNotBeReadIsDeniedAfterTheMountPointsRows) {
  ChangeFacts(broker_, [](internal::PathFacts& f) { f.set_image_errno(EACCES); });
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kAccessDenied);
  ChangeFacts(broker_, [](internal::PathFacts& f) { f.set_mount_is_empty(false); });
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kMountPointNotEmpty);
  EXPECT_THAT(broker_.journal(), Not(testing::Contains("start")));
  EXPECT_EQ(broker_.slots(), 0u);
}

TEST_F(FrontService, ReadWriteIsRefusedAsTheImageWarrants) {
  v1::MountImageRequest request = Request();
  request.set_read_only(false);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kNotImplemented);
  broker_.opened.set_is_solid(true);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kSolidImage);
  broker_.opened.set_is_split(true);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kSplitImage);
  ChangeFacts(broker_, [](internal::PathFacts& f) { f.set_image_writable(false); });
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kImageReadOnly);
  EXPECT_EQ(broker_.slots(), 0u);
}

TEST_F(FrontService, MalformedPaths) {
  for (const std::string& path :
       {std::string(), std::string("rel.wim"), "/" + std::string(4095, 'a') + ".wim", std::string("/a\0b.wim", 8)}) {
    v1::MountImageRequest request = Request();
    request.set_image_path(path);
    EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kInvalidPath);
    request = Request(path);
    EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kInvalidPath);
  }
  EXPECT_THAT(broker_.journal(), ElementsAre("ready"));
}

class FrontCancel : public FrontService, public testing::WithParamInterface<std::string> {};

// A step that does not answer is given up, or waited for; in either case nothing is left when the caller hears of it.
TEST_P(FrontCancel, LeavesNothing) {
  std::string step = GetParam();
  broker_.marks_serving = step != "serving";
  if (step != "serving") broker_.Hold(step);
  v1::MountImageRequest request = Request();
  request.set_check_integrity(true);
  auto operation = service_.StartMount(Of(kAnna), request);
  ASSERT_TRUE(operation.ok());
  Watcher watcher(*operation);
  broker_.WaitFor(step == "serving" ? "create" : step);
  EXPECT_TRUE((*operation)->Cancel());
  // The broker always answers: at once where it is told that nobody waits any more.
  if (step == "start" || step == "create") broker_.Release(step);
  EXPECT_EQ(ReasonOf(watcher.Outcome()), Reason::kCancelled);
  EXPECT_EQ(broker_.slots(), 0u);
  EXPECT_EQ((*operation)->snapshot()->state(), v1::OPERATION_STATE_CANCELLED);
  EXPECT_THAT(List(kAnna), IsEmpty());
  EXPECT_THAT(broker_.journal(), Not(testing::Contains("attach")));
  EXPECT_EQ(testing::Value(broker_.journal(), testing::Contains("abandon")), step == "inspect");
  broker_.Release(step);
}

INSTANTIATE_TEST_SUITE_P(EachStep, FrontCancel,
                         testing::Values("inspect", "start", "open", "check", "create", "serving"),
                         [](const auto& info) { return info.param; });

TEST_F(FrontService, TheOperationEndsOnlyAfterItsSlotIsGone) {
  broker_.Hold("open");
  broker_.Hold("release");
  auto operation = service_.StartMount(Of(kAnna), Request());
  broker_.WaitFor("open");
  (*operation)->Cancel();
  broker_.WaitFor("release");
  EXPECT_FALSE((*operation)->ended());
  broker_.Release("release");
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kCancelled);
  broker_.Release("open");
}

TEST_F(FrontService, WhoWaitsForAPathIsLetGoWhenCancelled) {
  broker_.Hold("resolve");
  v1::UnmountImageRequest unmount;
  unmount.set_mount_path("/does/not/answer");
  auto operation = service_.StartUnmount(Of(kAnna), unmount);
  broker_.WaitFor("resolve");
  EXPECT_TRUE((*operation)->Cancel());
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kCancelled);

  CancelToken cancelled;
  cancelled.Cancel();
  v1::GetMountRequest get;
  get.set_mount_path("/does/not/answer");
  EXPECT_EQ(ReasonOf(service_.GetMount(Of(kAnna), get, cancelled).status()), Reason::kCancelled);
}

TEST_F(FrontService, WhyAPathCouldNotBeLookedAtIsTold) {
  broker_.failing.insert("resolve");
  EXPECT_EQ(ReasonOf(Unmount(kAnna, "/somewhere")), Reason::kOutOfResources);
}

TEST_F(FrontService, ALateCancelComesTooLate) {
  broker_.Hold("attach");
  auto operation = service_.StartMount(Of(kAnna), Request());
  broker_.WaitFor("attach");
  EXPECT_FALSE((*operation)->Cancel());
  broker_.Release("attach");
  EXPECT_TRUE(Watcher(*operation).Outcome().ok());
  EXPECT_THAT(List(kAnna), SizeIs(1));
}

TEST_F(FrontService, AFailedAttachmentLeavesNothing) {
  broker_.failing.insert("attach");
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kOutOfResources);
  EXPECT_EQ(broker_.slots(), 0u);
  EXPECT_THAT(List(kAnna), IsEmpty());
}

TEST_F(FrontService, AWorkerThatDiesWhileOpening) {
  broker_.Hold("open");
  auto operation = service_.StartMount(Of(kAnna), Request());
  broker_.WaitFor("open");
  broker_.KillWorker(1);
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kWorkerDied);
  EXPECT_EQ(broker_.slots(), 0u);
  broker_.Release("open");
}

TEST_F(FrontService, MountsBeyondAUsersShareWaitAndCanBeCancelled) {
  broker_.Hold("open");
  std::vector<std::shared_ptr<Operation>> held;
  for (size_t i = 0; i < kMaxConcurrentMountsPerUid; ++i) {
    held.push_back(*service_.StartMount(Of(kAnna), Request("/home/mnt" + std::to_string(i))));
  }
  broker_.WaitFor("open", kMaxConcurrentMountsPerUid);
  auto waiting = service_.StartMount(Of(kAnna), Request("/home/waits"));
  ASSERT_TRUE(waiting.ok());
  EXPECT_TRUE((*waiting)->Cancel());
  EXPECT_EQ(ReasonOf(Watcher(*waiting).Outcome()), Reason::kCancelled);  // at once, though all others hang
  // Another user is not held up.
  auto other = service_.StartMount(Of(kBert), Request("/home/bert"));
  broker_.WaitFor("open", kMaxConcurrentMountsPerUid + 1);
  broker_.Release("open");
  EXPECT_TRUE(Watcher(*other).Outcome().ok());
  for (const auto& operation : held) EXPECT_TRUE(Watcher(operation).Outcome().ok());
}

TEST_F(FrontService, TwoMountsAtOnceAtOnePlace) {
  broker_.Hold("create");
  auto first = service_.StartMount(Of(kAnna), Request());
  broker_.WaitFor("create");
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kMountPointInUse);
  broker_.Release("create");
  EXPECT_TRUE(Watcher(*first).Outcome().ok());
}

TEST_F(FrontService, LimitsNameThemselves) {
  broker_.Hold("inspect");
  std::vector<std::shared_ptr<Operation>> operations;
  absl::Status refused;
  for (size_t i = 0; i <= kMaxOperationsPerUid; ++i) {
    auto operation = service_.StartMount(Of(kAnna), Request());
    if (!operation.ok()) refused = operation.status();
  }
  EXPECT_EQ(ReasonOf(refused), Reason::kTooManyOperations);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("operations_per_uid"));
  EXPECT_TRUE(service_.StartMount(Of(kBert), Request()).ok());

  std::vector<std::unique_ptr<WatchSeat>> seats;
  for (size_t i = 0; i < kMaxWatchesPerUid; ++i) seats.push_back(*service_.TakeWatchSeat(Of(kAnna)));
  EXPECT_EQ(ReasonOf(service_.TakeWatchSeat(Of(kAnna)).status()), Reason::kTooManyOperations);
  seats.pop_back();
  EXPECT_TRUE(service_.TakeWatchSeat(Of(kAnna)).ok());
  broker_.Release("inspect");
}

TEST_F(FrontService, AUserHasSoManyMountsAndNoMore) {
  std::vector<std::unique_ptr<MountSeat>> seats;
  for (size_t i = 0; i < kMaxMountsPerUid; ++i) seats.push_back(*service_.registry().Reserve(kAnna));
  absl::Status refused = Mount(kAnna, Request());
  EXPECT_EQ(ReasonOf(refused), Reason::kTooManyMounts);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("mounts_per_uid"));
  EXPECT_TRUE(Mount(kBert, Request()).ok());
  seats.pop_back();
  EXPECT_TRUE(Mount(kAnna, Request("/home/other")).ok());
}

TEST_F(FrontService, UsersSeeTheirOwnOnly) {
  auto operation = service_.StartMount(Of(kAnna), Request());
  ASSERT_TRUE(Watcher(*operation).Outcome().ok());
  std::string id = List(kAnna)[0].mount_id();

  EXPECT_THAT(List(kBert), IsEmpty());
  EXPECT_THAT(List(0), SizeIs(1));
  v1::GetMountRequest get;
  get.set_mount_id(id);
  EXPECT_EQ(ReasonOf(service_.GetMount(Of(kBert), get, never_).status()), Reason::kNotMounted);
  get.set_mount_id("m-000000000000");
  EXPECT_EQ(ReasonOf(service_.GetMount(Of(kAnna), get, never_).status()), Reason::kNotMounted);
  EXPECT_EQ(ReasonOf(Unmount(kBert, "/home/mnt")), Reason::kNotMounted);
  EXPECT_EQ(ReasonOf(service_.FindOperation(Of(kBert), (*operation)->id()).status()), Reason::kOperationNotFound);
  EXPECT_TRUE(service_.FindOperation(Of(kAnna), (*operation)->id()).ok());
  EXPECT_TRUE(service_.FindOperation(Of(0), (*operation)->id()).ok());
  {
    Events events(service_, Of(kBert));
    EXPECT_EQ(events.Next().event(), v1::MOUNT_EVENT_SYNCED);
  }
  EXPECT_TRUE(Unmount(0, "/home/mnt").ok());
}

TEST_F(FrontService, AMountIsFoundWhereAPathLeads) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  broker_.resolve = [](const std::string&) {
    internal::PathsResolved resolved;
    resolved.set_slot_id(1);
    return resolved;
  };
  v1::GetMountRequest get;
  get.set_mount_path("/link/mnt");
  auto got = service_.GetMount(Of(kAnna), get, never_);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->mount().mount_path(), "/home/mnt");
  EXPECT_EQ(ReasonOf(service_.GetMount(Of(kBert), get, never_).status()), Reason::kNotMounted);
}

TEST_F(FrontService, ABusyMountStays) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  broker_.SetBusy(1, true);
  absl::Status busy = Unmount(kAnna, "/home/mnt");
  EXPECT_EQ(ReasonOf(busy), Reason::kMountBusy);
  EXPECT_THAT(std::string(busy.message()), HasSubstr("bash (99)"));
  EXPECT_THAT(List(kAnna), SizeIs(1));
  broker_.SetBusy(1, false);
  EXPECT_TRUE(Unmount(kAnna, "/home/mnt").ok());
}

TEST_F(FrontService, ASecondUnmountWaitsForTheFirst) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  broker_.Hold("unmount");
  v1::UnmountImageRequest request;
  request.set_mount_path("/home/mnt");
  auto first = service_.StartUnmount(Of(kAnna), request);
  broker_.WaitFor("unmount");
  auto second = service_.StartUnmount(Of(kAnna), request);
  broker_.Release("unmount");
  EXPECT_TRUE(Watcher(*first).Outcome().ok());
  EXPECT_EQ(ReasonOf(Watcher(*second).Outcome()), Reason::kNotMounted);
}

TEST_F(FrontService, ThereIsNothingToCommitInAReadOnlyMount) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  v1::UnmountImageRequest request;
  request.set_mount_path("/home/mnt");
  request.set_changes(v1::CHANGES_COMMIT);
  EXPECT_EQ(ReasonOf(Unmount(kAnna, request)), Reason::kMountReadOnly);
  v1::CommitImageRequest commit;
  commit.set_mount_path("/home/mnt");
  EXPECT_EQ(ReasonOf(service_.CommitImage(Of(kAnna), commit)), Reason::kMountReadOnly);
  EXPECT_EQ(ReasonOf(service_.CommitImage(Of(kBert), commit)), Reason::kNotMounted);
  request.set_changes(v1::CHANGES_DISCARD);
  EXPECT_TRUE(Unmount(kAnna, request).ok());
}

TEST_F(FrontService, WatchersSeeWhatHappens) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  Events events(service_, Of(kAnna));
  EXPECT_EQ(events.Next().event(), v1::MOUNT_EVENT_ADDED);
  EXPECT_EQ(events.Next().event(), v1::MOUNT_EVENT_SYNCED);

  internal::WorkerToFront damage;
  damage.mutable_damage()->set_path("Windows/\xff.exe");
  damage.mutable_damage()->set_message("hash mismatch");
  broker_.SendFromWorker(1, damage);
  v1::WatchMountsResponse changed = events.Next();
  EXPECT_EQ(changed.event(), v1::MOUNT_EVENT_CHANGED);
  EXPECT_EQ(changed.mount().damaged_files(0).path(), "Windows/\xef\xbf\xbd.exe");
  EXPECT_EQ(changed.mount().status(), v1::MOUNT_STATUS_OK);

  broker_.KillWorker(1);
  changed = events.Next();
  EXPECT_EQ(changed.mount().status(), v1::MOUNT_STATUS_INVALID);
  EXPECT_THAT(changed.mount().status_message(), HasSubstr("signal 9"));
  EXPECT_EQ(changed.mount().worker_pid(), 0);

  // It is of no use to anyone any more: busy or not, it goes.
  broker_.SetBusy(1, true);
  auto removed = service_.CleanupMountpoints(Of(kAnna));
  ASSERT_TRUE(removed.ok());
  EXPECT_EQ(removed->removed_size(), 1);
  EXPECT_EQ(events.Next().event(), v1::MOUNT_EVENT_REMOVED);
  EXPECT_TRUE(events.Empty());
  EXPECT_EQ(broker_.slots(), 0u);
}

TEST_F(FrontService, DamageWithoutEndIsCounted) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  constexpr uint64_t kCount = 1000;
  internal::WorkerToFront damage;
  damage.mutable_damage()->set_path("x");
  for (uint64_t i = 0; i < kCount; ++i) broker_.SendFromWorker(1, damage);
  Events events(service_, Of(kAnna));
  // Damage 512 is the last that is told; what is after it is found by asking.
  while (List(kAnna)[0].damaged_file_count() < kCount) {
    v1::GetMountRequest get;
    get.set_mount_path("/home/mnt");
    ASSERT_TRUE(
        service_.GetMount(Of(kAnna), get, never_).ok());  // waits for an answer of the worker, behind its events
  }
  EXPECT_EQ(List(kAnna)[0].damaged_files_size(), kMaxDamagedFiles);
}

TEST_F(FrontService, AWatcherThatDoesNotReadIsEnded) {
  auto subscription = service_.registry().Subscribe(Of(kAnna), [] {});
  bool overflowed = false;
  EXPECT_EQ(subscription->Take(&overflowed)->event(), v1::MOUNT_EVENT_SYNCED);
  for (size_t i = 0; i < kMaxWaitingEvents / 2 + 1; ++i) {
    auto seat = service_.registry().Reserve(kAnna);
    v1::Mount mount;
    mount.set_mount_id((*seat)->mount_id());
    mount.set_owner_uid(kAnna);
    (*seat)->Publish(mount, nullptr);
    service_.registry().EndUnmount(mount.mount_id(), true);
  }
  EXPECT_EQ(subscription->Take(&overflowed), nullptr);
  EXPECT_TRUE(overflowed);
  service_.registry().Unsubscribe(subscription);
}

TEST_F(FrontService, ACallerInAnotherNamespaceIsToldSo) {
  broker_.facts = [](const internal::InspectPaths&) {  // nothing was opened
    internal::PathFacts facts;
    facts.set_other_namespace(true);
    return facts;
  };
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kOtherNamespace);
  v1::GetImageInfoRequest info;
  info.set_image_path("/home/install.wim");
  CancelToken token;
  EXPECT_EQ(ReasonOf(service_.GetImageInfo(Of(kAnna), info, token).status()), Reason::kOtherNamespace);
  v1::MountImageRequest request = Request();
  request.set_image_path("/home/install.iso");
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kUnsupportedImageType);
}

TEST_F(FrontService, AnUmountByHandIsNoticed) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  Events events(service_, Of(kAnna));
  events.Next();
  events.Next();
  // What happens then: the worker's service ends, it exits, and the broker finds no mount any more.
  internal::WorkerToFront ended;
  ended.mutable_serving_ended();
  broker_.SendFromWorker(1, ended);
  v1::GetMountRequest get;
  get.set_mount_path("/home/mnt");
  ASSERT_TRUE(service_.GetMount(Of(kAnna), get, never_).ok());  // the worker's answer comes behind its event
  internal::BrokerToFront exited;
  exited.mutable_worker_exited()->set_slot_id(1);
  broker_.SendToFront(exited);
  internal::BrokerToFront gone;
  gone.mutable_mount_gone()->set_slot_id(1);
  broker_.SendToFront(gone);
  EXPECT_EQ(events.Next().event(), v1::MOUNT_EVENT_REMOVED);
  broker_.WaitFor("release");
  EXPECT_THAT(List(kAnna), IsEmpty());
}

TEST_F(FrontService, MountsOfAFrontBeforeAreKnownAgain) {
  internal::BrokerToFront known;
  v1::Mount record;
  record.set_image_name("Windows 11");
  record.set_image_index(4);
  known.mutable_known_slot()->set_slot_id(7);
  known.mutable_known_slot()->set_mount_id("m-0123456789ab");
  known.mutable_known_slot()->mutable_owner()->set_uid(kAnna);
  known.mutable_known_slot()->set_mount_path("/home/old");
  known.mutable_known_slot()->set_read_only(true);
  known.mutable_known_slot()->set_worker_pid(12);
  known.mutable_known_slot()->set_registry_record(record.SerializeAsString());
  Events events(service_, Of(kAnna));
  events.Next();
  auto ends = Channel::CreatePair();
  broker_.SendToFront(known, std::move(ends->second));
  v1::WatchMountsResponse added = events.Next();
  EXPECT_EQ(added.event(), v1::MOUNT_EVENT_ADDED);
  EXPECT_EQ(added.mount().image_name(), "Windows 11");
  EXPECT_EQ(added.mount().image_index(), 4u);
  EXPECT_EQ(added.mount().status(), v1::MOUNT_STATUS_OK);
  EXPECT_TRUE(Unmount(kAnna, "/home/old").ok());
}

TEST_F(FrontService, ImageInfo) {
  v1::GetImageInfoRequest request;
  request.set_image_path("/home/install.wim");
  CancelToken token;
  auto info = service_.GetImageInfo(Of(kAnna), request, token);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_EQ(info->images_size(), 1);
  EXPECT_EQ(info->images(0).image_name(), "Windows \xef\xbf\xbd");
  EXPECT_EQ(info->images(0).architecture(), 9u);
  EXPECT_EQ(broker_.slots(), 0u);
  request.set_image_path("/home/disk.vhdx");
  EXPECT_EQ(ReasonOf(service_.GetImageInfo(Of(kAnna), request, token).status()), Reason::kNotImplemented);
  EXPECT_EQ(broker_.slots(), 0u);
}

TEST_F(FrontService, StopUnmountsTheNewestFirst) {
  ASSERT_TRUE(Mount(kAnna, Request("/home/1")).ok());
  ASSERT_TRUE(Mount(kBert, Request("/home/2")).ok());
  ASSERT_TRUE(Mount(kAnna, Request("/home/3")).ok());
  broker_.SetBusy(1, true);
  broker_.Hold("open");
  auto making = service_.StartMount(Of(kAnna), Request("/home/4"));
  broker_.WaitFor("open", 4);
  Events events(service_, Of(0));
  for (int i = 0; i < 4; ++i) events.Next();

  internal::BrokerToFront stop;
  stop.mutable_stop()->set_grace_milliseconds(3000);
  broker_.SendToFront(stop);
  EXPECT_EQ(events.Next().mount().mount_path(), "/home/3");
  EXPECT_EQ(events.Next().mount().mount_path(), "/home/2");
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request("/home/5"))), Reason::kShuttingDown);
  service_.WaitForEnd();
  EXPECT_EQ(ReasonOf(Watcher(*making).Outcome()), Reason::kCancelled);
  broker_.WaitFor("stop-done");
  broker_.Release("open");
  EXPECT_EQ(broker_.slots(), 1u);
}

TEST_F(FrontService, WithoutABrokerItStopsAtOnce) {
  ASSERT_TRUE(Mount(kAnna, Request()).ok());
  broker_.SetBusy(1, true);
  internal::BrokerToFront stop;
  stop.mutable_stop()->set_grace_milliseconds(60'000);
  broker_.SendToFront(stop);
  broker_.WaitFor("unmount", 2);
  absl::Time start = absl::Now();
  broker_.Hangup();
  service_.WaitForEnd();
  service_.Close();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(FrontService, TheBrokersDeathEndsEverything) {
  broker_.Hold("inspect");
  auto operation = service_.StartMount(Of(kAnna), Request());
  broker_.WaitFor("inspect");
  broker_.Hangup();
  service_.WaitForEnd();
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kShuttingDown);
  broker_.Release("inspect");
}

TEST(FrontBudget, IsDividedByWhatIsWanted) {
  EXPECT_THAT(DivideBudget(100, {0}), ElementsAre(100));
  EXPECT_THAT(DivideBudget(100, {0, 0}), ElementsAre(50, 50));
  EXPECT_THAT(DivideBudget(100, {10, 0, 0}), ElementsAre(10, 45, 45));
  EXPECT_THAT(DivideBudget(100, {10, 30, 0}), ElementsAre(10, 30, 60));
  EXPECT_THAT(DivideBudget(100, {1000, 1000}), ElementsAre(50, 50));
  EXPECT_THAT(DivideBudget(100, {}), IsEmpty());
}

}  // namespace
}  // namespace dismd
