// SPDX-License-Identifier: GPL-3.0-or-later
//
// A staged tree that several threads change, read, sync and take snapshots of at once: what ThreadSanitizer is to look
// at.

#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/staging_test_base.h"
#include "tests/unit/staging_test_util.h"

namespace libmount {
namespace {

constexpr int kWriters = 4;
constexpr int kRounds = 150;
constexpr size_t kBlock = 6000;  // not whole pages: neighbours share them

class StagingThreadsTest : public ::testing::Test {
 protected:
  StagingThreadsTest() {
    docs_ = image_.AddDirectory(kRootNode, "Docs");
    shared_ = image_.AddFile(kRootNode, "shared.bin", std::string(kWriters * kBlock, 's'));
    image_.AddStream(shared_, "note", "a note");
    tree_ = OpenStaged(directory_, image_);
  }

  // Names and data of its own, a block of the file that all write, a name in the directory that all change.
  void Work(int number) {
    const std::string own = "of-" + std::to_string(number);
    ErrnoOr<NodeAttributes> directory = tree_->MakeDirectory({}, kRootNode, own, 0755);
    ASSERT_TRUE(directory.ok());
    for (int round = 0; round < kRounds; ++round) {
      const std::string name = "file-" + std::to_string(round);
      const std::string content(100 * (round % 60), static_cast<char>('a' + number));
      ErrnoOr<NodeAttributes> made = tree_->MakeNode({}, directory->node, name, S_IFREG | 0644, 0);
      ASSERT_TRUE(made.ok());
      ASSERT_EQ(tree_->Open(made->node), 0);
      ASSERT_TRUE(tree_->Write({}, made->node, 0, Bytes(content)).ok());
      const std::string block(kBlock, static_cast<char>('A' + (round + number) % 26));
      ASSERT_TRUE(tree_->Write({}, shared_, number * kBlock, Bytes(block)).ok());
      std::string seen(kBlock, '?');
      ASSERT_EQ(*tree_->Read(shared_, number * kBlock, absl::MakeSpan(seen)), kBlock);
      ASSERT_EQ(seen, block);
      ASSERT_EQ(tree_->SetXattr({}, made->node, "user.stream", content, 0), 0);
      const std::string meeting = own + "-" + std::to_string(round % 3);
      ASSERT_EQ(tree_->Rename({}, directory->node, name, docs_, meeting, 0), 0);
      ASSERT_EQ(Content(*tree_, made->node), content);
      tree_->Release(made->node);
      if (round % 5 == 0) {
        ASSERT_EQ(tree_->Unlink({}, docs_, meeting), 0);
      }
    }
  }

  void Look() {
    size_t bytes = 0;
    ASSERT_EQ(tree_->ReadDirectory(docs_, 0,
                                   [&bytes](const DirectoryEntry& entry) {
                                     bytes += entry.attributes.size;
                                     return true;
                                   }),
              0);
    const ErrnoOr<LookupResult> found = tree_->Lookup(docs_, "OF-1-0");
    ASSERT_TRUE(found.ok() || found.error() == ENOENT);
    ASSERT_TRUE(tree_->ListXattrs(shared_).ok());
    ASSERT_EQ(Content(*tree_, shared_).size(), kWriters * kBlock);
    tree_->FileSystemStats();
  }

  void Commit() {
    ASSERT_EQ(tree_->Sync(), 0);
    absl::StatusOr<std::unique_ptr<ImageContents>> contents = tree_->Snapshot();
    ASSERT_TRUE(contents.ok());
    std::string bytes(kWriters * kBlock, '\0');
    if ((*contents)->GetFile(shared_).staged[0]) {
      ASSERT_TRUE((*contents)->ReadStaged(shared_, 0, 0, absl::MakeSpan(bytes)).ok());
    }
    (*contents)->VisitEntries(docs_, [](const ImageContents::Entry&) {});
    contents->reset();
    tree_->AbandonCommit();
  }

  TestImage image_;
  StagingDirectory directory_;
  std::unique_ptr<StagedTree> tree_;
  NodeId docs_ = 0, shared_ = 0;
};

TEST_F(StagingThreadsTest, EachSeesItsOwnChanges) {
  std::atomic<int> working{kWriters};
  std::vector<std::thread> threads;
  for (int number = 0; number < kWriters; ++number) {
    threads.emplace_back([this, number, &working] {
      Work(number);
      --working;
    });
  }
  auto repeat = [&working](const std::function<void()>& what) {
    while (working > 0) what();
  };
  threads.emplace_back([&] { repeat([this] { Look(); }); });
  threads.emplace_back([&] { repeat([this] { Commit(); }); });
  for (std::thread& thread : threads) thread.join();
  ASSERT_FALSE(HasFatalFailure());

  std::vector<std::string> before = List(*tree_, docs_);
  std::string content = Content(*tree_, shared_);
  EXPECT_GE(before.size(), 2u * kWriters);
  for (int number = 0; number < kWriters; ++number) {
    EXPECT_EQ(content.substr(number * kBlock, kBlock),
              std::string(kBlock, static_cast<char>('A' + (kRounds - 1 + number) % 26)));
  }
  // And so it is for the next process.
  tree_.reset();
  tree_ = OpenStaged(directory_, image_);
  EXPECT_EQ(List(*tree_, docs_), before);
  EXPECT_EQ(Content(*tree_, shared_), content);
}

}  // namespace
}  // namespace libmount
