// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobAhead: what is decoded ahead is what a reader would have got without it, damage is found as before, and readers
// that do not read in order set nothing off.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "libmount/base/reason.h"
#include "libmount/wim/blob_ahead.h"
#include "libmount/wim/blob_progress.h"
#include "tests/unit/wim_read_test_util.h"

namespace libmount {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kBudget = size_t{64} << 20;

// Files are numbered like their blobs, and stand in one directory in this order.
class BlobAheadTest : public ::testing::Test {
 protected:
  uint32_t AddBlob(size_t size, bool damaged = false, Compression compression = Compression::kXpress,
                   uint32_t chunk_size = 32 << 10, bool solid = false) {
    contents_.push_back(MakeData(size, static_cast<uint32_t>(300 + contents_.size())));
    BlobFacts facts;
    facts.location = {
        file_.AddCompressed(contents_.back(), compression, chunk_size, {.solid = solid, .pipable = false}), 0, size};
    facts.sha1 = Sha1::Of(contents_.back());
    if (damaged) facts.sha1[7] ^= 1;
    blobs_.push_back(facts);
    return static_cast<uint32_t>(blobs_.size() - 1);
  }

  void Open(size_t budget = kBudget) {
    fd_ = file_.Open(source_);
    reader_.emplace(&source_, &file_.locations(), ResourceReader::Options());
    verifier_.emplace(
        &*reader_, static_cast<uint32_t>(blobs_.size()), [this](uint32_t blob) { return blobs_[blob]; },
        [this](uint32_t blob, std::string_view) {
          absl::MutexLock lock(&mutex_);
          reported_.push_back(blob);
        });
    BlobAhead::Options options;
    options.cache_budget = budget;
    options.threads = 2;
    options.shape_of = [this](uint32_t blob) {
      const ResourceLocation& resource = file_.locations()[blobs_[blob].location.resource];
      return BlobAhead::Shape{blobs_[blob].location.size, resource.solid ? 0 : resource.chunk_size};
    };
    options.next_file = [this](uint64_t file) -> std::optional<BlobAhead::File> {
      if (file + 1 >= blobs_.size()) return std::nullopt;
      return BlobAhead::File{file + 1, static_cast<uint32_t>(file + 1)};
    };
    ahead_.emplace(&*verifier_, std::move(options));
  }

  absl::Status Read(uint32_t blob, uint64_t offset, size_t size) {
    size = std::min<size_t>(size, contents_[blob].size() - offset);
    std::vector<char> out(size);
    absl::Status status = ahead_->Read({blob, blob}, offset, absl::MakeSpan(out));
    EXPECT_TRUE(!status.ok() || std::equal(out.begin(), out.end(), contents_[blob].begin() + offset))
        << "blob " << blob << " at " << offset;
    return status;
  }

  // As the kernel's read-ahead does it: requests that grow. Returns the first error.
  absl::Status ReadInOrder(uint32_t blob) {
    size_t size = 64 << 10;
    for (uint64_t offset = 0; offset < contents_[blob].size();) {
      absl::Status status = Read(blob, offset, size);
      if (!status.ok()) return status;
      offset += size;
      size = std::min<size_t>(2 * size, 1 << 20);
    }
    return absl::OkStatus();
  }

  std::vector<uint32_t> reported() {
    absl::MutexLock lock(&mutex_);
    return reported_;
  }

  void WaitForPieces(uint64_t count) {
    absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (ahead_->GetStats().pieces < count && absl::Now() < deadline) std::this_thread::yield();
    EXPECT_GE(ahead_->GetStats().pieces, count);
  }

