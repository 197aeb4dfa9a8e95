// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice: what is read, groups, replies, identities and snapshots.

#include "libmount/block/overlay.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "libmount/base/crc32c.h"
#include "libmount/base/reason.h"
#include "tests/unit/overlay_test_util.h"
#include "tests/unit/staging_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kCluster = OverlayDevice::kClusterSize;

class OverlayTest : public ::testing::Test {
 protected:
  OverlayTest() : base_(RandomBytes(random_, 64 * kCluster + 512)), disk_(std::make_shared<MemoryDisk>()) {
    options_.base_identity = "this one";
  }
  std::unique_ptr<OverlayDevice> Open(bool resumed = false) {
    options_.resumed = resumed;
    return OpenOverlay(disk_, base_, options_);
  }

  std::mt19937 random_{7};
  MemoryDevice base_;
  OverlayOptions options_;
  std::shared_ptr<MemoryDisk> disk_;
};

TEST(Crc32c, IsCastagnolis) {
  const std::string digits = "123456789";
  EXPECT_EQ(Crc32c(digits), 0xe3069283u);
  std::mt19937 random(1);
  for (size_t size : {0, 1, 7, 8, 9, 4096, 10'001}) {
    const std::string bytes = RandomBytes(random, size);
    EXPECT_EQ(Crc32c(bytes), PortableCrc32c(bytes)) << size;
    EXPECT_EQ(Crc32c(absl::MakeSpan(bytes).subspan(size / 3), Crc32c(absl::MakeSpan(bytes).first(size / 3))),
              Crc32c(bytes));
  }
}

TEST_F(OverlayTest, WritesOfAnyPlaceAndLengthAreReadBackAndTheDiskBeneathIsNot) {
  const std::string before = base_.content();
  std::string model = before;
  std::unique_ptr<OverlayDevice> device = Open();
  EXPECT_EQ(device->size(), before.size());
  EXPECT_FALSE(device->has_changes());
  EXPECT_EQ(Content(*device), model);
  const std::pair<uint64_t, size_t> places[] = {{0, 1},
                                                {4095, 2},
                                                {kCluster, kCluster},
                                                {3 * kCluster - 10, 20 * kCluster},
                                                {30 * kCluster, 17 * kCluster},
                                                {40 * kCluster + 3, 5},
                                                {model.size() - 1, 1},
                                                {0, model.size()},
                                                {100, 0}};
  for (const auto& [offset, size] : places) {
    const std::string data = RandomBytes(random_, size);
    ASSERT_EQ(device->Write(offset, data), 0);
    model.replace(offset, size, data);
    ASSERT_EQ(Content(*device), model);
  }
  EXPECT_TRUE(device->has_changes());
  EXPECT_EQ(device->GetStats().changed_bytes, 65 * kCluster);
  EXPECT_EQ(device->Write(model.size(), "x"), EINVAL);
  EXPECT_EQ(device->Write(UINT64_MAX, "x"), EINVAL);
  char byte;
  EXPECT_EQ(device->Read(model.size(), absl::MakeSpan(&byte, 1)), EINVAL);
  EXPECT_EQ(base_.content(), before);
  device = nullptr;
  EXPECT_EQ(Content(*Open()), model);
}

TEST_F(OverlayTest, WhatIsWrittenLaterLiesBehind) {
  std::unique_ptr<OverlayDevice> device = Open();
  EXPECT_EQ(device->GetStats().staged_end, 0u);
  ASSERT_EQ(device->Write(0, "first"), 0);
  ASSERT_EQ(device->Write(kCluster, "second"), 0);
  const uint64_t end = device->GetStats().staged_end;
  device = nullptr;
  device = Open();
  EXPECT_EQ(device->GetStats().staged_end, end);
  ASSERT_EQ(device->Write(0, "again"), 0);
  EXPECT_EQ(device->GetStats().changed_bytes, 2 * kCluster);
  EXPECT_GT(device->GetStats().staged_end, end);
  device = nullptr;
  EXPECT_GT(Open()->GetStats().staged_end, end);
}

TEST_F(OverlayTest, AGroupIsThereWithItsEndAndNotBefore) {
  std::unique_ptr<OverlayDevice> device = Open();
  const std::string before = Content(*device);
  device->Begin(5);
  ASSERT_EQ(device->Write(10, "inside"), 0);
  ASSERT_EQ(device->Write(20 * kCluster, std::string(20 * kCluster, 'd')), 0);
  EXPECT_EQ(Content(*OpenOverlay(disk_->Copy(), base_, options_)), before);
  const std::string after = Content(*device);
  EXPECT_NE(after, before);
  ASSERT_EQ(device->End({7, 77}), 0);
  EXPECT_EQ(Content(*OpenOverlay(disk_->Copy(), base_, options_)), after);
  device->Begin(6);
  ASSERT_EQ(device->Write(12, "given up"), 0);
  ASSERT_EQ(device->Write(25 * kCluster, std::string(20 * kCluster, 'e')), 0);
  ASSERT_EQ(device->Write(26 * kCluster + 1, "once more"), 0);
  device->Abort();
  EXPECT_EQ(Content(*device), after);
  EXPECT_FALSE(device->FindReply(6).has_value());
}

TEST_F(OverlayTest, RepliesAreKeptForAReplacementAndForgottenByANewMount) {
  std::unique_ptr<OverlayDevice> device = Open();
  for (uint64_t request = 1; request <= 1500; ++request) {
    device->Begin(request);
    if (request != 1400) {
      ASSERT_EQ(device->Write(request % 64 * kCluster, "x"), 0);
    }
    ASSERT_EQ(device->End({3, request + 1}), 0);
  }
  device = nullptr;
  device = Open(/*resumed=*/true);
  EXPECT_FALSE(device->FindReply(400).has_value());
  EXPECT_FALSE(device->FindReply(1400).has_value()) << "it did nothing";
  EXPECT_FALSE(device->FindReply(0).has_value());
  for (uint64_t request : {600, 1500}) {
    ASSERT_TRUE(device->FindReply(request).has_value());
    EXPECT_EQ(device->FindReply(request)->operation, 3u);
    EXPECT_EQ(device->FindReply(request)->result, request + 1);
  }
  device = nullptr;
  EXPECT_FALSE(Open()->FindReply(1500).has_value());
  EXPECT_FALSE(Open(/*resumed=*/true)->FindReply(1500).has_value()) << "forgotten for good";
}

TEST_F(OverlayTest, AnotherDiskIsRefused) {
  ASSERT_EQ(Open()->Write(0, "x"), 0);
  options_.base_identity = "changed by somebody";
  EXPECT_EQ(ReasonOf(TryOpenOverlay(disk_, base_, options_).status()), Reason::kImageChanged);
  options_.base_identity = "this one";
  const MemoryDevice smaller(std::string(8192, '\0'));
  EXPECT_EQ(ReasonOf(TryOpenOverlay(disk_, smaller, options_).status()), Reason::kBadImageFormat);
  EXPECT_TRUE(TryOpenOverlay(disk_, base_, options_).ok());
}

TEST_F(OverlayTest, ASnapshotKeepsWhatItHasAndWhatItHadGoesWithTheCommit) {
  std::unique_ptr<OverlayDevice> device = Open();
  for (uint32_t seed = 0; seed < 50; ++seed) ASSERT_EQ(RandomGroup(base_.size(), seed).Run(*device, seed), 0);
  const std::string then = Content(*device);
  auto snapshot = *device->TakeSnapshot();
  EXPECT_EQ(device->TakeSnapshot().status().code(), absl::StatusCode::kFailedPrecondition);
  std::string now = then;
  for (uint32_t seed = 50; seed < 60; ++seed) {
    const RandomGroup group(base_.size(), seed);
    ASSERT_EQ(group.Run(*device, seed), 0);
    group.Apply(now);
    ASSERT_EQ(device->Sync(), 0);
  }
  ASSERT_TRUE(device->NoteCommitBegun().ok());
  EXPECT_TRUE(device->commit_pending());
  {
    options_.base_identity = "any, while a commit is under way";
    auto copy = OpenOverlay(disk_->Copy(), base_, options_);
    EXPECT_TRUE(copy->commit_pending());
    EXPECT_EQ(Content(*copy), now);
  }
  uint64_t bytes = 0;
  for (const OverlayDevice::Run& run : snapshot->runs()) {
    ASSERT_EQ(snapshot->Read(run, 0, absl::MakeSpan(base_.content()).subspan(run.offset, run.length)), 0);
    bytes += run.length;
  }
  EXPECT_EQ(bytes, snapshot->bytes());
  EXPECT_EQ(base_.content(), then);
  const uint64_t changed = device->GetStats().changed_bytes;
  ASSERT_TRUE(device->FinishCommit("the new one").ok());
  EXPECT_FALSE(device->commit_pending());
  EXPECT_LT(device->GetStats().changed_bytes, changed);
  EXPECT_TRUE(device->has_changes());
  EXPECT_EQ(Content(*device), now);
  device = nullptr;
  options_.base_identity = "the new one";
  device = Open();
  EXPECT_EQ(Content(*device), now);
  snapshot = *device->TakeSnapshot();
  for (const OverlayDevice::Run& run : snapshot->runs()) {
    ASSERT_EQ(snapshot->Read(run, 0, absl::MakeSpan(base_.content()).subspan(run.offset, run.length)), 0);
  }
  ASSERT_TRUE(device->FinishCommit("the newest").ok());
  EXPECT_FALSE(device->has_changes());
  EXPECT_EQ(Content(*device), now);
  EXPECT_TRUE(std::string_view(disk_->Content("data")).find_first_not_of('\0') == std::string_view::npos)
      << "space is given back";
}

TEST_F(OverlayTest, AFullDiskFailsGroupsWholeAndTheyGoOnWhenThereIsSpace) {
  options_.rewrite_log_at = 2000;
  std::unique_ptr<OverlayDevice> device = Open();
  std::string model = Content(*device);
  int failed = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    if (seed % 2 == 0) disk_->FailAfter(static_cast<int>(random_() % 6), seed % 4 == 0 ? ENOSPC : EIO);
    const RandomGroup group(base_.size(), seed);
    const int error = group.Run(*device, seed + 1);
    disk_->Heal();
    failed += error != 0;
    if (error == 0) group.Apply(model);
    ASSERT_EQ(device->FindReply(seed + 1).has_value(), error == 0 && !group.given_up);
    ASSERT_EQ(Content(*device), model) << seed;
    if (seed % 10 == 0) {
      ASSERT_EQ(Content(*OpenOverlay(disk_->Copy(), base_, options_)), model) << seed;
    }
  }
  EXPECT_GT(failed, 25);
}

