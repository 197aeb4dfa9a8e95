// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the broker finds out about paths, and the tricks that callers may try with them.

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "gmock/gmock.h"
#include "tests/integration/broker/broker_harness.h"

namespace dismd {
namespace {

using internal::BrokerReply;
using internal::FrontToBroker;
using internal::PathFacts;
using libmount::Reason;
using libmount::UniqueFd;

class BrokerPathsTest : public BrokerHarness {
 protected:
  BrokerReply Resolve(uint64_t connection, const std::string& path) {
    FrontToBroker request;
    request.mutable_resolve_path()->set_connection_id(connection);
    request.mutable_resolve_path()->set_path(path);
    return Call(request);
  }
};

// A FUSE mount of a user's whose server takes requests and never answers: whoever waits for it cannot even be killed.
class StalledMount {
 public:
  StalledMount(const std::string& path, uint32_t uid) : path_(path), fuse_(open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    std::string options = "fd=" + std::to_string(fuse_.get()) + ",rootmode=40000,user_id=" + std::to_string(uid) +
                          ",group_id=" + std::to_string(uid);
    if (mount("stalled", path.c_str(), "fuse.stalled", 0, options.c_str()) != 0) return;
    char buffer[65536];
    if (read(fuse_.get(), buffer, sizeof(buffer)) < 0) return;
    struct {
      fuse_out_header header;
      fuse_init_out init;
    } answer = {};
    answer.header.len = sizeof(answer);
    answer.header.unique = reinterpret_cast<fuse_in_header*>(buffer)->unique;
    answer.init.major = FUSE_KERNEL_VERSION;
    answer.init.minor = 31;
    answer.init.max_write = 65536;
    ok_ = write(fuse_.get(), &answer, sizeof(answer)) == sizeof(answer);
    swallower_ = std::thread([this] {
      char request[1 << 17];  // more than max_write and its headers
      while (read(fuse_.get(), request, sizeof(request)) > 0) ++swallowed_;
    });
  }
  ~StalledMount() {
    umount2(path_.c_str(), MNT_FORCE);  // aborts the connection: the swallower and the stuck ones end
    umount2(path_.c_str(), MNT_DETACH);
    if (swallower_.joinable()) swallower_.join();
  }
  bool ok() const { return ok_; }
  int swallowed() const { return swallowed_; }

 private:
  const std::string path_;
  UniqueFd fuse_;
  bool ok_ = false;
  std::atomic<int> swallowed_ = 0;
  std::thread swallower_;
};

TEST_F(BrokerPathsTest, TellsWhatIsThere) {
  uint64_t alice = Connect(kAlice).connection_id();
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  ASSERT_EQ(symlink(image_.c_str(), (Home(kAlice) + "/link.wim").c_str()), 0);
  PathFacts facts = Inspect(alice, Home(kAlice) + "/../" + std::to_string(kAlice) + "/link.wim", mount_point + "/.");
  EXPECT_EQ(facts.image_errno(), 0);
  EXPECT_TRUE(facts.image_is_regular());
  EXPECT_FALSE(facts.image_on_network());
  EXPECT_EQ(facts.image_real_path(), image_);
  EXPECT_EQ(facts.mount_errno(), 0);
  EXPECT_TRUE(facts.mount_is_directory());
  EXPECT_TRUE(facts.mount_is_empty());
  EXPECT_FALSE(facts.mount_is_root());
  EXPECT_TRUE(facts.mount_owned_by_caller());
  EXPECT_TRUE(facts.mount_file_system_allowed());
  EXPECT_EQ(facts.mount_real_path(), mount_point);
  EXPECT_EQ(facts.mount_in_use_slot(), 0U);
}

TEST_F(BrokerPathsTest, TellsWhatIsWrong) {
  uint64_t alice = Connect(kAlice).connection_id();
  PathFacts facts = Inspect(alice, Home(kAlice) + "/missing.wim", Home(kAlice) + "/missing");
  EXPECT_EQ(facts.image_errno(), ENOENT);
  EXPECT_EQ(facts.mount_errno(), ENOENT);
  facts = Inspect(alice, Home(kAlice), image_);
  EXPECT_EQ(facts.image_errno(), 0);
  EXPECT_TRUE(facts.image_is_directory());
  EXPECT_EQ(facts.mount_errno(), 0);
  EXPECT_FALSE(facts.mount_is_directory());
  facts = Inspect(alice, image_, Home(kAlice));
  EXPECT_FALSE(facts.mount_is_empty());
  facts = Inspect(alice, image_, "/");
  EXPECT_TRUE(facts.mount_is_root());
  facts = Inspect(alice, image_, "/proc/self/task");
  EXPECT_FALSE(facts.mount_file_system_allowed());
  EXPECT_EQ(facts.mount_file_system(), "proc");
}

TEST_F(BrokerPathsTest, OthersFilesAreRefusedByTheKernel) {
  uint64_t bob = Connect(kBob).connection_id();
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  PathFacts facts = Inspect(bob, image_, mount_point);
  EXPECT_EQ(facts.image_errno(), EACCES);
  EXPECT_TRUE(facts.image_is_regular());
  EXPECT_EQ(facts.mount_errno(), 0);
  EXPECT_FALSE(facts.mount_owned_by_caller());
  EXPECT_EQ(facts.mount_owner(), kAlice);
  chmod(Home(kAlice).c_str(), 0700);
  facts = Inspect(bob, image_, mount_point);
  EXPECT_EQ(facts.image_errno(), EACCES);
  EXPECT_EQ(facts.mount_errno(), EACCES);
  EXPECT_EQ(Resolve(bob, mount_point).error().reason(), static_cast<int>(Reason::kAccessDenied));
}

TEST_F(BrokerPathsTest, OthersDirectoryIsNeverMountedOn) {
  uint64_t bob = Connect(kBob).connection_id();
  std::string image = Home(kBob) + "/image.wim";
  WriteFile(image, "Bob's");
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  // As a front would that has been taken over: it goes on although the facts say no.
  Mounted mounted = Mount(bob, image, mount_point);
  EXPECT_EQ(mounted.result.error().reason(), static_cast<int>(Reason::kAccessDenied));
  EXPECT_FALSE(IsMounted(mount_point));
  EXPECT_FALSE(Release(mounted.slot).has_error());
}

TEST_F(BrokerPathsTest, MagicLinksAreNotFollowed) {
  uint64_t alice = Connect(kAlice).connection_id();
  PathFacts facts = Inspect(alice, "/proc/self/exe", "/proc/self/cwd");
  EXPECT_EQ(facts.image_errno(), ELOOP);
  EXPECT_EQ(facts.mount_errno(), ELOOP);
}

TEST_F(BrokerPathsTest, FifosAndDevicesAreNotOpened) {
  uint64_t root = Connect(0).connection_id();
  std::string fifo = Home(0) + "/fifo.wim";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, std::string("/dev/zero")}) {
    PathFacts facts = Inspect(root, path, "");
    EXPECT_EQ(facts.image_errno(), 0);
    EXPECT_FALSE(facts.image_is_regular());
    EXPECT_EQ(facts.image_real_path(), "");
    FrontToBroker start;
    start.mutable_start_worker()->set_slot_id(facts.slot_id());
    EXPECT_TRUE(Call(start).has_error());
  }
}