  ResourceFile file_;
  std::vector<std::vector<char>> contents_;
  std::vector<BlobFacts> blobs_;
  WimSource source_;
  UniqueFd fd_;
  absl::Mutex mutex_;
  std::vector<uint32_t> reported_;
  std::optional<ResourceReader> reader_;
  std::optional<BlobVerifier> verifier_;
  std::optional<BlobAhead> ahead_;
};

TEST_F(BlobAheadTest, WhatIsReadInOrderIsDecodedAheadOnceAndChecked) {
  AddBlob(5000001);
  AddBlob(3000000, false, Compression::kLzx, 64 << 10);
  AddBlob(2000000, false, Compression::kXpress, 4 << 10);
  AddBlob((64 << 10) + 1);
  Open();
  uint64_t bytes = 0;
  for (uint32_t blob = 0; blob < blobs_.size(); ++blob) {
    EXPECT_TRUE(ReadInOrder(blob).ok());
    bytes += contents_[blob].size();
  }
  EXPECT_GE(ahead_->GetStats().pieces, 30u);
  EXPECT_EQ(ahead_->GetStats().in_vain, 0u);
  EXPECT_EQ(verifier_->GetStats().verified_blobs, blobs_.size());
  EXPECT_EQ(verifier_->GetStats().read_again, 0u);
  EXPECT_EQ(reader_->GetStats().bytes_decoded, bytes);
}

TEST_F(BlobAheadTest, RequestsOfAnySizeAtAnyPlaceGiveTheRightBytes) {
  for (int i = 0; i < 4; ++i) AddBlob(1500000 + i);
  Open();
  std::mt19937 random(1);
  for (uint32_t blob = 0; blob < blobs_.size(); ++blob) {
    for (uint64_t offset = 0; offset < contents_[blob].size();) {
      size_t size = 1 + random() % 200000;
      EXPECT_TRUE(Read(blob, offset, size).ok());
      if (random() % 4 == 0) {
        EXPECT_TRUE(Read(blob, random() % contents_[blob].size(), size).ok());
      }
      offset += size;
    }
  }
  verifier_->WaitForBackground();
  EXPECT_EQ(verifier_->GetStats().verified_blobs, blobs_.size());
}

TEST_F(BlobAheadTest, WhoReadsWholeFilesFindsTheNextOneDecoded) {
  for (int i = 0; i < 4; ++i) AddBlob(500000);
  Open();
  EXPECT_TRUE(ReadInOrder(0).ok());
  EXPECT_TRUE(ReadInOrder(1).ok());
  EXPECT_TRUE(Read(2, 0, 64 << 10).ok());
  WaitForPieces(2 + 2 + 2 + 2);  // the last two are of a file that nobody has read from
  EXPECT_TRUE(Read(3, 0, 200 << 10).ok());
  // Pieces count when they are ready for the reader, which may be before the last of their chunks is counted.
  while (reader_->GetStats().bytes_decoded < 4 * 500000) std::this_thread::yield();
  EXPECT_EQ(reader_->GetStats().bytes_decoded, 4 * 500000) << "something was decoded twice";
}

TEST_F(BlobAheadTest, WhoDoesNotReadInOrderSetsNothingOff) {
  AddBlob(5000000);
  AddBlob(5000000);
  AddBlob(60000);
  AddBlob(3000000, false, Compression::kLzms, 1 << 20, /*solid=*/true);
  Open();
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(Read(0, 4096 + random() % 4000000, 128 << 10).ok());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Read(1, 0, 64 << 10).ok());  // the beginning alone
  EXPECT_TRUE(ReadInOrder(2).ok());
  EXPECT_TRUE(ReadInOrder(3).ok());
  EXPECT_EQ(ahead_->GetStats().pieces, 0u);
}

TEST_F(BlobAheadTest, FilesDecodedInVainEndTheTrust) {
  for (int i = 0; i < 40; ++i) AddBlob(400000);
  Open();
  for (uint32_t blob = 0; blob < 3; ++blob) EXPECT_TRUE(ReadInOrder(blob).ok());
  WaitForPieces(6);
  // The beginnings of others drive out what nobody came for.
  for (int round = 0; round < 2; ++round) {
    for (uint32_t blob = 39; blob >= 20; --blob) EXPECT_TRUE(Read(blob, 0, 64 << 10).ok());
  }
  EXPECT_GT(ahead_->GetStats().in_vain, 0u);
  uint64_t pieces = ahead_->GetStats().pieces;
  for (uint32_t blob = 10; blob < 20; ++blob) EXPECT_TRUE(Read(blob, 0, 64 << 10).ok());
  EXPECT_EQ(ahead_->GetStats().pieces, pieces);
}

