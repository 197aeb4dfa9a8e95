// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random changes to a staged tree and to a model of it, with kills, power losses, full disks and damaged logs between.

#include <cerrno>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libmount/base/reason.h"
#include "tests/unit/staging_memory_files.h"
#include "tests/unit/staging_model.h"

namespace libmount {
namespace {

void Fill(TestImage& image) {
  const NodeId dir = image.AddDirectory(kRootNode, "dir");
  const NodeId inner = image.AddDirectory(dir, "C");
  image.AddFile(kRootNode, "some.txt", std::string(30'000, 's'));
  image.AddFile(dir, "a", "small");
  const NodeId linked = image.AddFile(inner, "b", std::string(10'000, 'l'));
  image.AddName(kRootNode, "B", linked);
  image.AddFile(inner, "c", "");
}

absl::StatusOr<std::unique_ptr<StagedTree>> TryOpenOn(std::shared_ptr<MemoryDisk> disk, const TestImage& image,
                                                      bool resumed = true) {
  StagedTreeOptions options;
  options.resumed = resumed;
  return StagedTree::OpenOn(std::make_unique<MemoryFiles>(std::move(disk)), &image, &image, &image, options);
}

std::unique_ptr<StagedTree> OpenOn(std::shared_ptr<MemoryDisk> disk, const TestImage& image, bool resumed = true) {
  auto tree = TryOpenOn(std::move(disk), image, resumed);
  EXPECT_TRUE(tree.ok()) << tree.status();
  return tree.ok() ? *std::move(tree) : nullptr;
}

class StagingCrashTest : public ::testing::TestWithParam<int> {
 protected:
  StagingCrashTest() : random_(GetParam()), disk_(std::make_shared<MemoryDisk>()) { Fill(image_); }

  std::mt19937 random_;
  TestImage image_;
  std::shared_ptr<MemoryDisk> disk_;
};

TEST_P(StagingCrashTest, NothingAcknowledgedIsLostByAKill) {
  StagingDirectory first;
  auto directory = std::make_unique<StagingDirectory>();
  std::unique_ptr<StagedTree> tree = OpenStaged(*directory, image_);
  StagingModel model(*tree);
  std::unique_ptr<ImageContents> contents;
  for (int step = 1; step <= 1500; ++step) {
    model.Step(*tree, random_, step);
    if (step % 97 == 0) {
      // In the middle of everything, a commit also.
      auto killed = std::make_unique<StagingDirectory>(*directory, 0);
      contents.reset();
      tree.reset();
      directory = std::move(killed);
      StagedTreeOptions options;
      options.resumed = random_() % 2 == 0;
      tree = OpenStaged(*directory, image_, options);
      ASSERT_NE(tree, nullptr);
      ASSERT_EQ(model.Compare(*tree), "") << "after step " << step;
    }
    if (step % 40 == 0 && contents == nullptr) {
      contents = *tree->Snapshot();
    } else if (step % 40 == 20 && contents != nullptr) {
      tree->AbandonCommit();
      contents.reset();
    }
    if (step % 31 == 0) {
      ASSERT_EQ(tree->Sync(), 0);
    }
  }
  EXPECT_EQ(model.Compare(*tree), "");
}

TEST_P(StagingCrashTest, NothingSyncedIsLostByAPowerLoss) {
  std::unique_ptr<StagedTree> tree = OpenOn(disk_, image_);
  StagingModel model(*tree);
  ASSERT_EQ(tree->Sync(), 0);
  for (int round = 0; round < 60; ++round) {
    model.TakeTouched();
    std::vector<StagingModel> models = {model};
    const int steps = static_cast<int>(random_() % 25);
    for (int i = 0; i < steps; ++i) {
      model.Step(*tree, random_, 0);
      models.push_back(model);
    }
    // The power is lost: what is left is the tree after one of the changes, with all data that had been synced.
    std::unique_ptr<StagedTree> left = OpenOn(disk_->LosePower(random_), image_);
    ASSERT_NE(left, nullptr);
    std::string differs;
    for (auto candidate = models.rbegin(); candidate != models.rend(); ++candidate) {
      differs = candidate->Compare(*left, model.touched());
      if (differs.empty()) break;
    }
    ASSERT_EQ(differs, "") << "round " << round;
    ASSERT_EQ(tree->Sync(), 0);
    std::unique_ptr<StagedTree> whole = OpenOn(disk_->LosePower(random_), image_);
    ASSERT_NE(whole, nullptr);
    ASSERT_EQ(model.Compare(*whole), "") << "round " << round;
  }
}

TEST(StagingSpaceTest, WhatIsReservedForOneFileIsThereForOthers) {
  constexpr size_t kMiB = size_t{1} << 20;
  TestImage image;
  auto disk = std::make_shared<MemoryDisk>();
  disk->LimitSpace(10 * kMiB / 4096);
  std::unique_ptr<StagedTree> tree = OpenOn(disk, image);
  auto append = [&](NodeId file, size_t number) {
    return tree->Write({}, file, number * kMiB, Bytes(std::string(kMiB, static_cast<char>('a' + number)))).error();
  };
  // Grows, and stays open: more is reserved for it than it ever gets.
  const NodeId first = tree->MakeNode({}, kRootNode, "first", S_IFREG | 0644, 0)->node;
  for (size_t i = 0; i < 4; ++i) ASSERT_EQ(append(first, i), 0) << i;
  const NodeId second = tree->MakeNode({}, kRootNode, "second", S_IFREG | 0644, 0)->node;
  for (size_t i = 0; i < 5; ++i) ASSERT_EQ(append(second, i), 0) << i;
  EXPECT_EQ(append(second, 5), ENOSPC) << "the log takes some of the last MiB";
  // Nor do names need space that only waits.
  EXPECT_TRUE(tree->MakeNode({}, kRootNode, "third", S_IFREG | 0644, 0).ok());
  const std::string content = Content(*tree, second);
  EXPECT_EQ(content.size(), 5 * kMiB);
  tree.reset();
  tree = OpenOn(disk, image);
  ASSERT_NE(tree, nullptr);
  EXPECT_EQ(Content(*tree, second), content);
  EXPECT_EQ(Content(*tree, first).substr(3 * kMiB), std::string(kMiB, 'd'));
}

TEST_P(StagingCrashTest, AFullOrFailingDiskLosesNothingAcknowledged) {
  std::unique_ptr<StagedTree> tree = OpenOn(disk_, image_);
  StagingModel model(*tree);
  for (int round = 0; round < 150; ++round) {
    disk_->FailAfter(static_cast<int>(random_() % 12), random_() % 2 ? ENOSPC : EIO);
    for (int i = 0; i < 8; ++i) model.Step(*tree, random_, 0);
    disk_->Heal();
    ASSERT_EQ(model.Compare(*tree), "") << "round " << round;
    std::unique_ptr<StagedTree> again = OpenOn(disk_->Copy(), image_);
    ASSERT_NE(again, nullptr);
    ASSERT_EQ(model.Compare(*again), "") << "round " << round;
    for (int i = 0; i < 8; ++i) model.Step(*tree, random_, 0);
    ASSERT_EQ(model.Compare(*tree), "") << "it goes on when there is space, round " << round;
  }
}

TEST_P(StagingCrashTest, ATornEndIsCutOffAndAnOlderPlaceIsDamage) {
  std::unique_ptr<StagedTree> tree = OpenOn(disk_, image_);
  StagingModel model(*tree);
  for (int i = 0; i < 30; ++i) model.Step(*tree, random_, 0);
  const uint64_t before = tree->GetStats().log_bytes;
  const StagingModel then = model;
  while (!tree->MakeNode({}, kRootNode, "last" + std::to_string(random_()), S_IFREG | 0644, 0).ok()) {
  }
  const uint64_t after = tree->GetStats().log_bytes;
  tree.reset();
  for (int i = 0; i < 20; ++i) {
    std::shared_ptr<MemoryDisk> torn = disk_->Copy();
    torn->Content("log").resize(before + random_() % (after - before));
    std::unique_ptr<StagedTree> left = OpenOn(torn, image_);
    ASSERT_NE(left, nullptr);
    EXPECT_EQ(then.Compare(*left), "");
    EXPECT_EQ(left->GetStats().log_bytes, before);
  }
  // Synced, and something behind it: then no crash can have done it.
  tree = OpenOn(disk_, image_);
  ASSERT_EQ(tree->Sync(), 0);
  ASSERT_TRUE(tree->MakeNode({}, kRootNode, "behind the sync", S_IFREG | 0644, 0).ok());
  tree.reset();
  for (int i = 0; i < 20; ++i) {
    std::shared_ptr<MemoryDisk> damaged = disk_->Copy();
    char& byte = damaged->Content("log")[random_() % after];
    byte = static_cast<char>(byte ^ (1 << random_() % 8));
    EXPECT_EQ(ReasonOf(TryOpenOn(damaged, image_).status()), Reason::kBadImageFormat);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, StagingCrashTest, ::testing::Range(1, 7));

}  // namespace
}  // namespace libmount
