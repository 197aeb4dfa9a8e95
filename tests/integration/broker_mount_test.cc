// SPDX-License-Identifier: GPL-3.0-or-later
//
// The broker's way up and down: mounts that appear and vanish, workers that die, what is in use.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "gmock/gmock.h"
#include "tests/integration/broker/broker_harness.h"

namespace dismd {
namespace {

using internal::BrokerReply;
using internal::BrokerToFront;
using internal::FrontToBroker;
using libmount::Reason;
using libmount::UniqueFd;
using ::testing::HasSubstr;
using ::testing::Not;

class BrokerMountTest : public BrokerHarness {};

// A process of Alice's that reads a file which never answers, and one that started it and may keep the file open.
class StalledReader {
 public:
  StalledReader(const std::string& path, bool keep_open) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) abort();
    results_.reset(ends[0]);
    UniqueFd writer(ends[1]);
    starter_ = std::make_unique<Helper>(kAlice, [&] {
      int file = open(path.c_str(), O_RDONLY);
      if (fork() == 0) {
        char byte;
        char result = read(file, &byte, 1) < 0 ? 'e' : 'r';
        _exit(write(writer.get(), &result, 1) == 1 ? 0 : 1);
      }
      if (!keep_open) close(file);
      return 0;
    });
  }

  // 'e': the read has ended with an error; 'r': with bytes; '-': it hangs.
  char Result() const {
    pollfd entry = {results_.get(), POLLIN, 0};
    char result = '-';
    return poll(&entry, 1, 20'000) == 1 && read(results_.get(), &result, 1) == 1 ? result : '-';
  }
  void EndStarter() { starter_->End(); }

 private:
  UniqueFd results_;
  std::unique_ptr<Helper> starter_;
};

TEST_F(BrokerMountTest, MountsAsTheCallerAndUnmounts) {
  internal::NewConnection alice = Connect(kAlice);
  EXPECT_EQ(alice.identity().uid(), kAlice);
  EXPECT_EQ(alice.identity().gid(), kAlice);
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  Mounted mounted = Mount(alice.connection_id(), image_, mount_point);
  ASSERT_FALSE(mounted.result.has_error()) << mounted.result.error().message();
  EXPECT_TRUE(IsMounted(mount_point));
  EXPECT_EQ(ReadAs(kAlice, mount_point + "/hello"), "what the image holds");
  EXPECT_EQ(ReadAs(kBob, mount_point + "/hello"), "errno " + std::to_string(EACCES));

  BrokerReply unmounted = Unmount(mounted.slot);
  EXPECT_FALSE(unmounted.has_error()) << unmounted.error().message();
  EXPECT_FALSE(IsMounted(mount_point));
  EXPECT_FALSE(Release(mounted.slot).has_error());
  EXPECT_NE(kill(mounted.worker_pid, 0), 0);
  EXPECT_EQ(rmdir(mount_point.c_str()), 0);
}

TEST_F(BrokerMountTest, TakesNoOptionOfTheCallers) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  std::string mounts = ReadFile("/proc/self/mounts");
  std::string line = mounts.substr(mounts.rfind('\n', mounts.find(mounted.path)) + 1);
  line = line.substr(0, line.find('\n'));
  EXPECT_THAT(line, HasSubstr("image.wim_allow_other "));
  EXPECT_THAT(line, HasSubstr(" fuse.dismd ro,nosuid,nodev,"));
  EXPECT_THAT(line, HasSubstr("user_id=21001,group_id=21001,default_permissions"));
  EXPECT_THAT(line, Not(HasSubstr(",allow_other")));
}

TEST_F(BrokerMountTest, RaisesReadAhead) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  std::string mountinfo = ReadFile("/proc/self/mountinfo");
  size_t line = mountinfo.rfind('\n', mountinfo.find(mounted.path)) + 1;
  size_t device = mountinfo.find(' ', mountinfo.find(' ', line) + 1) + 1;
  std::string number = mountinfo.substr(device, mountinfo.find(' ', device) - device);
  EXPECT_EQ(ReadFile("/sys/class/bdi/" + number + "/read_ahead_kb"), "1024\n");
}

TEST_F(BrokerMountTest, WorkerHasItsUserAndFewDescriptorsAndNoRights) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  std::string process = "/proc/" + std::to_string(mounted.worker_pid);
  std::string status = ReadFile(process + "/status");
  EXPECT_THAT(status, HasSubstr("\nUid:\t21001\t21001\t21001\t21001\n"));
  EXPECT_THAT(status, HasSubstr("\nGid:\t21001\t21001\t21001\t21001\n"));
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    EXPECT_THAT(status, HasSubstr(std::string(set) + ":\t0000000000000000\n"));
  }
  EXPECT_THAT(status, HasSubstr("\nNoNewPrivs:\t1\n"));
  int descriptors = 0;
  for (auto& entry : std::filesystem::directory_iterator(process + "/fd")) descriptors += entry.exists() || true;
  EXPECT_EQ(descriptors, 8);  // 0 to 6 (daemon/worker/sandbox.h), and /dev/fuse
}

