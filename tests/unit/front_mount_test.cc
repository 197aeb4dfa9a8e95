// SPDX-License-Identifier: GPL-3.0-or-later
//
// How the front mounts: the rows of the contract, cancelling at each step, limits.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/front/event_loop.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "libmount/base/reason.h"
#include "tests/unit/front_harness.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::ReasonOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

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
      {"served by a user",
       [](FakeBroker& b, Request&) { ChangeFacts(b, [](Facts& f) { f.set_image_served_by_user(true); }); },
       Reason::kImageOnNetwork},
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

TEST_F(FrontService, OptionsThatDoNotGoWithTheImage) {
  v1::MountImageRequest request = Request();
  request.set_partition(2);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kInvalidFlags) << "a WIM has no partitions";
  request.set_image_path("/home/disk.VHDX");
  request.set_check_integrity(true);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kInvalidFlags) << "a disk has no integrity table";
  request.set_check_integrity(false);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kUnspecified);
}

TEST_F(FrontService, AnImageThatMayNotBeReadIsDeniedAfterTheMountPointsRows) {
  ChangeFacts(broker_, [](internal::PathFacts& f) { f.set_image_errno(EACCES); });
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kAccessDenied);
  ChangeFacts(broker_, [](internal::PathFacts& f) { f.set_mount_is_empty(false); });
  EXPECT_EQ(ReasonOf(Mount(kAnna, Request())), Reason::kMountPointNotEmpty);
  EXPECT_THAT(broker_.journal(), Not(testing::Contains("start")));
  EXPECT_EQ(broker_.slots(), 0u);
}

TEST_F(FrontService, AScratchDirectoryIsLookedAtForReadWriteMounts) {
  v1::MountImageRequest request = Request();
  request.set_scratch_directory("relative");
  EXPECT_TRUE(Mount(kAnna, request).ok());
  request.set_mount_path("/home/other");
  request.set_read_only(false);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kInvalidPath);
  EXPECT_EQ(broker_.slots(), 1u) << "nothing was begun";
}

TEST_F(FrontService, ReadWriteIsRefusedAsTheImageWarrants) {
  v1::MountImageRequest request = Request();
  request.set_read_only(false);
  broker_.opened.set_marked_write_in_progress(true);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kImageInUse);
  broker_.opened.set_is_pipable(true);
  EXPECT_EQ(ReasonOf(Mount(kAnna, request)), Reason::kImageReadOnly);
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

}  // namespace
}  // namespace dismd
