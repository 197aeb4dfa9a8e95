// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobVerifier: whatever the order of the reads, a damaged blob is found, once, and stays unreadable.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "libmount/base/reason.h"
#include "libmount/wim/blob_verifier.h"
#include "tests/unit/wim_read_test_util.h"

namespace libmount {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kPiece = 128 << 10;

class BlobVerifierTest : public ::testing::Test {
 protected:
  // Adds a blob in a resource of its own; `damaged`: its hash belongs to other data.
  uint32_t AddBlob(size_t size, bool damaged = false) {
    contents_.push_back(MakeData(size, static_cast<uint32_t>(100 + contents_.size())));
    BlobFacts facts;
    facts.location = {file_.AddCompressed(contents_.back(), Compression::kXpress, 32 << 10), 0, size};
    facts.sha1 = Sha1::Of(contents_.back());
    if (damaged) facts.sha1[7] ^= 1;
    blobs_.push_back(facts);
    return static_cast<uint32_t>(blobs_.size() - 1);
  }

  void Open() {
    fd_ = file_.Open(source_);
    reader_.emplace(&source_, &file_.locations(), ResourceReader::Options());
    verifier_.emplace(
        &*reader_, static_cast<uint32_t>(blobs_.size()), [this](uint32_t blob) { return blobs_[blob]; },
        [this](uint32_t blob, std::string_view) {
          absl::MutexLock lock(&mutex_);
          reported_.push_back(blob);
        });
  }

  absl::Status Read(uint32_t blob, uint64_t offset, size_t size) {
    std::vector<char> out(size);
    absl::Status status = verifier_->Read(blob, offset, absl::MakeSpan(out));
    EXPECT_TRUE(!status.ok() || std::equal(out.begin(), out.end(), contents_[blob].begin() + offset));
    return status;
  }
  absl::Status ReadWhole(uint32_t blob) { return Read(blob, 0, contents_[blob].size()); }