TEST_F(BrokerPathsTest, AMountPointReplacedBeforeAttachIsRefused) {
  uint64_t alice = Connect(kAlice).connection_id();
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  struct Trick {
    Reason expected;
    std::function<void()> play;
    std::function<void()> undo;
  };
  std::string moved = mount_point + ".moved";
  const Trick tricks[] = {
      {Reason::kMountPointNotFound,
       [&] { rename(mount_point.c_str(), moved.c_str()), symlink("/etc", mount_point.c_str()); },
       [&] { unlink(mount_point.c_str()), rename(moved.c_str(), mount_point.c_str()); }},
      {Reason::kMountPointNotFound, [&] { rmdir(mount_point.c_str()), mkdir(mount_point.c_str(), 0777); },
       [&] { EXPECT_EQ(chown(mount_point.c_str(), kAlice, kAlice), 0); }},
      {Reason::kMountPointNotEmpty, [&] { WriteFile(mount_point + "/file", "now"); },
       [&] { unlink((mount_point + "/file").c_str()); }},
      {Reason::kMountPointInUse, [&] { mount("x", mount_point.c_str(), "tmpfs", 0, nullptr); },
       [&] { umount2(mount_point.c_str(), 0); }},
      {Reason::kAccessDenied, [&] { EXPECT_EQ(chown(mount_point.c_str(), kBob, kBob), 0); },
       [&] { EXPECT_EQ(chown(mount_point.c_str(), kAlice, kAlice), 0); }},
  };
  for (const Trick& trick : tricks) {
    Mounted mounted = Mount(alice, image_, mount_point, trick.play);
    EXPECT_EQ(mounted.result.error().reason(), static_cast<int>(trick.expected)) << mounted.result.error().message();
    trick.undo();
    EXPECT_FALSE(IsMounted(mount_point));
    EXPECT_FALSE(Release(mounted.slot).has_error());
  }
}