TEST_F(OverlayTest, AGroupLargerThanARecordIsOneGroup) {
  StagingDirectory directory;
  const MemoryDevice base(std::string(44'000 * kCluster, 'b'));
  auto device = *OverlayDevice::Open(directory.Open(), &base, {});
  EXPECT_EQ(ReasonOf(OverlayDevice::Open(directory.Open(), &base, {}).status()), Reason::kImageInUse);
  device->Begin(1);
  for (uint64_t cluster = 0; cluster < 44'000; cluster += 2) {
    ASSERT_EQ(device->Write(cluster * kCluster + cluster % 4000, "a"), 0);
  }
  ASSERT_EQ(device->End({}), 0);
  const std::string content = Content(*device);
  EXPECT_EQ(std::count(content.begin(), content.end(), 'a'), 22'000);
  device = nullptr;
  device = *OverlayDevice::Open(directory.Open(), &base, {});
  EXPECT_TRUE(Content(*device) == content);
}

// Each sector says of which cluster it is, and of which version.
TEST(OverlayThreads, ReadersSeeWholeClustersWhileOthersWriteSyncAndCommit) {
  constexpr uint64_t kClusters = 256;
  struct Stamp {
    uint64_t cluster;
    uint64_t version;
  };
  auto fill = [](uint64_t cluster, uint64_t version) {
    std::string bytes(kCluster, '\0');
    const Stamp stamp{cluster, version};
    for (size_t at = 0; at < kCluster; at += 512) memcpy(bytes.data() + at, &stamp, sizeof stamp);
    return bytes;
  };
  std::string content;
  for (uint64_t i = 0; i < kClusters; ++i) content += fill(i, 0);
  const MemoryDevice base(content);
  StagingDirectory directory;
  auto device = *OverlayDevice::Open(directory.Open(), &base, {});
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      std::vector<uint64_t> seen(kClusters);
      while (!done) {
        const uint64_t first = random() % kClusters;
        const uint64_t count = std::min(kClusters - first, uint64_t{1} + random() % 40);
        std::string got(count * kCluster, '?');
        ASSERT_EQ(device->Read(first * kCluster, absl::MakeSpan(got)), 0);
        for (uint64_t at = 0; at < got.size(); at += 512) {
          Stamp stamp;
          memcpy(&stamp, got.data() + at, sizeof stamp);
          const uint64_t cluster = first + at / kCluster;
          ASSERT_EQ(stamp.cluster, cluster);
          ASSERT_GE(stamp.version, seen[cluster]);
          seen[cluster] = stamp.version;
        }
      }
    });
  }
  threads.emplace_back([&] {
    while (!done) ASSERT_EQ(device->Sync(), 0);
  });
  std::vector<std::thread> writers;
  std::atomic<uint64_t> version = 0;
  for (int i = 0; i < 2; ++i) {
    writers.emplace_back([&, i] {
      std::mt19937 random(100 + i);
      for (int group = 0; group < 1500; ++group) {
        device->Begin(0);
        const uint64_t now = ++version;  // within the group: versions of a cluster never fall
        for (int write = 0; write < 3; ++write) {
          const uint64_t first = random() % kClusters;
          const uint64_t count = random() % 4 == 0 ? std::min<uint64_t>(kClusters - first, 20) : 1;
          std::string data;
          for (uint64_t k = 0; k < count; ++k) data += fill(first + k, now);
          ASSERT_EQ(device->Write(first * kCluster, data), 0);
        }
        ASSERT_EQ(device->End({}), 0);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  done = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace libmount
