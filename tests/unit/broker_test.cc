// SPDX-License-Identifier: GPL-3.0-or-later
//
// The broker's parts that need neither root nor FUSE.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "daemon/broker/child.h"
#include "daemon/broker/event_loop.h"
#include "daemon/broker/file_systems.h"
#include "daemon/broker/holders.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/mount_fuse.h"
#include "daemon/broker/mountinfo.h"
#include "daemon/broker/options.h"
#include "daemon/broker/parked_descriptor.h"
#include "daemon/broker/records.h"
#include "dismd/internal/broker.pb.h"
#include "gmock/gmock.h"

namespace dismd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ------------------------------------------------------------------------------------------------------- options

absl::StatusOr<ParsedOptions> Parse(std::vector<const char*> arguments, bool rootless = false,
                                    std::map<std::string, std::string> environment = {}) {
  return ParseOptions(arguments, rootless, [environment](const char* name) -> std::optional<std::string> {
    auto found = environment.find(name);
    return found == environment.end() ? std::nullopt : std::optional<std::string>(found->second);
  });
}

TEST(OptionsTest, DefaultsOfRoot) {
  auto parsed = Parse({});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->options.socket_path, "/run/dismd/dismd.sock");
  EXPECT_EQ(parsed->options.state_dir, "/var/lib/dismd");
  EXPECT_EQ(parsed->options.grace, std::chrono::seconds(10));
}

TEST(OptionsTest, DefaultsOfAUser) {
  auto parsed = Parse({}, true, {{"XDG_RUNTIME_DIR", "/run/user/7"}, {"HOME", "/home/x"}});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->options.socket_path, "/run/user/7/dismd/dismd.sock");
  EXPECT_EQ(parsed->options.state_dir, "/home/x/.local/state/dismd");
  parsed = Parse({}, true, {{"XDG_RUNTIME_DIR", "/run/user/7"}, {"HOME", "/home/x"}, {"XDG_STATE_HOME", "/s"}});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->options.state_dir, "/s/dismd");
  EXPECT_THAT(std::string(Parse({}, true).status().message()), HasSubstr("XDG_RUNTIME_DIR is not set"));
}

TEST(OptionsTest, BothFormsOfAValue) {
  auto parsed = Parse({"--socket", "/a", "--state-dir=/b", "--grace=3", "--foreground", "--user", "nobody", "--parents",
                       "/c", "--parents=/d"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->options.socket_path, "/a");
  EXPECT_EQ(parsed->options.state_dir, "/b");
  EXPECT_EQ(parsed->options.grace, std::chrono::seconds(3));
  EXPECT_EQ(parsed->options.front_user, "nobody");
  EXPECT_THAT(parsed->options.parent_directories, ElementsAre("/c", "/d"));
}

TEST(OptionsTest, WrongUsageIsTold) {
  EXPECT_THAT(std::string(Parse({"--nonsense"}).status().message()), HasSubstr("unknown option --nonsense"));
  EXPECT_THAT(std::string(Parse({"--socket"}).status().message()), HasSubstr("--socket needs a value"));
  EXPECT_THAT(std::string(Parse({"--grace", "-1"}).status().message()), HasSubstr("--grace takes a number of seconds"));
  EXPECT_THAT(std::string(Parse({"--grace", "99999"}).status().message()), HasSubstr("3600"));
  EXPECT_THAT(std::string(Parse({"--parents", "here"}).status().message()), HasSubstr("not an absolute path"));
  EXPECT_THAT(std::string(Parse({"--socket", "here"}).status().message()), HasSubstr("not an absolute path"));
  EXPECT_THAT(std::string(Parse({"file"}).status().message()), HasSubstr("unexpected argument \"file\""));
  EXPECT_FALSE(Parse({"--user", "x"}, true, {{"XDG_RUNTIME_DIR", "/r"}, {"HOME", "/h"}}).ok());
}

TEST(OptionsTest, HelpIsAManual) {
  EXPECT_EQ(Parse({"--help"})->action, OptionsAction::kHelp);
  EXPECT_EQ(Parse({"--version"})->action, OptionsAction::kVersion);
  for (const char* part : {"SYNOPSIS", "OPTIONS", "FILES", "SIGNALS", "LIMITS", "EXIT CODES", "EXAMPLES"}) {
    EXPECT_THAT(HelpText(), HasSubstr(part));
  }
}

// ------------------------------------------------------------------------------------------------------- records

class RecordsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dismd-records-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    state_ = directory;
  }
  void TearDown() override { std::filesystem::remove_all(state_); }
  std::string state_;
};

