// SPDX-License-Identifier: GPL-3.0-or-later
//
// The front's mounts: whose they are, how they are watched and unmounted, and how the service stops.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

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
using testing::SizeIs;

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
  internal::RegistryRecord record;
  v1::Mount recorded;
  ASSERT_TRUE(record.ParseFromString(broker_.record(1)) && recorded.ParseFromString(record.mount()));
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
  auto operation = service_.StartCommit(Of(kAnna), commit);
  ASSERT_TRUE(operation.ok());
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kMountReadOnly);
  operation = service_.StartCommit(Of(kBert), commit);
  ASSERT_TRUE(operation.ok());
  EXPECT_EQ(ReasonOf(Watcher(*operation).Outcome()), Reason::kNotMounted);
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
  auto removed = service_.CleanupMountpoints(Of(kAnna), v1::CleanupMountpointsRequest());
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
  known.mutable_known_slot()->set_registry_record(RecordOf(record, {}));
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
  EXPECT_FALSE(info->has_disk());
  info = service_.GetImageInfo(Of(kAnna), request, token);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->disk().chain(0).format(), "VHDX");
  EXPECT_EQ(info->disk().partitions(0).label(), "Data \xef\xbf\xbd");
  EXPECT_TRUE(info->disk().partitions(0).is_default());
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
