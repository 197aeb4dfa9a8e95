// SPDX-License-Identifier: GPL-3.0-or-later
//
// How a FuseServer goes on with a mount whose process died: the saved INIT, RESEND, the in-flight table, duplicates.
//
// The death of a process is played by a server that stops inside a request (the tree's hook blocks it) while another
// one takes over its table; what the first then still does goes to a socket that nobody reads.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/inflight_table.h"
#include "libmount/fuse/wire.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/journaled_tree.h"

namespace libmount {
namespace {

using K = FakeKernel;
constexpr int kNotifyResend = 7;
constexpr absl::Duration kPatience = absl::Seconds(20);

std::string RequestBytes(uint32_t opcode, NodeId node, uint64_t unique, std::string_view payload) {
  fuse_in_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + payload.size());
  header.opcode = opcode;
  header.unique = unique;
  header.nodeid = node;
  header.pid = 1;
  return K::Bytes(header) + std::string(payload);
}

std::string MakeDirectoryRequest(std::string_view name, uint64_t unique) {
  return RequestBytes(FUSE_MKDIR, kRootNode, unique, K::Bytes(fuse_mkdir_in{.mode = 0755}) + K::Name(name));
}

class FuseRecoveryTest : public ::testing::Test {
 protected:
  FuseRecoveryTest() {
    // The INIT exchange of the mount that all servers here go on with.
    FakeKernel kernel;
    FuseServer server(&tree_, {});
    absl::Notification initialized;
    EXPECT_TRUE(server
                    .Start(
                        kernel.TakeServerEnd(), [&] { initialized.Notify(); }, nullptr)
                    .ok());
    kernel.Init();
    EXPECT_TRUE(initialized.WaitForNotificationWithTimeout(kPatience));  // after the reply: the exchange is there
    init_ = *server.init_exchange();
    kernel.Unmount();
    table_ = *InflightTable::Create();
  }
  ~FuseRecoveryTest() override {
    kernel_.Unmount();
    server_.reset();
  }

  absl::Status Start(bool resend = true, FuseServerOptions options = {}) {
    options.resend = resend;
    server_ = std::make_unique<FuseServer>(&tree_, options);
    return server_->Start(
        kernel_.TakeServerEnd(), {.init = init_, .inflight = table_.Duplicate()}, [this] { recovered_.Notify(); },
        nullptr);
  }

  // How another server would start with the same exchange and table.
  absl::StatusCode StartAnother() {
    FakeKernel kernel;
    FuseServer server(&tree_, {});
    absl::StatusCode code =
        server.Start(kernel.TakeServerEnd(), {.init = init_, .inflight = table_.Duplicate()}, nullptr, nullptr).code();
    kernel.Unmount();
    return code;
  }

  // What a process leaves that died with these bytes just read.
  void LeaveInSlot(int index, const std::string& request) {
    memcpy((*InflightTable::Open(table_))->slot(index).request(), request.data(), request.size());
  }
  bool SlotBusy(int index) { return (*InflightTable::Open(table_))->slot(index).busy(); }

  JournaledTree tree_;
  FuseServer::InitExchange init_;
  UniqueFd table_;
  FakeKernel kernel_;
  std::unique_ptr<FuseServer> server_;
  absl::Notification recovered_;
};

TEST_F(FuseRecoveryTest, TheSavedInitIsNotAnsweredAgain) {
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(kernel_.GetAttr(kRootNode).error, 0);
  EXPECT_FALSE(kernel_.has_stray_replies());
  EXPECT_TRUE(recovered_.WaitForNotificationWithTimeout(kPatience));
  std::optional<FuseServer::InitExchange> again = server_->init_exchange();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->request, init_.request);
  EXPECT_EQ(again->reply, init_.reply) << "libfuse negotiates the same again";
}

TEST_F(FuseRecoveryTest, ResendIsAskedForOnce) {
  ASSERT_TRUE(Start().ok());
  ASSERT_TRUE(kernel_.AwaitNotifications(1));
  EXPECT_EQ(kernel_.notifications()[0].code, kNotifyResend);
  EXPECT_EQ(kernel_.notifications()[0].body, "");
  kernel_.GetAttr(kRootNode);
  EXPECT_EQ(kernel_.notifications().size(), 1u);
}

TEST_F(FuseRecoveryTest, ResendCanBeSwitchedOff) {
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  kernel_.GetAttr(kRootNode);
  EXPECT_TRUE(kernel_.notifications().empty());
}

