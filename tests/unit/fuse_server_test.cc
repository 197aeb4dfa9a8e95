// SPDX-License-Identifier: GPL-3.0-or-later
//
// What FuseServer answers to each request, byte for byte, and how it begins and ends.

#include "libmount/fuse/fuse_server.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/memory_tree.h"

namespace libmount {
namespace {

constexpr uint64_t kForeverSeconds = UINT64_MAX;
constexpr absl::Duration kPatience = absl::Seconds(20);

class FuseServerTest : public ::testing::Test {
 protected:
  FuseServerTest() {
    windows_ = tree_.AddDirectory(kRootNode, "Windows");
    file_ = tree_.AddFile(windows_, "notepad.exe", std::string(100'000, 'n'));
    link_ = tree_.AddLink(kRootNode, "Documents and Settings", "Users");
    tree_.SetXattr(file_, "system.ntfs_attrib", std::string("\x20\0\0\0", 4));
    tree_.SetXattr(file_, "user.stream", "data");
  }

  ~FuseServerTest() override { End(); }

  void Start(FuseServerOptions options = {}) {
    server_.emplace(&tree_, options);
    ASSERT_TRUE(server_
                    ->Start(
                        kernel_.TakeServerEnd(), [this] { initialized_.Notify(); },
                        [this](absl::Status status) {
                          end_status_ = status;
                          ended_.Notify();
                        })
                    .ok());
  }

  void StartInitialized() {
    Start();
    init_ = kernel_.Init();
  }

  void End() {
    if (!server_.has_value()) return;
    kernel_.Unmount();
    EXPECT_TRUE(ended_.WaitForNotificationWithTimeout(kPatience));
    server_.reset();
  }

  static fuse_attr AttrOf(const FakeKernel::Reply& reply) { return reply.As<fuse_entry_out>().attr; }

  MemoryTree tree_;
  NodeId windows_, file_, link_;
  FakeKernel kernel_;
  fuse_init_out init_ = {};
  absl::Notification initialized_, ended_;
  absl::Status end_status_ = absl::UnknownError("not ended");
  std::optional<FuseServer> server_;
};

TEST_F(FuseServerTest, InitAsksForWhatPaysAndNothingElse) {
  StartInitialized();
  EXPECT_EQ(init_.major, 7u);
  EXPECT_EQ(init_.max_readahead, 1u << 20) << "raised above the kernel's offer";
  EXPECT_EQ(init_.max_write, kFuseMaxRead);
  EXPECT_EQ(init_.max_pages, kFuseMaxRead / 4096);
  EXPECT_EQ(init_.max_background, 64);
  EXPECT_EQ(init_.time_gran, 100u);
  EXPECT_EQ(init_.flags & (FUSE_READDIRPLUS_AUTO | FUSE_WRITEBACK_CACHE | FUSE_POSIX_ACL | FUSE_AUTO_INVAL_DATA |
                           FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_ATOMIC_O_TRUNC),
            0u);
  const uint32_t wanted = FUSE_DO_READDIRPLUS | FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_CACHE_SYMLINKS |
                          FUSE_MAX_PAGES | FUSE_ASYNC_DIO;
  EXPECT_EQ(init_.flags & wanted, wanted);
}

TEST_F(FuseServerTest, InitExchangeIsKeptRaw) {
  Start();
  EXPECT_FALSE(server_->init_exchange().has_value());
  EXPECT_FALSE(initialized_.HasBeenNotified());
  FakeKernel::Reply reply = kernel_.Ask(FUSE_INIT, 0, FakeKernel::Bytes(FakeKernel::InitRequest()));
  ASSERT_TRUE(initialized_.WaitForNotificationWithTimeout(kPatience));
  std::optional<FuseServer::InitExchange> saved = server_->init_exchange();
  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(saved->request.substr(sizeof(fuse_in_header)), FakeKernel::Bytes(FakeKernel::InitRequest()));
  EXPECT_EQ(saved->reply.substr(sizeof(fuse_out_header)), reply.body);
}

TEST_F(FuseServerTest, RequestsBeforeInitAreRefused) {
  Start();
  EXPECT_EQ(kernel_.Lookup(kRootNode, "Windows").error, -EIO);
}

TEST_F(FuseServerTest, LookupGivesUnlimitedLifetimes) {
  StartInitialized();
  FakeKernel::Reply reply = kernel_.Lookup(kRootNode, "Windows");
  ASSERT_EQ(reply.error, 0);
  auto entry = reply.As<fuse_entry_out>();
  EXPECT_EQ(reply.body.size(), sizeof(fuse_entry_out));
  EXPECT_EQ(entry.nodeid, windows_);
  EXPECT_EQ(entry.entry_valid, kForeverSeconds);
  EXPECT_EQ(entry.attr_valid, kForeverSeconds);
  EXPECT_EQ(entry.attr.ino, windows_);
  EXPECT_EQ(entry.attr.mode, S_IFDIR | 0755u);
  EXPECT_EQ(entry.attr.nlink, 2u);
}

TEST_F(FuseServerTest, AttributesAreComplete) {
  StartInitialized();
  FakeKernel::Reply reply = kernel_.GetAttr(file_);
  ASSERT_EQ(reply.error, 0);
  auto out = reply.As<fuse_attr_out>();
  EXPECT_EQ(out.attr_valid, kForeverSeconds);
  EXPECT_EQ(out.attr.ino, file_);
  EXPECT_EQ(out.attr.size, 100'000u);
  EXPECT_EQ(out.attr.blocks, 196u) << "allocated bytes in units of 512, rounded up";
  EXPECT_EQ(out.attr.mtime, 1'600'000'000u);
  EXPECT_EQ(out.attr.mtimensec, 700u);
  EXPECT_EQ(kernel_.GetAttr(99999).error, -ENOENT);
}

TEST_F(FuseServerTest, LookupWithoutCaseIsCachedToo) {
  StartInitialized();
  auto entry = kernel_.Lookup(windows_, "NOTEPAD.EXE").As<fuse_entry_out>();
  EXPECT_EQ(entry.nodeid, file_);
  EXPECT_EQ(entry.entry_valid, kForeverSeconds);
}

TEST_F(FuseServerTest, AbsentNamesAreCachedAsAbsent) {
  StartInitialized();
  FakeKernel::Reply reply = kernel_.Lookup(kRootNode, "nothing");
  ASSERT_EQ(reply.error, 0);
  EXPECT_EQ(reply.As<fuse_entry_out>().nodeid, 0u);
  EXPECT_EQ(reply.As<fuse_entry_out>().entry_valid, kForeverSeconds);
  EXPECT_EQ(kernel_.Lookup(file_, "x").error, -ENOTDIR) << "another error is none of a name";
}

TEST_F(FuseServerTest, OpeningIsNotNeeded) {
  StartInitialized();
  EXPECT_EQ(kernel_.Ask(FUSE_OPEN, file_, FakeKernel::Bytes(fuse_open_in{})).error, -ENOSYS);
  EXPECT_EQ(kernel_.Ask(FUSE_OPENDIR, kRootNode, FakeKernel::Bytes(fuse_open_in{})).error, -ENOSYS);
}

TEST_F(FuseServerTest, ReadsAreExact) {
  StartInitialized();
  FakeKernel::Reply reply = kernel_.Read(file_, 99'990, 4096);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.body, std::string(10, 'n'));
  EXPECT_EQ(kernel_.Read(file_, 4096, 65536).body, std::string(65536, 'n'));
  EXPECT_EQ(kernel_.Read(file_, 1 << 20, 4096).body, "");
  EXPECT_EQ(kernel_.Read(windows_, 0, 4096).error, -EISDIR);
}

TEST_F(FuseServerTest, UnreasonableReadsAreRefused) {
  StartInitialized();
  EXPECT_EQ(kernel_.Read(file_, 0, kFuseMaxRead + 1).error, -EINVAL);
  EXPECT_EQ(kernel_.Read(file_, 0, UINT32_MAX).error, -EINVAL);
  EXPECT_EQ(kernel_.Read(file_, UINT64_MAX - 4095, 4096).error, -EINVAL);
}

TEST_F(FuseServerTest, ReadErrorsReachTheReader) {
  tree_.SetReadError(file_, EIO);
  StartInitialized();
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).error, -EIO);
}

// One directory entry of a READDIRPLUS reply.
struct PlusEntry {
  uint64_t node;
  std::string name;
  uint64_t cookie;
  uint32_t type;
  uint64_t valid;
};

std::vector<PlusEntry> ParsePlus(std::string_view body) {
  std::vector<PlusEntry> entries;
  while (body.size() >= FUSE_NAME_OFFSET_DIRENTPLUS) {
    fuse_direntplus plus;
    memcpy(&plus, body.data(), FUSE_NAME_OFFSET_DIRENTPLUS);
    entries.push_back({plus.entry_out.nodeid,
                       std::string(body.substr(FUSE_NAME_OFFSET_DIRENTPLUS, plus.dirent.namelen)), plus.dirent.off,
                       plus.dirent.type, plus.entry_out.entry_valid});
    body.remove_prefix(std::min<size_t>(body.size(), FUSE_DIRENTPLUS_SIZE(&plus)));
  }
  EXPECT_TRUE(body.empty()) << "a partial entry";
  return entries;
}

TEST_F(FuseServerTest, DirectoryEntriesCarryAttributes) {
  StartInitialized();
  std::vector<PlusEntry> entries = ParsePlus(kernel_.ReadDirPlus(kRootNode, 0, 4096).body);
  ASSERT_EQ(entries.size(), 4u);
  EXPECT_EQ(entries[0].name, ".");
  EXPECT_EQ(entries[0].node, 0u) << "a node would count as a look-up";
  EXPECT_EQ(entries[1].name, "..");
  EXPECT_EQ(entries[1].node, 0u);
  EXPECT_EQ(entries[2].name, "Windows");
  EXPECT_EQ(entries[2].node, windows_);
  EXPECT_EQ(entries[2].type, static_cast<uint32_t>(S_IFDIR >> 12));
  EXPECT_EQ(entries[2].valid, kForeverSeconds);
  EXPECT_EQ(entries[3].node, link_);
  EXPECT_EQ(kernel_.ReadDirPlus(kRootNode, entries[3].cookie, 4096).body, "") << "the end";
}

TEST_F(FuseServerTest, DirectoryGoesOnAtEachCookie) {
  constexpr int kFiles = 500;
  NodeId big = tree_.AddDirectory(kRootNode, "big");
  for (int i = 0; i < kFiles; ++i) tree_.AddFile(big, "file" + std::to_string(i), "");
  StartInitialized();
  std::vector<std::string> names;
  uint64_t cookie = 0;
  for (;;) {
    std::vector<PlusEntry> entries = ParsePlus(kernel_.ReadDirPlus(big, cookie, 512).body);
    if (entries.empty()) break;
    for (const PlusEntry& entry : entries) names.push_back(entry.name);
    cookie = entries.back().cookie;
  }
  ASSERT_EQ(names.size(), kFiles + 2u);
  EXPECT_EQ(names[2], "file0");
  EXPECT_EQ(names.back(), "file499");
  // From the middle of the dots.
  EXPECT_EQ(ParsePlus(kernel_.ReadDirPlus(big, 1, 4096).body)[0].name, "..");
}

TEST_F(FuseServerTest, DirectoryErrors) {
  StartInitialized();
  EXPECT_EQ(kernel_.ReadDirPlus(file_, 0, 4096).error, -ENOTDIR);
  EXPECT_EQ(kernel_.ReadDirPlus(kRootNode, 77777, 4096).error, -EINVAL) << "a cookie never handed out";
  EXPECT_EQ(kernel_.ReadDirPlus(kRootNode, 0, 8).body, "") << "room for nothing";
  EXPECT_EQ(kernel_.ReadDirPlus(99999, 0, 4096).error, -ENOENT);
}

TEST_F(FuseServerTest, NamesTheKernelWouldChokeOnAreLeftOut) {
  NodeId odd = tree_.AddDirectory(kRootNode, "odd");
  tree_.AddFile(odd, "", "");
  tree_.AddFile(odd, "a/b", "");
  tree_.AddFile(odd, std::string("a\0b", 3), "");
  tree_.AddFile(odd, std::string(1025, 'x'), "");
  tree_.AddFile(odd, std::string(1024, 'y'), "");
  StartInitialized();
  std::vector<PlusEntry> entries = ParsePlus(kernel_.ReadDirPlus(odd, 0, 8192).body);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[2].name, std::string(1024, 'y'));
}

TEST_F(FuseServerTest, LinksAndStatistics) {
  StartInitialized();
  EXPECT_EQ(kernel_.Ask(FUSE_READLINK, link_, "").body, "Users");
  EXPECT_EQ(kernel_.Ask(FUSE_READLINK, file_, "").error, -EINVAL);
  auto stats = kernel_.Ask(FUSE_STATFS, kRootNode, "").As<fuse_statfs_out>();
  EXPECT_EQ(stats.st.blocks, 1234u);
  EXPECT_EQ(stats.st.namelen, 255u);
}

TEST_F(FuseServerTest, XattrsAreSizedFirst) {
  StartInitialized();
  EXPECT_EQ(kernel_.GetXattr(file_, "system.ntfs_attrib", 0).As<fuse_getxattr_out>().size, 4u);
  EXPECT_EQ(kernel_.GetXattr(file_, "system.ntfs_attrib", 4).body, std::string("\x20\0\0\0", 4));
  EXPECT_EQ(kernel_.GetXattr(file_, "system.ntfs_attrib", 3).error, -ERANGE);
  EXPECT_EQ(kernel_.GetXattr(file_, "user.none", 0).error, -ENODATA);
  const std::string names = FakeKernel::Name("system.ntfs_attrib") + FakeKernel::Name("user.stream");
  EXPECT_EQ(kernel_.ListXattr(file_, 0).As<fuse_getxattr_out>().size, names.size());
  EXPECT_EQ(kernel_.ListXattr(file_, 1024).body, names);
  EXPECT_EQ(kernel_.ListXattr(file_, 5).error, -ERANGE);
  EXPECT_EQ(kernel_.ListXattr(link_, 1024).body, "");
}

TEST_F(FuseServerTest, SecurityXattrsAreNeverThere) {
  for (const char* name : {"security.capability", "security.selinux", "system.posix_acl_access"}) {
    tree_.SetXattr(link_, name, "x");
  }
  StartInitialized();
  for (const char* name :
       {"security.capability", "security.selinux", "system.posix_acl_access", "system.posix_acl_default"}) {
    EXPECT_EQ(kernel_.GetXattr(link_, name, 0).error, -ENODATA) << name;
  }
  EXPECT_EQ(kernel_.ListXattr(link_, 1024).body, "");
}

TEST_F(FuseServerTest, ChangesAreRefused) {
  StartInitialized();
  auto ask = [&](uint32_t opcode, const std::string& payload) { return kernel_.Ask(opcode, windows_, payload).error; };
  using K = FakeKernel;
  EXPECT_EQ(ask(FUSE_SETATTR, K::Bytes(fuse_setattr_in{})), -EROFS);
  EXPECT_EQ(ask(FUSE_MKNOD, K::Bytes(fuse_mknod_in{}) + K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_MKDIR, K::Bytes(fuse_mkdir_in{}) + K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_UNLINK, K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_RMDIR, K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_SYMLINK, K::Name("n") + K::Name("target")), -EROFS);
  EXPECT_EQ(ask(FUSE_RENAME, K::Bytes(fuse_rename_in{}) + K::Name("a") + K::Name("b")), -EROFS);
  EXPECT_EQ(ask(FUSE_RENAME2, K::Bytes(fuse_rename2_in{}) + K::Name("a") + K::Name("b")), -EROFS);
  EXPECT_EQ(ask(FUSE_LINK, K::Bytes(fuse_link_in{}) + K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_CREATE, K::Bytes(fuse_create_in{}) + K::Name("n")), -EROFS);
  EXPECT_EQ(ask(FUSE_WRITE, K::Bytes(fuse_write_in{.size = 3}) + "abc"), -EROFS);
  EXPECT_EQ(ask(FUSE_SETXATTR, K::Bytes(fuse_setxattr_in{}).substr(0, 8) + K::Name("user.x")), -EROFS);
  EXPECT_EQ(ask(FUSE_REMOVEXATTR, K::Name("user.x")), -EROFS);
  EXPECT_EQ(ask(FUSE_FALLOCATE, K::Bytes(fuse_fallocate_in{})), -EROFS);
}

TEST_F(FuseServerTest, ForgettingIsSilent) {
  StartInitialized();
  kernel_.Send(FUSE_FORGET, file_, FakeKernel::Bytes(fuse_forget_in{1}));
  kernel_.Send(FUSE_BATCH_FORGET, 0,
               FakeKernel::Bytes(fuse_batch_forget_in{1}) + FakeKernel::Bytes(fuse_forget_one{file_, 1}));
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0) << "nothing hangs on being known";
  EXPECT_FALSE(kernel_.has_stray_replies());
}

TEST_F(FuseServerTest, OwnRequestsAreRefused) {
  StartInitialized();
  auto by = [&](pid_t pid) {
    return kernel_.Await(kernel_.Send(FUSE_GETATTR, file_, FakeKernel::Bytes(fuse_getattr_in{}), pid)).error;
  };
  EXPECT_EQ(by(getppid()), 0);
  EXPECT_EQ(by(getpid()), -EIO);
  EXPECT_EQ(by(0), 0) << "a kernel thread";
  absl::Notification read, done;
  pid_t thread_id = 0;
  std::thread other([&] {
    thread_id = static_cast<pid_t>(syscall(SYS_gettid));
    read.Notify();
    done.WaitForNotification();
  });
  read.WaitForNotification();
  EXPECT_EQ(by(thread_id), -EIO) << "the kernel names threads";
  done.Notify();
  other.join();
}

TEST_F(FuseServerTest, HostileRequestsHurtNobody) {
  StartInitialized();
  kernel_.SendRaw("x");
  kernel_.SendRaw(std::string(39, '\xff'));
  // A length that is not what was sent, in both directions.
  fuse_in_header header = {.len = 4096, .opcode = FUSE_LOOKUP, .unique = 1001, .nodeid = 1, .pid = 1};
  kernel_.SendRaw(FakeKernel::Bytes(header) + "Windows");
  EXPECT_EQ(kernel_.Await(1001).error, -EIO);
  header.len = 10;
  header.unique = 1003;
  kernel_.SendRaw(FakeKernel::Bytes(header) + "Windows");
  EXPECT_EQ(kernel_.Await(1003).error, -EIO);
  // Every operation, unknown ones too, without a payload and with one of zeros or ones, at nodes that never were. Most
  // answer an error, a few nothing at all; none may harm the server.
  for (uint32_t opcode = 1; opcode < 60; ++opcode) {
    if (opcode == FUSE_INIT || opcode == FUSE_DESTROY) continue;
    for (const std::string& payload :
         {std::string(), std::string(1, 'z'), std::string(64, '\0'), std::string(64, '\xff')}) {
      kernel_.Send(opcode, UINT64_MAX, payload);
      kernel_.Send(opcode, 0, payload);
      kernel_.GetAttr(file_);  // takes the replies in, so that the socket does not fill
    }
  }
  // A name without its end.
  EXPECT_EQ(kernel_.Ask(FUSE_LOOKUP, kRootNode, "Windows").As<fuse_entry_out>().nodeid, windows_);
  // More forgets announced than sent.
  kernel_.Send(FUSE_BATCH_FORGET, 0, FakeKernel::Bytes(fuse_batch_forget_in{UINT32_MAX}));
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0);
}

TEST_F(FuseServerTest, ReadsRunBesideEachOther) {
  constexpr int kReaders = 3;
  std::atomic<int> inside{0};
  absl::Notification all_inside;
  tree_.SetReadHook([&](NodeId) {
    if (++inside == kReaders) all_inside.Notify();
    EXPECT_TRUE(all_inside.WaitForNotificationWithTimeout(kPatience));
  });
  StartInitialized();
  uint64_t sent[kReaders];
  for (uint64_t& unique : sent) unique = kernel_.SendRead(file_, 4096, 4096);
  for (uint64_t unique : sent) EXPECT_EQ(kernel_.Await(unique).error, 0);
}

TEST_F(FuseServerTest, SmallRequestsPassAStalledRead) {
  absl::Notification release, stalled;
  tree_.SetReadHook([&](NodeId) {
    stalled.Notify();
    release.WaitForNotification();
  });
  StartInitialized();
  uint64_t read = kernel_.SendRead(file_, 0, 4096);
  stalled.WaitForNotification();
  EXPECT_EQ(kernel_.GetAttr(windows_).error, 0);
  EXPECT_EQ(kernel_.Lookup(kRootNode, "Windows").error, 0);
  release.Notify();
  EXPECT_EQ(kernel_.Await(read).body.size(), 4096u);
}

TEST_F(FuseServerTest, UnmountEndsServing) {
  StartInitialized();
  kernel_.Unmount();
  ASSERT_TRUE(ended_.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(end_status_.ok()) << end_status_;
}

TEST_F(FuseServerTest, StopWakesIdleThreads) {
  StartInitialized();
  server_->Stop();
  ASSERT_TRUE(ended_.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(end_status_.ok()) << end_status_;
}

TEST_F(FuseServerTest, TellsWhenItIsIdleAndBusyAgain) {
  std::atomic<int> busy{0};
  absl::Notification idle;
  FuseServerOptions options;
  options.on_idle = [&] {
    if (!idle.HasBeenNotified()) idle.Notify();
  };
  options.on_busy = [&] { ++busy; };
  Start(options);
  kernel_.Init();
  EXPECT_EQ(busy, 1);
  ASSERT_TRUE(idle.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, std::string(4096, 'n')) << "its buffers were given back";
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0);
  EXPECT_GE(busy, 2);  // more, where the test had to wait for so long that the server was idle once more
  End();
}

TEST_F(FuseServerTest, CountsWhatItDid) {
  StartInitialized();
  kernel_.Lookup(kRootNode, "Windows");
  kernel_.Read(file_, 0, 4096);
  kernel_.ReadDirPlus(kRootNode, 0, 4096);
  FuseServer::Stats stats = server_->GetStats();
  EXPECT_EQ(stats.requests, 4u);
  EXPECT_EQ(stats.lookups, 1u);
  EXPECT_EQ(stats.reads, 1u);
  EXPECT_EQ(stats.bytes_read, 4096u);
  EXPECT_EQ(stats.directory_reads, 1u);
}

TEST(FuseServerStartTest, RefusesADescriptorThatIsNone) {
  MemoryTree tree;
  FuseServer server(&tree, {});
  EXPECT_FALSE(server
                   .Start(
                       UniqueFd(), [] {}, [](absl::Status) { FAIL() << "it never started"; })
                   .ok());
}

}  // namespace
}  // namespace libmount