TEST_F(BrokerPathsTest, RecognisesItsMountsForAnyone) {
  uint64_t alice = Connect(kAlice).connection_id();
  uint64_t bob = Connect(kBob).connection_id();
  uint64_t root = Connect(0).connection_id();
  Mounted mounted = Mount(alice, image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  kill(mounted.worker_pid, SIGSTOP);  // whoever asks the mount now, waits
  for (uint64_t connection : {alice, bob, root}) {
    PathFacts facts = Inspect(connection, image_, mounted.path + "/");
    EXPECT_EQ(facts.mount_in_use_slot(), mounted.slot);
    BrokerReply resolved = Resolve(connection, mounted.path);
    EXPECT_EQ(resolved.paths_resolved().slot_id(), mounted.slot) << resolved.error().message();
    EXPECT_EQ(resolved.paths_resolved().real_path(), mounted.path);
  }
  kill(mounted.worker_pid, SIGCONT);
}

TEST_F(BrokerPathsTest, AStalledFileSystemKeepsNobodyElseWaiting) {
  uint64_t alice = Connect(kAlice).connection_id();
  uint64_t bob = Connect(kBob).connection_id();
  StalledMount stalled(MakeDirectory(kAlice, "stalled"), kAlice);
  ASSERT_TRUE(stalled.ok());
  FrontToBroker request;
  request.mutable_inspect_paths()->set_connection_id(alice);
  request.mutable_inspect_paths()->set_image_path(Home(kAlice) + "/stalled/image.wim");
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 12; ++i) waiting.push_back(Send(request));  // more than a user's share of children
  ASSERT_TRUE(Eventually([&] { return stalled.swallowed() > 0; }));
  EXPECT_EQ(Inspect(bob, "/etc/hostname", MakeDirectory(kBob, "mnt")).image_errno(), 0);
  for (auto& [event, fds] : events_) EXPECT_FALSE(event.has_reply()) << "answered before its deadline";
  for (uint64_t id : waiting) EXPECT_EQ(WaitReply(id).error().reason(), static_cast<int>(Reason::kPathTimedOut));
}

TEST_F(BrokerPathsTest, WhatNobodyWaitsForAnyMoreIsAnsweredAtOnce) {
  uint64_t alice = Connect(kAlice).connection_id();
  uint64_t bob = Connect(kBob).connection_id();
  StalledMount stalled(MakeDirectory(kAlice, "stalled"), kAlice);
  ASSERT_TRUE(stalled.ok());
  FrontToBroker inspect, resolve;
  inspect.mutable_inspect_paths()->set_connection_id(alice);
  inspect.mutable_inspect_paths()->set_image_path(Home(kAlice) + "/stalled/image.wim");
  resolve.mutable_resolve_path()->set_connection_id(alice);
  resolve.mutable_resolve_path()->set_path(Home(kAlice) + "/stalled/mnt");
  // More than a user's share of children, so that some are abandoned while they wait for their turn.
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 6; ++i) waiting.insert(waiting.end(), {Send(inspect), Send(resolve)});
  ASSERT_TRUE(Eventually([&] { return stalled.swallowed() > 0; }));
  auto start = std::chrono::steady_clock::now();
  for (uint64_t id : waiting) {
    FrontToBroker abandon;
    abandon.mutable_abandon_request()->set_request_id(id);
    EXPECT_TRUE(front_->Send(abandon).ok());
  }
  for (uint64_t id : waiting) EXPECT_EQ(WaitReply(id).error().reason(), static_cast<int>(Reason::kCancelled));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_EQ(Inspect(bob, "/etc/hostname", MakeDirectory(kBob, "mnt")).image_errno(), 0);
}

TEST_F(BrokerPathsTest, AnImageInsideAFuseMountOfTheCallersIsFound) {
  // Root may not look into it; the child that opens the image need not be root.
  uint64_t alice = Connect(kAlice).connection_id();
  Mounted outer = Mount(alice, image_, MakeDirectory(kAlice, "outer"));
  ASSERT_FALSE(outer.result.has_error());
  PathFacts facts = Inspect(alice, outer.path + "/hello", MakeDirectory(kAlice, "inner"));
  EXPECT_EQ(facts.image_errno(), 0);
  EXPECT_EQ(facts.image_file_system(), "fuse.dismd");
  EXPECT_EQ(facts.image_real_path(), outer.path + "/hello");
  EXPECT_FALSE(Release(facts.slot_id()).has_error());
}

TEST_F(BrokerPathsTest, OtherMountNamespaceIsTold) {
  uint64_t other = Connect(kAlice, true).connection_id();
  PathFacts facts = Inspect(other, image_, Home(kAlice));
  EXPECT_TRUE(facts.other_namespace());
  EXPECT_EQ(facts.slot_id(), 0U);
  EXPECT_EQ(Resolve(other, image_).error().reason(), static_cast<int>(Reason::kOtherNamespace));
}

TEST_F(BrokerPathsTest, UnknownConnectionsAndRelativePathsAreRefused) {
  FrontToBroker request;
  request.mutable_inspect_paths()->set_connection_id(4711);
  request.mutable_inspect_paths()->set_image_path(image_);
  EXPECT_EQ(Call(request).error().reason(), static_cast<int>(Reason::kCancelled));
  uint64_t alice = Connect(kAlice).connection_id();
  request.mutable_inspect_paths()->set_connection_id(alice);
  request.mutable_inspect_paths()->set_image_path("image.wim");
  EXPECT_EQ(Call(request).error().reason(), static_cast<int>(Reason::kInvalidPath));
  FrontToBroker closed;
  closed.mutable_connection_closed()->set_connection_id(alice);
  Send(closed);
  request.mutable_inspect_paths()->set_image_path(image_);
  EXPECT_EQ(Call(request).error().reason(), static_cast<int>(Reason::kCancelled));
}

}  // namespace
}  // namespace dismd