TEST_F(FuseRecoveryTest, ResentRequestsKeepTheirMarkAndAreNotDoneTwice) {
  ASSERT_TRUE(Start().ok());
  kernel_.SendRaw(MakeDirectoryRequest("d", 1000));
  EXPECT_EQ(kernel_.Await(1000).error, 0);
  kernel_.SendRaw(MakeDirectoryRequest("d", 1000 | kResentMark));
  EXPECT_EQ(kernel_.Await(1000 | kResentMark).error, 0) << "EEXIST, if it were done again";
  EXPECT_EQ(tree_.changes(), 1);
  EXPECT_EQ(server_->GetStats().resent, 1u);
}

TEST_F(FuseRecoveryTest, RequestsInTheTableAreAnsweredFirst) {
  LeaveInSlot(3, MakeDirectoryRequest("d", 2000));
  LeaveInSlot(15, RequestBytes(FUSE_GETATTR, kRootNode, 2002, K::Bytes(fuse_getattr_in{})));
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.Await(2000).error, 0);
  EXPECT_EQ(kernel_.Await(2002).error, 0);
  EXPECT_TRUE(recovered_.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(tree_.Lookup(kRootNode, "d").ok());
  EXPECT_FALSE(SlotBusy(3));
  EXPECT_FALSE(SlotBusy(15));
  EXPECT_EQ(server_->GetStats().replayed, 2u);
}

TEST_F(FuseRecoveryTest, ARequestThatComesBothWaysIsDoneOnce) {
  LeaveInSlot(1, MakeDirectoryRequest("d", 2000));
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(kernel_.Await(2000).error, 0);
  kernel_.SendRaw(MakeDirectoryRequest("d", 2000 | kResentMark));
  EXPECT_EQ(kernel_.Await(2000 | kResentMark).error, 0);
  EXPECT_EQ(tree_.changes(), 1);
}

TEST_F(FuseRecoveryTest, WhatNeedsNoReplyGetsNone) {
  LeaveInSlot(0, RequestBytes(FUSE_FORGET, kRootNode, 2000, K::Bytes(fuse_forget_in{1})));
  LeaveInSlot(1, init_.request);
  LeaveInSlot(2, RequestBytes(FUSE_BATCH_FORGET, 0, 2004, K::Bytes(fuse_batch_forget_in{0})));
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.GetAttr(kRootNode).error, 0);
  EXPECT_FALSE(kernel_.has_stray_replies());
  for (int i : {1, 2}) EXPECT_FALSE(SlotBusy(i));
}

// The process died after the work was done and the reply noted: the same reply is given, and nothing done.
TEST_F(FuseRecoveryTest, ANotedReplyIsGivenAgain) {
  LeaveInSlot(2, MakeDirectoryRequest("d", 2000));
  fuse_out_header reply = {sizeof(reply), -EDQUOT, 2000};
  iovec part = {&reply, sizeof(reply)};
  (*InflightTable::Open(table_))->slot(2).NoteReply(&part, 1);
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.Await(2000).error, -EDQUOT);
  EXPECT_FALSE(tree_.Lookup(kRootNode, "d").ok());
}

// The note of an earlier request in the same slot is none of the later one.
TEST_F(FuseRecoveryTest, AnOldNoteIsNotTaken) {
  fuse_out_header reply = {sizeof(reply), -EDQUOT, 1998};
  iovec part = {&reply, sizeof(reply)};
  LeaveInSlot(2, MakeDirectoryRequest("earlier", 1998));
  (*InflightTable::Open(table_))->slot(2).NoteReply(&part, 1);
  LeaveInSlot(2, MakeDirectoryRequest("d", 2000));
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.Await(2000).error, 0);
  EXPECT_TRUE(tree_.Lookup(kRootNode, "d").ok());
}

TEST_F(FuseRecoveryTest, ARequestThatServersDieOfIsGivenUp) {
  LeaveInSlot(2, MakeDirectoryRequest("d", 2000));
  {
    std::unique_ptr<InflightTable> table = *InflightTable::Open(table_);
    for (int i = 0; i < 8; ++i) table->slot(2).CountAttempt();
  }
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.Await(2000).error, -EIO);
  EXPECT_EQ(kernel_.GetAttr(kRootNode).error, 0) << "the mount lives on";
  EXPECT_FALSE(tree_.Lookup(kRootNode, "d").ok());
}

