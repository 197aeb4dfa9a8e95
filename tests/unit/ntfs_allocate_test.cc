// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: fallocate in all its modes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include <iterator>
#include <random>

#include "libmount/base/little_endian.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "tests/unit/ntfs_write_fixture.h"

namespace libmount {
namespace {

TEST_F(NtfsWriteTest, AllocatingPunchingAndSeeking) {
  NtfsTree& tree = Open();
  const NodeId file = File("file", std::string(300'000, 'x'));
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 200'000), 0);
  std::string expected(300'000, 'x');
  expected.replace(1000, 200'000, std::string(200'000, '\0'));
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  EXPECT_EQ(tree.Allocate({}, file, 0, 0, 400'000), 0);
  expected.resize(400'000);
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_ZERO_RANGE, 390'000, 20'000), 0);
  EXPECT_EQ(tree.GetAttributes(file)->size, 410'000u);
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_KEEP_SIZE, 400'000, 100'000), 0);
  EXPECT_EQ(tree.GetAttributes(file)->size, 410'000u);
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
  EXPECT_EQ(*tree.Seek(file, 0, SEEK_DATA), 0u);
  EXPECT_EQ(tree.Seek(file, 410'000, SEEK_HOLE).error(), ENXIO);
  CheckVolume();
}

TEST_F(NtfsWriteTest, WhatIsAllocatedIsThere) {
  NtfsTree& tree = Open();
  for (const int mode : {0, FALLOC_FL_KEEP_SIZE}) {
    SCOPED_TRACE(mode);
    const NodeId file = File("file", "begin");
    const uint64_t free = tree.FileSystemStats().f_bfree;
    EXPECT_EQ(tree.Allocate({}, file, mode, 0, uint64_t{5} << 40), ENOSPC);
    EXPECT_EQ(tree.GetAttributes(file)->size, 5u);
    EXPECT_EQ(tree.FileSystemStats().f_bfree, free);
    ASSERT_EQ(tree.Allocate({}, file, mode, 0, 8 * kMiB), 0);
    EXPECT_EQ(tree.GetAttributes(file)->allocated, 8 * kMiB);
    EXPECT_EQ(tree.GetAttributes(file)->size, mode == 0 ? 8 * kMiB : 5);
    EXPECT_EQ(tree.FileSystemStats().f_bfree, free - 8 * kMiB / 4096);
    std::string expected = "begin";
    if (mode == 0) expected.resize(8 * kMiB);
    EXPECT_TRUE(ReadAll(tree, file) == expected);
    CheckVolume();

    // Nothing is left for others, and all of it for this one, in whatever order it is written.
    const NodeId filler = File("filler");
    // (One cluster is left, which the library counts and does not take.)
    ASSERT_EQ(tree.Allocate({}, filler, 0, 0, (tree.FileSystemStats().f_bfree - 1) * 4096), 0);
    EXPECT_EQ(tree.Allocate({}, filler, FALLOC_FL_KEEP_SIZE, 0, 64 * kMiB), ENOSPC);
    expected.resize(8 * kMiB);
    for (const uint64_t at : {5 * kMiB, kMiB, 7 * kMiB + 5, uint64_t{100}}) {
      const std::string data = RandomBytes(700'000, static_cast<uint32_t>(at));
      Put(file, data, at);
      expected.replace(at, data.size(), data);
      if (at == 5 * kMiB && mode != 0) {
        EXPECT_EQ(tree.GetAttributes(file)->size, at + data.size());
      }
    }
    expected.resize(tree.GetAttributes(file)->size);
    EXPECT_TRUE(ReadAll(tree, file) == expected);
    CheckVolume();
    for (const char* name : {"file", "filler"}) EXPECT_EQ(tree.Unlink({}, kRootNode, name), 0);
    EXPECT_EQ(tree.FileSystemStats().f_bfree, free);
  }
}

TEST_F(NtfsWriteTest, WhatIsPunchedOutIsGivenBack) {
  NtfsTree& tree = Open();
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const NodeId file = File("file", std::string(8 * kMiB, 'x'));
  uint64_t free = tree.FileSystemStats().f_bfree;
  ASSERT_EQ(tree.Allocate({}, file, kPunch, kMiB + 100, 4 * kMiB), 0);
  EXPECT_EQ(tree.FileSystemStats().f_bfree, free + 4 * kMiB / 4096 - 1);
  EXPECT_EQ(tree.GetAttributes(file)->allocated, 4 * kMiB + 4096);
  EXPECT_EQ(*tree.Seek(file, 0, SEEK_HOLE), kMiB + 4096);
  EXPECT_EQ(*tree.Seek(file, 2 * kMiB, SEEK_DATA), 5 * kMiB);
  std::string expected(8 * kMiB, 'x');
  expected.replace(kMiB + 100, 4 * kMiB, std::string(4 * kMiB, '\0'));
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  CheckVolume();
  // Where there is a hole nothing is written; nor behind what was ever written.
  ASSERT_TRUE(tree.SetAttributes({}, file, {.size = 20 * kMiB}).ok());
  expected.resize(20 * kMiB);
  free = tree.FileSystemStats().f_bfree;
  for (const int mode : {kPunch, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE}) {
    EXPECT_EQ(tree.Allocate({}, file, mode, kMiB + 100, 4 * kMiB), 0);
    EXPECT_EQ(tree.Allocate({}, file, mode, 8 * kMiB + 1, 11 * kMiB), 0);
  }
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_ZERO_RANGE, 19 * kMiB, 100 * kMiB), 0);
  expected.resize(119 * kMiB);
  EXPECT_EQ(tree.FileSystemStats().f_bfree, free);
  // It is filled again where somebody writes, or allocates.
  Put(file, "again", 3 * kMiB);
  expected.replace(3 * kMiB, 5, "again");
  EXPECT_EQ(tree.FileSystemStats().f_bfree, free - 1);
  EXPECT_EQ(tree.Allocate({}, file, 0, 0, 8 * kMiB), 0);
  EXPECT_EQ(tree.FileSystemStats().f_bfree, free - 4 * kMiB / 4096 + 1);
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  CheckVolume();
  ASSERT_EQ(tree.Allocate({}, file, kPunch, 0, 200 * kMiB), 0);
  EXPECT_EQ(tree.GetAttributes(file)->allocated, 0u);
  EXPECT_TRUE(ReadAll(tree, file) == std::string(119 * kMiB, '\0'));
  CheckVolume();
}

TEST_F(NtfsWriteTest, ACompressedFileIsPunchedAndNotAllocated) {
  NtfsTree& tree = Open();
  const NodeId directory = Directory("packed");
  ASSERT_EQ(tree.SetXattr({}, directory, "system.ntfs_attrib", std::string("\x10\x08\0\0", 4), 0), 0);
  const NodeId file = File("file", RandomBytes(kMiB, 1), directory);
  ASSERT_NE(LoadLe32(tree.GetXattr(file, "system.ntfs_attrib")->data()) & 0x800, 0u);
  for (const int mode : {0, FALLOC_FL_KEEP_SIZE}) {
    EXPECT_EQ(tree.Allocate({}, file, mode, 0, 2 * kMiB), EOPNOTSUPP);
  }
  const uint64_t free = tree.FileSystemStats().f_bfree;
  EXPECT_EQ(tree.Allocate({}, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, kMiB / 2), 0);
  EXPECT_GE(tree.FileSystemStats().f_bfree, free);
  std::string expected = RandomBytes(kMiB, 1);
  expected.replace(1000, kMiB / 2, std::string(kMiB / 2, '\0'));
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  CheckVolume();
}

// Many pieces: more than fit into a record. And a disk beneath that fails at any moment.
TEST_F(NtfsWriteTest, RandomAllocationsAgainstAModel) {
  for (uint32_t cluster : {512u, 4096u, 65536u}) {
    SCOPED_TRACE(cluster);
    Make(64 * kMiB, 512, cluster);
    NtfsTree* tree = &Open();
    NodeId file = File("file");
    std::string model;
    std::mt19937 random(cluster);
    for (int step = 0; step < 500; ++step) {
      const uint64_t at = random() % (8 * kMiB);
      const uint64_t length = 1 + random() % (random() % 4 == 0 ? kMiB : 3 * cluster);
      static constexpr int kModes[] = {0,
                                       FALLOC_FL_KEEP_SIZE,
                                       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       FALLOC_FL_ZERO_RANGE,
                                       FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
      const size_t what = random() % (std::size(kModes) + 2);
      if (random() % 10 == 0) device_->FailAfter(static_cast<int>(random() % 10));
      int error = 0;
      const uint64_t free = tree->FileSystemStats().f_bfree;
      if (what < std::size(kModes)) {
        error = tree->Allocate({}, file, kModes[what], at, length);
      } else if (what == std::size(kModes)) {
        error = tree->Write({}, file, at, std::string(length, static_cast<char>('a' + step % 26))).error();
      } else {
        error = tree->SetAttributes({}, file, {.size = at}).error();
      }
      device_->FailAfter(-1);
      if (error != 0) {
        ASSERT_EQ(error, ENOSPC) << step;
        ASSERT_EQ(tree->FileSystemStats().f_bfree, free);
      } else if (what < std::size(kModes)) {
        const int mode = kModes[what];
        if ((mode & FALLOC_FL_KEEP_SIZE) == 0) model.resize(std::max<uint64_t>(model.size(), at + length));
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 && at < model.size()) {
          const uint64_t inside = std::min(length, model.size() - at);
          model.replace(at, inside, std::string(inside, '\0'));
          ASSERT_GE(tree->FileSystemStats().f_bfree, free);
        }
      } else if (what == std::size(kModes)) {
        model.resize(std::max<uint64_t>(model.size(), at + length));
        model.replace(at, length, std::string(length, static_cast<char>('a' + step % 26)));
      } else {
        model.resize(at);
      }
      if (step % 50 == 49) {
        ASSERT_TRUE(ReadAll(*tree, file) == model) << step;
        device_->Die();
        tree = &Open();
        ASSERT_TRUE(ReadAll(*tree, file) == model) << step;
        CheckVolume();
      }
    }
    // Every second cluster.
    const uint64_t pieces = 6 * kMiB / 4096;
    ASSERT_EQ(tree->Allocate({}, file, 0, 0, pieces * 4096), 0);
    model.resize(std::max<uint64_t>(model.size(), pieces * 4096));
    for (uint64_t i = 0; i < pieces; i += 2) {
      ASSERT_EQ(tree->Allocate({}, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 4096, 4096), 0);
      model.replace(i * 4096, 4096, std::string(4096, '\0'));
    }
    EXPECT_TRUE(ReadAll(*tree, file) == model);
    CheckVolume();
    ASSERT_EQ(tree->Allocate({}, file, 0, 0, model.size()), 0);
    EXPECT_TRUE(ReadAll(*tree, file) == model);
    CheckVolume();
    const uint64_t free = tree->FileSystemStats().f_bfree;
    EXPECT_EQ(tree->Unlink({}, kRootNode, "file"), 0);
    EXPECT_GE(tree->FileSystemStats().f_bfree, free + model.size() / cluster);
    CheckVolume();
  }
}

}  // namespace
}  // namespace libmount