TEST_F(BlobAheadTest, ADamagedBlobFailsAtItsEndAtTheLatest) {
  for (int i = 0; i < 12; ++i) AddBlob(400000 + i * 200000, /*damaged=*/i % 4 == 3);
  Open();
  for (uint32_t blob = 0; blob < 12; ++blob) {
    EXPECT_EQ(ReasonOf(ReadInOrder(blob)) == Reason::kBadImageFormat, blob % 4 == 3) << blob;
    EXPECT_EQ(Read(blob, 0, 1).ok(), blob % 4 != 3) << blob;
  }
  EXPECT_THAT(reported(), ElementsAre(3, 7, 11));
}

TEST_F(BlobAheadTest, AChunkThatDoesNotDecodeFailsItsReader) {
  for (int i = 0; i < 3; ++i) AddBlob(1000000);
  memset(&file_.bytes()[file_.bytes().size() - 4000], 0xff, 4000);
  Open();
  EXPECT_TRUE(ReadInOrder(0).ok());
  EXPECT_TRUE(ReadInOrder(1).ok());
  EXPECT_EQ(ReasonOf(ReadInOrder(2)), Reason::kBadImageFormat);
  EXPECT_THAT(reported(), ElementsAre(2));
}

TEST_F(BlobAheadTest, AChangedImageIsNoDamage) {
  AddBlob(8000000);
  Open();
  EXPECT_TRUE(Read(0, 0, 64 << 10).ok());
  ASSERT_EQ(ftruncate(fd_.get(), 1000), 0);
  absl::Status status;
  for (uint64_t offset = 64 << 10; offset < 8000000 && status.ok(); offset += 1 << 20)
    status = Read(0, offset, 1 << 20);
  EXPECT_EQ(ReasonOf(status), Reason::kImageChanged);
  EXPECT_THAT(reported(), IsEmpty());
}

TEST_F(BlobAheadTest, KeepsToItsBudgetAndGivesAllBack) {
  for (int i = 0; i < 4; ++i) AddBlob(6000000);
  constexpr size_t kSmall = size_t{6} << 20;
  Open(kSmall);
  for (uint32_t blob = 0; blob < 2; ++blob) {
    EXPECT_TRUE(ReadInOrder(blob).ok());
    // Buffers that a hash still holds come on top.
    EXPECT_LE(ahead_->GetStats().bytes, BlobAhead::ShareOf(kSmall) + BlobHash::kMaxHeld);
  }
  EXPECT_GT(ahead_->GetStats().pieces, 0u);
  ahead_->SetCacheBudget(0);
  uint64_t pieces = ahead_->GetStats().pieces;
  EXPECT_TRUE(ReadInOrder(2).ok());
  EXPECT_LE(ahead_->GetStats().pieces, pieces + 2);  // those under way
  absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (ahead_->GetStats().bytes > 0 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(ahead_->GetStats().bytes, 0u);
  ahead_->SetCacheBudget(kBudget);
  EXPECT_TRUE(ReadInOrder(3).ok());
  EXPECT_GT(ahead_->GetStats().pieces, pieces);
}

TEST_F(BlobAheadTest, ManyReadersAtOnce) {
  constexpr uint32_t kBlobs = 24;
  for (uint32_t i = 0; i < kBlobs; ++i) AddBlob(70000 + i * 100000, /*damaged=*/i % 8 == 7);
  Open();
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 5; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (uint32_t round = 0; round < kBlobs; ++round) {
        uint32_t blob = t < 3 ? round : (round * 5 + t) % kBlobs;
        bool good = blob % 8 != 7;
        if (t == 4) {
          for (int i = 0; i < 10; ++i) {
            absl::Status status = Read(blob, random() % contents_[blob].size(), 100000);
            EXPECT_TRUE(status.ok() || !good);
          }
          if (round % 6 == 5) ahead_->SetCacheBudget(round % 4 == 1 ? 0 : kBudget);
        } else {
          EXPECT_EQ(ReadInOrder(blob).ok(), good) << blob;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(reported(), ::testing::UnorderedElementsAre(7, 15, 23));
}

TEST_F(BlobAheadTest, EndsWhilePiecesAreDecoded) {
  for (int i = 0; i < 3; ++i) AddBlob(8000000);
  Open();
  EXPECT_TRUE(Read(0, 0, 64 << 10).ok());
  EXPECT_TRUE(Read(0, 64 << 10, 128 << 10).ok());
  ahead_.reset();
  verifier_.reset();
}

}  // namespace
}  // namespace libmount