TEST_F(FuseRecoveryTest, ADamagedTableHurtsNobody) {
  LeaveInSlot(0, std::string(200, '\xff'));      // longer than a slot
  LeaveInSlot(1, std::string("\x05\0\0\0", 4));  // shorter than a header
  fuse_in_header header = {.len = 4096, .opcode = FUSE_WRITE, .unique = 2000, .nodeid = 1, .pid = 1};
  LeaveInSlot(2, K::Bytes(header) + K::Bytes(fuse_write_in{.size = UINT32_MAX}));
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  EXPECT_EQ(kernel_.Await(2000).error, -EIO);
  EXPECT_EQ(kernel_.GetAttr(kRootNode).error, 0);
}

// A request is in the table while it is worked on, put there by nobody but the read itself, and not after.
TEST_F(FuseRecoveryTest, ARequestIsInTheTableUntilItIsAnswered) {
  absl::Notification inside, release;
  tree_.SetChangeHook([&] {
    inside.Notify();
    release.WaitForNotification();
  });
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  const std::string request = MakeDirectoryRequest("d", 3000);
  kernel_.SendRaw(request);
  ASSERT_TRUE(inside.WaitForNotificationWithTimeout(kPatience));
  {
    std::unique_ptr<InflightTable> table = *InflightTable::Open(table_);
    int busy = 0;
    for (int i = 0; i < kInflightSlots; ++i) {
      if (!table->slot(i).busy()) continue;
      ++busy;
      EXPECT_EQ(std::string(table->slot(i).request(), request.size()), request);
      EXPECT_TRUE(table->slot(i).noted_reply().empty());
    }
    EXPECT_EQ(busy, 1);
  }
  // Another process takes over now. The change was made, but not answered: it answers without making it again.
  {
    FakeKernel kernel;
    FuseServer second(&tree_, {.resend = false});
    absl::Notification recovered;
    ASSERT_TRUE(second
                    .Start(
                        kernel.TakeServerEnd(), {.init = init_, .inflight = table_.Duplicate()},
                        [&] { recovered.Notify(); }, nullptr)
                    .ok());
    EXPECT_EQ(kernel.Await(3000).error, 0);
    EXPECT_TRUE(recovered.WaitForNotificationWithTimeout(kPatience));
    EXPECT_EQ(tree_.changes(), 1);
    kernel.Unmount();
  }
  release.Notify();
  kernel_.Await(3000);
}

TEST_F(FuseRecoveryTest, AnswersAreCounted) {
  ASSERT_TRUE(Start(/*resend=*/false).ok());
  uint64_t before = *InflightTable::CountAnswered(table_.get());
  kernel_.GetAttr(kRootNode);
  // The slot is freed after its reply came.
  const absl::Time deadline = absl::Now() + kPatience;
  while (*InflightTable::CountAnswered(table_.get()) == before && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(*InflightTable::CountAnswered(table_.get()), before + 1);
}

TEST_F(FuseRecoveryTest, WhatIsNoExchangeOrTableIsRefused) {
  const FuseServer::InitExchange good = init_;
  init_.request = "x";
  EXPECT_EQ(StartAnother(), absl::StatusCode::kFailedPrecondition);
  init_ = good;
  init_.reply.clear();
  EXPECT_EQ(StartAnother(), absl::StatusCode::kFailedPrecondition);
  init_ = good;
  EXPECT_EQ(StartAnother(), absl::StatusCode::kOk);
  table_.reset(memfd_create("none", MFD_CLOEXEC));
  EXPECT_EQ(StartAnother(), absl::StatusCode::kFailedPrecondition) << "no table";
  EXPECT_FALSE(InflightTable::CountAnswered(table_.get()).ok());
  table_ = *InflightTable::Create();
  uint64_t other = 1;
  ASSERT_EQ(pwrite(table_.get(), &other, sizeof(other), 8), 8);
  EXPECT_EQ(StartAnother(), absl::StatusCode::kFailedPrecondition) << "another layout";
  EXPECT_NE(ftruncate(table_.get(), 0), 0) << "nobody can make reading it end in SIGBUS";
}

// A read-write server cannot serve a mount whose kernel was told that opening is not needed.
TEST_F(FuseRecoveryTest, AMountOfAnotherKindIsRefused) {
  uint32_t flags;
  char* at = init_.reply.data() + sizeof(fuse_out_header) + offsetof(fuse_init_out, flags);
  memcpy(&flags, at, sizeof(flags));
  flags |= FUSE_NO_OPEN_SUPPORT;
  memcpy(at, &flags, sizeof(flags));
  EXPECT_EQ(StartAnother(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace libmount