TEST_F(BrokerMountTest, RootsWorkerIsNotRoot) {
  std::string image = Home(0) + "/root.wim";
  WriteFile(image, "root's");
  chmod(image.c_str(), 0600);
  Mounted mounted = Mount(Connect(0).connection_id(), image, MakeDirectory(0, "mnt"));
  ASSERT_FALSE(mounted.result.has_error()) << mounted.result.error().message();
  EXPECT_EQ(ReadAs(0, mounted.path + "/hello"), "root's");
  EXPECT_THAT(ReadFile("/proc/" + std::to_string(mounted.worker_pid) + "/status"), HasSubstr("\nUid:\t65522\t65522"));
}

TEST_F(BrokerMountTest, NothingIsLeftOfASlotReleasedBeforeItIsAttached) {
  std::string mount_point = MakeDirectory(kAlice, "mnt");
  uint64_t slot = 0;
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, mount_point, [&] {
    for (auto& [event, fds] : events_) slot = event.reply().path_facts().slot_id();
  });
  ASSERT_FALSE(mounted.result.has_error());
  ASSERT_FALSE(Unmount(mounted.slot).has_error());
  ASSERT_FALSE(Release(mounted.slot).has_error());

  FrontToBroker start, create;
  uint64_t second = Inspect(1, image_, mount_point).slot_id();
  start.mutable_start_worker()->set_slot_id(second);
  std::vector<UniqueFd> control;
  workers_.push_back(Call(start, &control).worker_started().pid());
  create.mutable_create_mount()->set_slot_id(second);
  create.mutable_create_mount()->set_read_only(true);
  EXPECT_FALSE(Call(create).has_error());
  EXPECT_FALSE(Release(second).has_error());
  EXPECT_FALSE(IsMounted(mount_point));
  EXPECT_NE(kill(workers_.back(), 0), 0);
}

TEST_F(BrokerMountTest, BusyMountNamesItsHolderAndCanBeTriedAgain) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  Helper holder(kAlice, [&] { return open((mounted.path + "/hello").c_str(), O_RDONLY) >= 0 ? 0 : errno; });
  ASSERT_EQ(holder.result(), 0);
  BrokerReply busy = Unmount(mounted.slot);
  EXPECT_EQ(busy.error().reason(), static_cast<int>(Reason::kMountBusy));
  ASSERT_EQ(busy.busy().holders_size(), 1);
  EXPECT_EQ(busy.busy().holders(0).pid(), holder.pid());
  EXPECT_THAT(busy.error().message(), HasSubstr("(" + std::to_string(holder.pid()) + ")"));
  EXPECT_EQ(ReadAs(kAlice, mounted.path + "/hello"), "what the image holds");

  Helper in_directory(kAlice, [&] { return chdir(mounted.path.c_str()); });
  holder.End();
  busy = Unmount(mounted.slot);
  ASSERT_EQ(busy.busy().holders_size(), 1);
  EXPECT_EQ(busy.busy().holders(0).pid(), in_directory.pid());
  in_directory.End();
  EXPECT_FALSE(Unmount(mounted.slot).has_error());
}

TEST_F(BrokerMountTest, AProcessForkedWhileAMountIsMadeDoesNotKeepItBusy) {
  internal::NewConnection alice = Connect(kAlice), bob = Connect(kBob);
  const std::string seam = base_ + "/seams/broker-forked-for-" + std::to_string(kBob);
  uint64_t bobs_request = 0;
  Mounted mounted = Mount(alice.connection_id(), image_, MakeDirectory(kAlice, "mnt"), [&] {
    // A copy of the broker that has not come as far as closing what it has copied.
    WriteFile(seam + ".stop", "");
    FrontToBroker resolve;
    resolve.mutable_resolve_path()->set_connection_id(bob.connection_id());
    resolve.mutable_resolve_path()->set_path(Home(kBob));
    bobs_request = Send(resolve);
    EXPECT_TRUE(Eventually([&] { return access((seam + ".reached").c_str(), F_OK) == 0; }));
  });
  ASSERT_FALSE(mounted.result.has_error()) << mounted.result.error().message();
  BrokerReply unmounted = Unmount(mounted.slot);
  EXPECT_FALSE(unmounted.has_error()) << unmounted.error().message();
  unlink((seam + ".stop").c_str());
  WaitReply(bobs_request);
}

TEST_F(BrokerMountTest, DetachEndsReadersThatWait) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  StalledReader reader(mounted.path + "/stall", /*keep_open=*/true);
  EXPECT_EQ(Unmount(mounted.slot).error().reason(), static_cast<int>(Reason::kMountBusy));
  EXPECT_FALSE(Unmount(mounted.slot, true).has_error());
  EXPECT_FALSE(IsMounted(mounted.path));
  EXPECT_EQ(reader.Result(), 'e');
}