TEST_F(RecordsTest, SavesReplacesAndRemoves) {
  auto store = RecordStore::Open(state_);
  ASSERT_TRUE(store.ok()) << store.status();
  internal::SlotRecord record;
  record.set_version(kRecordVersion);
  record.set_slot_id(7);
  record.set_mount_path("/first");
  ASSERT_TRUE(store->Save(record).ok());
  record.set_mount_path("/second");
  ASSERT_TRUE(store->Save(record).ok());
  struct stat attributes;
  ASSERT_EQ(stat((state_ + "/broker/slot-7").c_str(), &attributes), 0);
  EXPECT_EQ(attributes.st_mode & 0777, 0600U);
  auto loaded = store->LoadAll();
  ASSERT_EQ(loaded.size(), 1U);
  EXPECT_EQ(loaded[0].mount_path(), "/second");
  store->Remove(7);
  EXPECT_TRUE(store->LoadAll().empty());
}

TEST_F(RecordsTest, DamagedOnesAreRemoved) {
  auto store = RecordStore::Open(state_);
  ASSERT_TRUE(store.ok());
  internal::SlotRecord record;
  record.set_version(kRecordVersion);
  record.set_slot_id(8);
  std::ofstream(state_ + "/broker/slot-1") << "\xff nonsense";
  std::ofstream(state_ + "/broker/slot-9") << record.SerializeAsString();  // another slot's
  ASSERT_EQ(symlink("/etc/passwd", (state_ + "/broker/slot-2").c_str()), 0);
  EXPECT_TRUE(store->LoadAll().empty());
  EXPECT_FALSE(std::filesystem::exists(state_ + "/broker/slot-1"));
  EXPECT_FALSE(std::filesystem::exists(state_ + "/broker/slot-9"));
  EXPECT_TRUE(std::filesystem::exists("/etc/passwd"));
}

TEST_F(RecordsTest, OperationsAreKeptUntilTheyAreForgotten) {
  {
    auto store = RecordStore::Open(state_);
    ASSERT_TRUE(store.ok());
    EXPECT_TRUE(store->SaveOperation("op-1", "begun").ok());
    EXPECT_TRUE(store->SaveOperation("op-2", "begun").ok());
    EXPECT_TRUE(store->SaveOperation("op-2", "ended").ok());
    EXPECT_TRUE(store->SaveOperation("op-3", "begun").ok());
    EXPECT_TRUE(store->SaveOperation("op-3", "").ok());
    // Whatever the front says, files are made in the one directory, of bounded size.
    for (const char* id : {"", "../slot-1", "a/b", "op 1"}) {
      EXPECT_EQ(store->SaveOperation(id, "x").code(), absl::StatusCode::kInvalidArgument) << id;
    }
    EXPECT_EQ(store->SaveOperation(std::string(65, 'a'), "x").code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store->SaveOperation("op-4", std::string(kMaxOperationRecordBytes + 1, 'x')).code(),
              absl::StatusCode::kInvalidArgument);
  }
  auto next = RecordStore::Open(state_);
  ASSERT_TRUE(next.ok());
  const std::map<std::string, std::string> expected = {{"op-1", "begun"}, {"op-2", "ended"}};
  EXPECT_EQ(next->operations(), expected);
  EXPECT_TRUE(next->LoadAll().empty());
}