  // The starts of the pieces that make up a blob.
  std::vector<uint64_t> Pieces(uint32_t blob) const {
    std::vector<uint64_t> starts;
    for (uint64_t start = 0; start < contents_[blob].size(); start += kPiece) starts.push_back(start);
    return starts;
  }
  absl::Status ReadPiece(uint32_t blob, uint64_t start) {
    return Read(blob, start, std::min<size_t>(kPiece, contents_[blob].size() - start));
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
};

TEST_F(BlobVerifierTest, ABlobReadWholeIsCheckedBeforeItIsHandedOut) {
  uint32_t good = AddBlob(100000);
  uint32_t bad = AddBlob(100001, /*damaged=*/true);
  Open();
  EXPECT_TRUE(ReadWhole(good).ok());
  EXPECT_EQ(verifier_->GetStats().verified_blobs, 1u);
  EXPECT_EQ(ReasonOf(ReadWhole(bad)), Reason::kBadImageFormat);
  EXPECT_EQ(ReasonOf(Read(bad, 5, 1)), Reason::kBadImageFormat);
  EXPECT_THAT(reported_, ElementsAre(bad));
  EXPECT_EQ(verifier_->GetStats().damaged_blobs, 1u);
}

TEST_F(BlobVerifierTest, InOrderTheLastPieceGivesTheVerdict) {
  uint32_t good = AddBlob(1000000);
  uint32_t bad = AddBlob(1000001, /*damaged=*/true);
  Open();
  for (uint64_t start : Pieces(good)) EXPECT_TRUE(ReadPiece(good, start).ok());
  std::vector<uint64_t> pieces = Pieces(bad);
  for (uint64_t start : pieces) EXPECT_EQ(ReadPiece(bad, start).ok(), start != pieces.back());
  EXPECT_FALSE(ReadPiece(bad, 0).ok());
  EXPECT_THAT(reported_, ElementsAre(bad));
  EXPECT_EQ(verifier_->GetStats().verified_blobs, 1u);
  EXPECT_EQ(verifier_->GetStats().read_again, 0u);
}

TEST_F(BlobVerifierTest, APieceThatOvertakesIsNotDecodedAgain) {
  uint32_t good = AddBlob(1000000);
  Open();
  std::vector<uint64_t> pieces = Pieces(good);
  for (size_t i = 0; i + 1 < pieces.size(); i += 2) std::swap(pieces[i], pieces[i + 1]);
  for (uint64_t start : pieces) EXPECT_TRUE(ReadPiece(good, start).ok());
  EXPECT_EQ(verifier_->GetStats().verified_blobs, 1u);
  EXPECT_EQ(verifier_->GetStats().read_again, 0u);
}

TEST_F(BlobVerifierTest, BackwardsTheBackgroundGivesTheVerdict) {
  uint32_t good = AddBlob(8000000);  // more than may be held back
  uint32_t bad = AddBlob(8000001, /*damaged=*/true);
  Open();
  for (uint32_t blob : {good, bad}) {
    std::vector<uint64_t> pieces = Pieces(blob);
    for (auto start = pieces.rbegin(); start != pieces.rend(); ++start) EXPECT_TRUE(ReadPiece(blob, *start).ok());
  }
  verifier_->WaitForBackground();
  EXPECT_EQ(verifier_->GetStats().verified_blobs, 1u);
  EXPECT_GT(verifier_->GetStats().read_again, 0u);
  EXPECT_THAT(reported_, ElementsAre(bad));
  EXPECT_FALSE(ReadPiece(bad, 0).ok());
  EXPECT_TRUE(ReadPiece(good, 0).ok());
}

// All has been decoded as soon as each chunk was touched, though not each byte was asked for.
TEST_F(BlobVerifierTest, ChunksTouchedAreDecoded) {
  uint32_t bad = AddBlob(320 << 10, /*damaged=*/true);
  Open();
  for (uint64_t chunk = 9; chunk > 0; --chunk) EXPECT_TRUE(Read(bad, chunk * (32 << 10) + 17, 1).ok());
  (void)Read(bad, 17, 1);
  verifier_->WaitForBackground();
  EXPECT_THAT(reported_, ElementsAre(bad));
}

TEST_F(BlobVerifierTest, ABlobNotReadToTheEndIsNotJudged) {
  uint32_t bad = AddBlob(1000000, /*damaged=*/true);
  Open();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Read(bad, 0, 500000).ok());
  verifier_->WaitForBackground();
  EXPECT_THAT(reported_, IsEmpty());
}

TEST_F(BlobVerifierTest, MoreBlobsAtOnceThanAreHashedAlongTheWay) {
  constexpr uint32_t kBlobs = 200;
  for (uint32_t i = 0; i < kBlobs; ++i) AddBlob(300000 + i, /*damaged=*/i % 50 == 49);
  Open();
  for (uint64_t start : Pieces(0)) {
    for (uint32_t blob = 0; blob < kBlobs; ++blob) (void)ReadPiece(blob, start);
  }
  verifier_->WaitForBackground();
  EXPECT_EQ(verifier_->GetStats().verified_blobs, kBlobs - 4);
  EXPECT_THAT(reported_, ::testing::UnorderedElementsAre(49, 99, 149, 199));
}

TEST_F(BlobVerifierTest, TrimForgetsNoCoverage) {
  uint32_t bad = AddBlob(1000000, /*damaged=*/true);
  Open();
  for (uint64_t start : Pieces(bad)) {
    (void)ReadPiece(bad, start);
    verifier_->Trim();
  }
  verifier_->WaitForBackground();
  EXPECT_THAT(reported_, ElementsAre(bad));
}

TEST_F(BlobVerifierTest, AnUnknownHashIsNotChecked) {
  uint32_t blob = AddBlob(1000);
  blobs_[blob].sha1 = {};
  Open();
  EXPECT_TRUE(ReadWhole(blob).ok());
  EXPECT_THAT(reported_, IsEmpty());
}

TEST_F(BlobVerifierTest, ABlobThatDoesNotDecodeIsDamagedItsNeighboursAreNot) {
  std::vector<char> data = MakeData(256 << 10, 1);
  uint32_t resource = file_.AddCompressed(data, Compression::kLzx, 32 << 10, {.solid = true, .pipable = false});
  for (uint64_t offset = 0; offset < data.size(); offset += 64 << 10) {
    contents_.emplace_back(data.begin() + offset, data.begin() + offset + (64 << 10));
    blobs_.push_back({{resource, offset, 64 << 10}, Sha1::Of(contents_.back())});
  }
  // The last chunk: the last bytes of the resource.
  memset(&file_.bytes()[file_.bytes().size() - 2000], 0xff, 2000);
  Open();
  for (uint32_t blob = 0; blob < 4; ++blob) EXPECT_EQ(ReadWhole(blob).ok(), blob != 3);
  EXPECT_FALSE(Read(3, 0, 1).ok());  // in a chunk that decodes
  EXPECT_THAT(reported_, ElementsAre(3));
}

TEST_F(BlobVerifierTest, AChangedImageIsNoDamage) {
  uint32_t blob = AddBlob(1000);
  Open();
  ASSERT_EQ(ftruncate(fd_.get(), 100), 0);
  EXPECT_EQ(ReasonOf(ReadWhole(blob)), Reason::kImageChanged);
  EXPECT_THAT(reported_, IsEmpty());
}

TEST_F(BlobVerifierTest, ManyReadersInAnyOrder) {
  constexpr uint32_t kBlobs = 12;
  for (uint32_t i = 0; i < kBlobs; ++i) AddBlob(50000 + i * 150000, /*damaged=*/i % 4 == 3);
  Open();
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (uint32_t round = 0; round < kBlobs; ++round) {
        uint32_t blob = (round + t * 3) % kBlobs;
        std::vector<uint64_t> pieces = Pieces(blob);
        if (t % 2 == 1) std::shuffle(pieces.begin(), pieces.end(), random);
        for (uint64_t start : pieces) (void)ReadPiece(blob, start);
        if (round == 5) verifier_->Trim();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  verifier_->WaitForBackground();
  EXPECT_EQ(verifier_->GetStats().verified_blobs, 9u);
  EXPECT_THAT(reported_, ::testing::UnorderedElementsAre(3, 7, 11));
}

TEST_F(BlobVerifierTest, EndsWhileTheBackgroundIsAtWork) {
  uint32_t blob = AddBlob(20000000);
  Open();
  std::vector<uint64_t> pieces = Pieces(blob);
  for (auto start = pieces.rbegin(); start != pieces.rend(); ++start) EXPECT_TRUE(ReadPiece(blob, *start).ok());
  verifier_.reset();
}

}  // namespace
}  // namespace libmount