TEST_F(BrokerMountTest, ReadersOfAKilledWorkerGetAnErrorAndItsMountUnmounts) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  StalledReader reader(mounted.path + "/stall", /*keep_open=*/false);
  kill(mounted.worker_pid, SIGKILL);
  BrokerToFront exited = WaitEvent([](const BrokerToFront& event) { return event.has_worker_exited(); });
  EXPECT_EQ(exited.worker_exited().slot_id(), mounted.slot);
  EXPECT_EQ(exited.worker_exited().exit_status(), SIGKILL);
  EXPECT_EQ(reader.Result(), 'e');
  EXPECT_EQ(ReadAs(kAlice, mounted.path + "/hello"), "errno " + std::to_string(ENOTCONN));
  EXPECT_TRUE(IsMounted(mounted.path));
  // Still known as ours.
  EXPECT_EQ(Inspect(1, image_, mounted.path).mount_in_use_slot(), mounted.slot);
  reader.EndStarter();
  EXPECT_TRUE(Eventually([&] { return !Unmount(mounted.slot).has_error(); }));
}

TEST_F(BrokerMountTest, TellsOfAMountTakenAwayByHand) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  ASSERT_EQ(umount2(mounted.path.c_str(), 0), 0);
  BrokerToFront gone = WaitEvent([](const BrokerToFront& event) { return event.has_mount_gone(); });
  EXPECT_EQ(gone.mount_gone().slot_id(), mounted.slot);
  EXPECT_FALSE(Unmount(mounted.slot).has_error());
  EXPECT_FALSE(Release(mounted.slot).has_error());
}

// In a mount namespace where it is no mount point, the owner may rename the directory: the mount goes with it.
TEST_F(BrokerMountTest, AMountThatWasMovedIsUnmountedWhereItIs) {
  Helper elsewhere(kAlice, [] {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 1;
    return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 ? 0 : 2;
  });
  ASSERT_EQ(elsewhere.result(), 0);
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  std::string moved = MakeDirectory(kAlice, "further") + "/moved";
  int renamed = RunAs(0, [&] {
    UniqueFd there(open(("/proc/" + std::to_string(elsewhere.pid()) + "/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
    if (setns(there.get(), CLONE_NEWNS) != 0) return 1;
    return rename(mounted.path.c_str(), moved.c_str()) == 0 ? 0 : 2;
  });
  ASSERT_EQ(renamed, 0);
  ASSERT_TRUE(IsMounted(moved));
  // Another directory takes its place, which is left alone.
  ASSERT_EQ(mkdir(mounted.path.c_str(), 0755), 0);
  EXPECT_FALSE(Unmount(mounted.slot).has_error());
  EXPECT_FALSE(IsMounted(moved));
  EXPECT_FALSE(Release(mounted.slot).has_error());
}

TEST_F(BrokerMountTest, DoesNotUnmountWhatIsMountedOverAMount) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  ASSERT_EQ(mount("over", mounted.path.c_str(), "tmpfs", 0, nullptr), 0);
  BrokerReply refused = Unmount(mounted.slot);
  EXPECT_EQ(refused.error().reason(), static_cast<int>(Reason::kMountBusy));
  EXPECT_THAT(refused.error().message(), HasSubstr("another file system is mounted over"));
  ASSERT_EQ(umount2(mounted.path.c_str(), 0), 0);
  EXPECT_FALSE(Unmount(mounted.slot).has_error());
}

TEST_F(BrokerMountTest, WorkerGetsFilesBesideItsImageAndNoOthers) {
  WriteFile(Home(kAlice) + "/image2.swm", "second part");
  WriteFile(Home(kAlice) + "/secret.swm", "root's alone");
  chmod((Home(kAlice) + "/secret.swm").c_str(), 0600);
  ASSERT_EQ(symlink("/etc/hostname", (Home(kAlice) + "/link.swm").c_str()), 0);
  ASSERT_EQ(symlink("image2.swm", (Home(kAlice) + "/inside.swm").c_str()), 0);
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  auto ask = [&](const std::string& name) {
    internal::FrontToWorker request;
    request.set_request_id(77);
    request.mutable_read_image_info()->set_image_name_for_messages(name);
    EXPECT_TRUE(mounted.control->Send(request).ok());
    internal::WorkerToFront answer;
    std::vector<UniqueFd> none;
    EXPECT_TRUE(mounted.control->Receive(&answer, &none).ok());
    if (answer.has_error()) return std::string(libmount::ReasonName(static_cast<Reason>(answer.error().reason())));
    return answer.image_info_read().images_size() == 0 ? "" : answer.image_info_read().images(0).image_name();
  };
  EXPECT_EQ(ask("image2.swm"), "second part");
  EXPECT_EQ(ask("inside.swm"), "second part");
  EXPECT_EQ(ask("secret.swm"), "ACCESS_DENIED");
  EXPECT_EQ(ask("link.swm"), "ACCESS_DENIED");
  EXPECT_EQ(ask("missing.swm"), "IMAGE_NOT_FOUND");
  EXPECT_EQ(ask(".."), "INVALID_PATH");
  EXPECT_EQ(ask("../21002/x"), "INVALID_PATH");
  EXPECT_EQ(ask("mnt"), "IMAGE_NOT_FOUND");
}

}  // namespace
}  // namespace dismd