TEST_F(RecordsTest, ADirectoryThatOthersCanWriteIsRefused) {
  ASSERT_TRUE(RecordStore::Open(state_).ok());
  chmod((state_ + "/broker").c_str(), 0777);
  EXPECT_EQ(RecordStore::Open(state_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RecordsTest, ALockIsHeldOnce) {
  auto first = LockFile(state_ + "/lock", "the state directory");
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(std::string(LockFile(state_ + "/lock", "the state directory").status().message()),
              HasSubstr("another dismd is using the state directory"));
  first->reset();
  EXPECT_TRUE(LockFile(state_ + "/lock", "the state directory").ok());
}

// ------------------------------------------------------------------------------------------------------- children

class ChildTest : public ::testing::Test {
 protected:
  // Runs jobs until `count` of them are done.
  void RunUntil(int count) {
    while (done_ < count) loop_.Run();
  }
  ChildRunner::Job JobOf(std::function<void(internal::AttachAnswer*, std::vector<int>*)> work,
                         std::chrono::milliseconds deadline = std::chrono::seconds(20), uint32_t uid = 1) {
    auto answer = std::make_shared<internal::AttachAnswer>();
    ChildRunner::Job job;
    job.uid = uid;
    job.answer = answer;
    job.deadline = deadline;
    job.work = [work, answer](google::protobuf::MessageLite*, std::vector<int>* fds) { work(answer.get(), fds); };
    job.done = [this, answer](ChildOutcome outcome) {
      last_ = std::move(outcome);
      ends_.push_back(last_.end);
      last_message_ = answer->error().message();
      ++done_;
      loop_.Quit();
    };
    return job;
  }

  EventLoop loop_;
  ChildRunner runner_{&loop_};
  ChildOutcome last_;
  std::vector<ChildOutcome::End> ends_;
  std::string last_message_;
  int done_ = 0;
};

TEST_F(ChildTest, AnswersWithAMessageAndDescriptors) {
  runner_.Run(JobOf([](internal::AttachAnswer* answer, std::vector<int>* fds) {
    answer->mutable_error()->set_message("from the child");
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], "x", 1) != 1) _exit(1);
    fds->push_back(ends[0]);
  }));
  RunUntil(1);
  EXPECT_EQ(last_.end, ChildOutcome::End::kAnswered);
  EXPECT_EQ(last_message_, "from the child");
  ASSERT_EQ(last_.fds.size(), 1U);
  char byte = 0;
  EXPECT_EQ(read(last_.fds[0].get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
  EXPECT_NE(fcntl(last_.fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ChildTest, KeepsOnlyWhatItIsTold) {
  libmount::UniqueFd kept(open("/dev/null", O_RDONLY | O_CLOEXEC)), other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ChildRunner::Job job = JobOf([&](internal::AttachAnswer* answer, std::vector<int>*) {
    bool right = fcntl(kept.get(), F_GETFD) >= 0 && fcntl(other.get(), F_GETFD) < 0;
    answer->mutable_error()->set_message(right ? "right" : "wrong");
  });
  job.keep = {kept.get()};
  runner_.Run(std::move(job));
  RunUntil(1);
  EXPECT_EQ(last_message_, "right");
}

TEST_F(ChildTest, OneThatHangsIsKilledAtItsDeadline) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  bool ended_late = false;
  ChildRunner::Job job = JobOf(
      [](internal::AttachAnswer*, std::vector<int>*) {
        for (;;) pause();
      },
      std::chrono::milliseconds(50));
  job.keep = {ends[1]};  // closed when the child has ended, however it does
  job.ended_late = [&] {
    ended_late = true;
    loop_.Quit();
  };
  runner_.Run(std::move(job));
  RunUntil(1);
  EXPECT_EQ(last_.end, ChildOutcome::End::kTimedOut);
  if (!ended_late) loop_.Run();
  EXPECT_TRUE(ended_late);
  EXPECT_EQ(runner_.stuck(), 0);
  close(ends[1]);
  char byte;
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
}

TEST_F(ChildTest, OneThatDiesHasFailed) {
  runner_.Run(JobOf([](internal::AttachAnswer*, std::vector<int>*) { _exit(0); }));
  RunUntil(1);
  EXPECT_EQ(last_.end, ChildOutcome::End::kFailed);
}

TEST_F(ChildTest, AUsersShareIsOnesOwn) {
  auto hang = [](internal::AttachAnswer*, std::vector<int>*) {
    for (;;) pause();
  };
  for (int i = 0; i < kMaxChildrenOfUser; ++i) runner_.Run(JobOf(hang));
  // This one waits its turn, and is not given one before its deadline.
  runner_.Run(JobOf([](internal::AttachAnswer*, std::vector<int>*) {}, std::chrono::milliseconds(50)));
  runner_.Run(JobOf([](internal::AttachAnswer*, std::vector<int>*) {}, std::chrono::seconds(20), 2));
  RunUntil(2);
  EXPECT_THAT(ends_, ::testing::UnorderedElementsAre(ChildOutcome::End::kTimedOut, ChildOutcome::End::kAnswered));
  for (size_t i = 0; i < kMaxWaitingOfUser; ++i) runner_.Run(JobOf(hang));
  EXPECT_EQ(done_, 2);
  runner_.Run(JobOf(hang));
  EXPECT_EQ(last_.end, ChildOutcome::End::kRefused);
}

TEST_F(ChildTest, AnAbandonedOneEndsAtOnce) {
  auto hang = [](internal::AttachAnswer*, std::vector<int>*) {
    for (;;) pause();
  };
  for (uint64_t ticket = 1; ticket <= kMaxChildrenOfUser + 1; ++ticket) {
    ChildRunner::Job job = JobOf(hang);
    job.ticket = ticket;
    runner_.Run(std::move(job));
  }
  runner_.Run(JobOf(hang, std::chrono::seconds(20), 2));  // without a ticket
  runner_.Abandon(3);
  EXPECT_EQ(last_.end, ChildOutcome::End::kAbandoned);
  EXPECT_EQ(done_, 1);
  runner_.Abandon(kMaxChildrenOfUser + 1);  // waits for its turn still
  EXPECT_EQ(done_, 2);
  for (uint64_t ticket : {uint64_t{3}, uint64_t{0}, uint64_t{99}}) runner_.Abandon(ticket);
  EXPECT_EQ(done_, 2);
  runner_.AbandonAll();
  EXPECT_EQ(done_, kMaxChildrenOfUser + 1);
  EXPECT_THAT(ends_, ::testing::Each(ChildOutcome::End::kAbandoned));
  // The user's share is free again as soon as they have ended.
  runner_.Run(JobOf([](internal::AttachAnswer*, std::vector<int>*) {}));
  RunUntil(kMaxChildrenOfUser + 2);
  EXPECT_EQ(last_.end, ChildOutcome::End::kAnswered);
}

TEST_F(ChildTest, ThoseThatWaitHaveTheirTurn) {
  for (int i = 0; i < kMaxChildrenOfUser * 4; ++i)
    runner_.Run(JobOf([](internal::AttachAnswer*, std::vector<int>*) {}));
  RunUntil(kMaxChildrenOfUser * 4);
  EXPECT_THAT(ends_, ::testing::Each(ChildOutcome::End::kAnswered));
}

// ---------------------------------------------------------------------------------------------- parked descriptors

// Whether nobody has the pipe's other end any more.
bool IsClosed(int reading_end) {
  char byte;
  return read(reading_end, &byte, 1) == 0;
}

TEST(ParkedDescriptorTest, IsOpenUntilItIsDroppedWhoeverHasTheSocket) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  libmount::UniqueFd reading(ends[0]), writing(ends[1]);
  absl::StatusOr<libmount::UniqueFd> parked = ParkDescriptor(writing.get());
  ASSERT_TRUE(parked.ok());
  writing.reset();
  libmount::UniqueFd copy = parked->Duplicate();  // as a forked process has it
  EXPECT_FALSE(IsClosed(reading.get()));
  for (int i = 0; i < 2; ++i) {
    absl::StatusOr<libmount::UniqueFd> borrowed = BorrowParked(parked->get());
    ASSERT_TRUE(borrowed.ok());
    EXPECT_NE(fcntl(borrowed->get(), F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(write(borrowed->get(), "x", 1), 1);
  }
  char bytes[3];
  EXPECT_EQ(read(reading.get(), bytes, sizeof(bytes)), 2);
  EXPECT_FALSE(IsClosed(reading.get()));
  DropParked(parked->get());
  EXPECT_TRUE(IsClosed(reading.get()));
  EXPECT_FALSE(BorrowParked(copy.get()).ok());
  DropParked(copy.get());
}

TEST(ParkedDescriptorTest, GoesWithTheSocket) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  libmount::UniqueFd reading(ends[0]), writing(ends[1]);
  absl::StatusOr<libmount::UniqueFd> parked = ParkDescriptor(writing.get());
  ASSERT_TRUE(parked.ok());
  writing.reset();
  parked->reset();
  EXPECT_TRUE(IsClosed(reading.get()));
}

// ------------------------------------------------------------------------------------------------------- parsing

TEST(ParsingTest, Mountinfo) {
  constexpr char kText[] =
      "22 1 0:21 / /proc rw,nosuid - proc proc rw\n"
      "36 35 98:0 /mnt1 /mnt\\0402/x rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"
      "236 35 0:98 / /a ro - fuse.dismd image.wim ro\n";
  auto entry = FindMount(kText, 36);
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->mount_point, "/mnt 2/x");
  EXPECT_EQ(entry->type, "ext3");
  EXPECT_EQ(entry->device_major, 98U);
  EXPECT_EQ(MountinfoType(kText, 236), "fuse.dismd");
  EXPECT_FALSE(FindMount(kText, 6).has_value());
  internal::KernelMount mount;
  mount.set_mount_id(236);
  mount.set_device_minor(98);
  EXPECT_TRUE(IsAttached(kText, mount));
  mount.set_device_minor(99);
  EXPECT_FALSE(IsAttached(kText, mount));
}

TEST(ParsingTest, MappingsOfADevice) {
  constexpr char kMaps[] =
      "55a0-55a1 r--p 00000000 fe:00 131   /usr/bin/cat\n"
      "7f00-7f01 r--p 00:3f000 00:40 7     /x 00:3f \n"
      "7f02-7f03 rw-p 00000000 00:3f 9     /mnt/file with 00:41\n"
      "7f04-7f05 rw-p 00000000 00:00 0\n";
  EXPECT_TRUE(MapsDevice(kMaps, 0, 0x3f));
  EXPECT_TRUE(MapsDevice(kMaps, 0xfe, 0));
  EXPECT_FALSE(MapsDevice(kMaps, 0, 0x41));
  EXPECT_FALSE(MapsDevice("", 0, 0));
}

TEST(ParsingTest, FileSystems) {
  EXPECT_TRUE(IsNetworkFileSystem(0x6969, "nfs4"));
  EXPECT_TRUE(IsNetworkFileSystem(0x65735546, "fuse.sshfs"));
  EXPECT_FALSE(IsNetworkFileSystem(0x65735546, "fuse.ntfs-3g"));
  EXPECT_FALSE(IsNetworkFileSystem(0xef53, "ext4"));
  EXPECT_TRUE(MayCarryMounts(0xef53));
  EXPECT_FALSE(MayCarryMounts(0x9fa0)) << "/proc";
  EXPECT_FALSE(MayCarryMounts(0x62656572)) << "/sys";
  EXPECT_FALSE(MayCarryMounts(0x63677270)) << "cgroup2";
}

TEST(ParsingTest, DescriptionsHoldNoOptions) {
  EXPECT_EQ(SanitizeDescription("install.wim"), "install.wim");
  EXPECT_EQ(SanitizeDescription("a,suid\\ b\n\"c\xc3\xa4"), "a_suid__b__c__");
  EXPECT_EQ(SanitizeDescription(""), "dismd");
  EXPECT_EQ(SanitizeDescription(std::string(1000, 'x')).size(), kMaxDescription);
}

TEST(ParsingTest, PlainNames) {
  EXPECT_TRUE(IsPlainName("image2.swm"));
  for (const char* name : {"", ".", "..", "a/b", "/a"}) EXPECT_FALSE(IsPlainName(name)) << name;
  EXPECT_FALSE(IsPlainName(std::string("a\0b", 3)));
  for (const char* path : {"parent.vhdx", "base/parent.vhdx"}) EXPECT_TRUE(IsPlainPath(path)) << path;
  for (const char* path : {"", "/a", "a/", "a//b", "../a", "a/../b", "./a"}) EXPECT_FALSE(IsPlainPath(path)) << path;
  EXPECT_FALSE(IsPlainPath(std::string(5000, 'a')));
}

TEST(KernelTest, StartTimeNamesAProcess) {
  EXPECT_NE(ProcessStartTime(getpid()), 0U);
  EXPECT_EQ(ProcessStartTime(getpid()), ProcessStartTime(getpid()));
  EXPECT_EQ(ProcessStartTime(1 << 30), 0U);
}

TEST(KernelTest, MagicLinksAreRefused) {
  EXPECT_FALSE(OpenAt2(AT_FDCWD, "/proc/self/cwd", O_PATH));
  EXPECT_EQ(errno, ELOOP);
  EXPECT_TRUE(OpenAt2(AT_FDCWD, "/proc/self", O_PATH));
}

}  // namespace
}  // namespace dismd
