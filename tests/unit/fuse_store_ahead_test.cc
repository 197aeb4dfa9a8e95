// SPDX-License-Identifier: GPL-3.0-or-later
//
// When small files are pushed into the page cache, and that it cannot stall the server.

#include <gtest/gtest.h>

#include <optional>

#include "absl/synchronization/notification.h"
#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/store_ahead.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/memory_tree.h"

namespace libmount {
namespace {

constexpr int kFiles = 100;
constexpr int kBatch = 24;

std::string ContentOf(int i) { return "content of file " + std::to_string(i); }

class StoreAheadTest : public ::testing::Test {
 protected:
  StoreAheadTest() {
    NodeId directory = tree_.AddDirectory(kRootNode, "drivers");
    for (int i = 0; i < kFiles; ++i)
      files_.push_back(tree_.AddFile(directory, std::to_string(i) + ".inf", ContentOf(i)));
  }

  void Read(int i) { ahead_.OnSmallFileRead(files_[i]); }

  MemoryTree tree_;
  std::vector<NodeId> files_;
  std::vector<std::pair<NodeId, std::string>> stored_;
  int store_result_ = 0;
  StoreAhead ahead_{&tree_, [this](absl::Span<const StoreAhead::File> files) -> size_t {
                      if (store_result_ != 0) return 0;
                      for (const auto& [node, content] : files) {
                        stored_.emplace_back(node, std::string(content.data(), content.size()));
                      }
                      return files.size();
                    }};
};

TEST_F(StoreAheadTest, StoresAfterTwoHitsInOrder) {
  Read(0);
  Read(1);
  EXPECT_TRUE(stored_.empty()) << "one hit may be chance";
  Read(2);
  ASSERT_EQ(stored_.size(), static_cast<size_t>(kBatch));
  for (int i = 0; i < kBatch; ++i) {
    EXPECT_EQ(stored_[i].first, files_[3 + i]);
    EXPECT_EQ(stored_[i].second, ContentOf(3 + i));
  }
  EXPECT_EQ(ahead_.stored(), static_cast<uint64_t>(kBatch));
}

TEST_F(StoreAheadTest, NextMissStoresTheNextBatch) {
  for (int i : {0, 1, 2, 27}) Read(i);
  ASSERT_EQ(stored_.size(), 2u * kBatch);
  EXPECT_EQ(stored_[kBatch].first, files_[28]);
}

TEST_F(StoreAheadTest, RandomReadsStoreNothing) {
  for (int i : {50, 3, 77, 20, 60, 11, 90, 35}) Read(i);
  EXPECT_TRUE(stored_.empty());
}

TEST_F(StoreAheadTest, TwoReadersAreToldApart) {
  for (int i : {0, 50, 1, 51, 2, 52}) Read(i);
  ASSERT_EQ(stored_.size(), 2u * kBatch);
  EXPECT_EQ(stored_[0].first, files_[3]);
  EXPECT_EQ(stored_[kBatch].first, files_[53]);
}

TEST_F(StoreAheadTest, NothingIsStoredTwice) {
  for (int i : {0, 1, 2}) Read(i);
  for (int i : {97, 98, 99}) Read(i);
  size_t before = stored_.size();
  // Another reader comes past files that are in the page cache, without a READ for them: 27 is its next.
  for (int i : {27}) Read(i);
  for (size_t i = before; i < stored_.size(); ++i) EXPECT_GE(stored_[i].first, files_[28]);
}

TEST_F(StoreAheadTest, DroppedPagesAreStoredAgain) {
  for (int i : {0, 1, 2}) Read(i);
  // The kernel has dropped its cache: files that were stored are read.
  for (int i : {0, 1, 2}) Read(i);
  ASSERT_EQ(stored_.size(), 2u * kBatch);
  EXPECT_EQ(stored_[kBatch].first, files_[3]);
}

TEST_F(StoreAheadTest, ANodeUnknownToTheKernelEndsTheBatch) {
  store_result_ = ENOENT;
  for (int i : {0, 1, 2}) Read(i);
  EXPECT_EQ(ahead_.stored(), 0u);
  EXPECT_EQ(tree_.reads(), 1);
  store_result_ = 0;
  Read(3);
  EXPECT_EQ(ahead_.stored(), static_cast<uint64_t>(kBatch)) << "and is tried again later";
}

TEST_F(StoreAheadTest, UnreadableFilesAreLeftToTheirReaders) {
  tree_.SetReadError(files_[5], EIO);
  for (int i : {0, 1, 2}) Read(i);
  ASSERT_EQ(stored_.size(), kBatch - 1u);
  for (const auto& [node, content] : stored_) EXPECT_NE(node, files_[5]);
}

// Over a whole server: the notification's bytes, and that small requests are served while one is stored.
TEST(StoreAheadServerTest, NotificationCarriesTheFile) {
  MemoryTree tree;
  std::vector<NodeId> files;
  for (int i = 0; i < kFiles; ++i) files.push_back(tree.AddFile(kRootNode, std::to_string(i), ContentOf(i)));
  FakeKernel kernel;
  FuseServer server(&tree, {});
  ASSERT_TRUE(server.Start(kernel.TakeServerEnd(), nullptr, nullptr).ok());
  kernel.Init();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(kernel.Read(files[i], 0, 4096).body, ContentOf(i));
  ASSERT_TRUE(kernel.AwaitNotifications(kBatch));
  const FakeKernel::Notification& first = kernel.notifications()[0];
  EXPECT_EQ(first.code, FUSE_NOTIFY_STORE);
  fuse_notify_store_out out;
  memcpy(&out, first.body.data(), sizeof(out));
  EXPECT_EQ(out.nodeid, files[3]);
  EXPECT_EQ(out.offset, 0u);
  EXPECT_EQ(out.size, ContentOf(3).size());
  EXPECT_EQ(first.body.substr(sizeof(out)), ContentOf(3));
  kernel.Unmount();
}

// A thread that stores waits (in the kernel: for a locked page). Everything else must be served meanwhile, also the
// READs of other readers that would like to store too.
TEST(StoreAheadServerTest, AStalledStoreStallsNobody) {
  MemoryTree tree;
  std::vector<NodeId> files;
  for (int i = 0; i < kFiles; ++i) files.push_back(tree.AddFile(kRootNode, std::to_string(i), ContentOf(i)));
  absl::Notification stalled, release;
  tree.SetReadHook([&](NodeId node) {
    if (node != files[10]) return;
    stalled.Notify();
    release.WaitForNotification();
  });
  FakeKernel kernel;
  FuseServerOptions options;
  options.threads = 2;  // the fewest there are
  FuseServer server(&tree, options);
  ASSERT_TRUE(server.Start(kernel.TakeServerEnd(), nullptr, nullptr).ok());
  kernel.Init();
  for (int i = 0; i < 2; ++i) kernel.Read(files[i], 0, 4096);
  uint64_t third = kernel.SendRead(files[2], 0, 4096);  // stores 3 to 26 before it is answered: stops at 10
  stalled.WaitForNotification();
  for (int i : {50, 51, 52, 53}) EXPECT_EQ(kernel.Read(files[i], 0, 4096).body, ContentOf(i));
  EXPECT_EQ(kernel.GetAttr(files[10]).error, 0);
  release.Notify();
  EXPECT_EQ(kernel.Await(third).body, ContentOf(2));
  kernel.Unmount();
}

}  // namespace
}  // namespace libmount
