// SPDX-License-Identifier: GPL-3.0-or-later
//
// ResourceReader and ReadWholeResource over every codec and chunk size, on good and on damaged resources.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libmount/base/reason.h"
#include "libmount/wim/chunk_cache.h"
#include "libmount/wim/resource_reader.h"
#include "tests/unit/wim_read_test_util.h"

namespace libmount {
namespace {

struct Shape {
  Compression compression;
  uint32_t chunk_size;
  bool solid = false;
  bool pipable = false;
};

std::string NameOf(const ::testing::TestParamInfo<Shape>& info) {
  static constexpr const char* kNames[] = {"Raw", "Xpress", "Lzx", "Lzms"};
  return absl::StrFormat("%s%uK%s%s", kNames[static_cast<int>(info.param.compression)], info.param.chunk_size >> 10,
                         info.param.solid ? "Solid" : "", info.param.pipable ? "Pipable" : "");
}

class ResourceShapeTest : public ::testing::TestWithParam<Shape> {
 protected:
  static bool IsHuge(const Shape& shape) { return shape.chunk_size > (8 << 20); }
  // Compresses a hundred times faster.
  static std::vector<char> TileData(size_t size) {
    std::vector<char> tile = MakeData(256 << 10, 7);
    std::vector<char> data;
    data.reserve(size + tile.size());
    while (data.size() < size) data.insert(data.end(), tile.begin(), tile.end());
    data.resize(size);
    return data;
  }
  // Several chunks and an odd rest; one chunk and a bit where chunks are huge.
  static size_t DataSize(const Shape& shape) {
    return shape.chunk_size <= (1 << 20) ? shape.chunk_size * size_t{9} + 12345 : shape.chunk_size + size_t{54321};
  }
};

TEST_P(ResourceShapeTest, EveryReadGivesTheBytesThatWereCompressed) {
  const Shape shape = GetParam();
  const ResourceFile::Options layout = {shape.solid, shape.pipable};
  ResourceFile file;
  std::vector<std::vector<char>> contents;
  std::vector<size_t> sizes = {DataSize(shape), 1, 5000};
  if (!IsHuge(shape)) sizes.push_back(shape.chunk_size);  // compressing it would take half a minute
  for (size_t size : sizes) {
    contents.push_back(IsHuge(shape) ? TileData(size) : MakeData(size, 7 + contents.size()));
    file.AddCompressed(contents.back(), shape.compression, shape.chunk_size, layout);
  }
  WimSource source;
  UniqueFd fd = file.Open(source);
  ResourceReader reader(&source, &file.locations(),
                        {.cache_budget = size_t{1} << 20, .decoder_threads = 2, .visit_blobs = nullptr});
  NullMonitor monitor;
  std::mt19937 random(1);
  for (uint32_t resource = 0; resource < contents.size(); ++resource) {
    const std::vector<char>& content = contents[resource];
    auto whole = ReadWholeResource(source, file.locations()[resource], content.size(), monitor);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_TRUE(std::as_const(*whole).span() == absl::MakeConstSpan(content));
    int rounds = IsHuge(shape) ? 2 : 40;
    for (int round = 0; round < rounds; ++round) {
      size_t offset = round == 0 ? 0 : random() % content.size();
      size_t longest = content.size() - offset;
      size_t size = round == 0 ? longest : 1 + random() % std::min<size_t>(longest, 1 << 20);
      std::vector<char> out(size);
      absl::Status status = reader.Read(resource, offset, absl::MakeSpan(out));
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(std::equal(out.begin(), out.end(), content.begin() + offset)) << offset << "+" << size;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ResourceShapeTest,
    ::testing::Values(Shape{Compression::kXpress, 4 << 10}, Shape{Compression::kXpress, 8 << 10},
                      Shape{Compression::kXpress, 16 << 10}, Shape{Compression::kXpress, 32 << 10},
                      Shape{Compression::kXpress, 64 << 10}, Shape{Compression::kXpress, 32 << 10, false, true},
                      Shape{Compression::kLzx, 32 << 10}, Shape{Compression::kLzx, 64 << 10},
                      Shape{Compression::kLzx, 512 << 10}, Shape{Compression::kLzx, 2 << 20},
                      Shape{Compression::kLzx, 32 << 10, false, true}, Shape{Compression::kLzms, 32 << 10},
                      Shape{Compression::kLzms, 128 << 10}, Shape{Compression::kLzms, 1 << 20},
                      Shape{Compression::kXpress, 32 << 10, true}, Shape{Compression::kLzx, 32 << 10, true},
                      Shape{Compression::kLzms, 128 << 10, true}, Shape{Compression::kLzms, 8 << 20, true},
                      Shape{Compression::kLzms, 64 << 20, true}, Shape{Compression::kLzms, 64 << 20}),
    NameOf);

class ResourceReaderTest : public ::testing::Test {
 protected:
  void Open(ResourceReader::Options options = {}) {
    fd_ = file_.Open(source_);
    reader_.emplace(&source_, &file_.locations(), options);
  }
  absl::Status Read(uint32_t resource, uint64_t offset, size_t size) {
    out_.assign(size, 0);
    return reader_->Read(resource, offset, absl::MakeSpan(out_));
  }

  ResourceFile file_;
  WimSource source_;
  UniqueFd fd_;
  std::optional<ResourceReader> reader_;
  std::vector<char> out_;
};

TEST_F(ResourceReaderTest, RawResourcesAreReadAsTheyAre) {
  std::vector<char> content = MakeData(300000, 1);
  uint32_t raw = file_.AddRaw(content);
  uint32_t empty = file_.AddRaw({});
  Open();
  ASSERT_TRUE(Read(raw, 1234, 250000).ok());
  EXPECT_TRUE(std::equal(out_.begin(), out_.end(), content.begin() + 1234));
  EXPECT_TRUE(Read(empty, 0, 0).ok());
  NullMonitor monitor;
  auto whole = ReadWholeResource(source_, file_.locations()[empty], 0, monitor);
  ASSERT_TRUE(whole.ok());
  EXPECT_TRUE(whole->empty());
}

TEST_F(ResourceReaderTest, ReadsBeyondTheEndAreRefused) {
  uint32_t resource = file_.AddCompressed(MakeData(100000, 1), Compression::kXpress, 32 << 10);
  Open();
  EXPECT_EQ(ReasonOf(Read(resource, 99999, 2)), Reason::kBadImageFormat);
  EXPECT_EQ(ReasonOf(Read(resource, ~uint64_t{0}, 2)), Reason::kBadImageFormat);
  EXPECT_TRUE(Read(resource, 99999, 1).ok());
}

// 5 GiB of zeros, whose chunks are all the same: the table has 64-bit entries.
TEST_F(ResourceReaderTest, ResourcesBeyondFourGiBHaveWideTables) {
  constexpr uint32_t kChunk = 32 << 10;
  constexpr uint64_t kSize = (uint64_t{5} << 30) + 777;
  ResourceFile pieces;
  std::vector<char> zeros(kChunk, 0);
  pieces.AddCompressed(zeros, Compression::kLzx, kChunk);
  std::string chunk = pieces.bytes().substr(pieces.locations()[0].offset);
  pieces.AddCompressed(std::vector<char>(777, 0), Compression::kLzx, kChunk);
  std::string last = pieces.bytes().substr(pieces.locations()[1].offset);

  uint64_t count = kSize / kChunk + 1;
  ResourceLocation location;
  location.offset = file_.bytes().size();
  location.size = kSize;
  location.chunk_size = kChunk;
  location.compression = Compression::kLzx;
  for (uint64_t i = 1; i < count; ++i) {
    uint64_t offset = i * chunk.size();
    file_.bytes().append(reinterpret_cast<const char*>(&offset), sizeof(offset));
  }
  for (uint64_t i = 1; i < count; ++i) file_.bytes() += chunk;
  file_.bytes() += last;
  location.size_in_file = file_.bytes().size() - location.offset;
  file_.locations().push_back(location);
  Open();
  for (uint64_t offset : {uint64_t{0}, (uint64_t{4} << 30) - 100, kSize - 2000}) {
    ASSERT_TRUE(Read(0, offset, 2000).ok()) << offset;
    EXPECT_TRUE(std::all_of(out_.begin(), out_.end(), [](char byte) { return byte == 0; }));
  }
}

TEST_F(ResourceReaderTest, AChunkUsedInPartsIsDecodedOnce) {
  uint32_t resource = file_.AddCompressed(MakeData(64 << 10, 1), Compression::kLzx, 32 << 10);
  Open();
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(Read(resource, i * 8192, 8192).ok());
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 2u);
  EXPECT_EQ(reader_->GetStats().cache_hits, 6u);
  EXPECT_EQ(reader_->GetStats().cache_bytes, 64u << 10);
  reader_->SetCacheBudget(0);
  EXPECT_EQ(reader_->GetStats().cache_bytes, 0u);
}

TEST(ChunkCacheTest, WhatDecodingTakesIsPartOfTheBudget) {
  constexpr size_t kSize = 1 << 20, kInput = 300 << 10;
  ChunkCache cache(2 * kSize);
  auto start = [&](uint64_t chunk) {
    std::unique_ptr<ChunkCache::Claim> claim = cache.Acquire({0, chunk}, kSize, 1).claim;
    claim->Start(kInput);
    return claim;
  };
  std::unique_ptr<ChunkCache::Claim> first = start(1);
  EXPECT_EQ(cache.GetStats().bytes, kSize + kInput);
  std::move(*first).Publish(ChunkBuffer(kSize));
  EXPECT_EQ(cache.GetStats().bytes, kSize);

  // Two chunks fit, a chunk and the decoding of another do not: the first one goes before its successor takes memory.
  std::unique_ptr<ChunkCache::Claim> second = start(2);
  EXPECT_EQ(cache.Find({0, 1}, 1), nullptr);
  EXPECT_EQ(cache.GetStats().bytes, kSize + kInput);
  std::move(*second).Fail(absl::InternalError("no chunk"));
  EXPECT_EQ(cache.GetStats().bytes, 0u);
}

TEST_F(ResourceReaderTest, WholeChunksDoNotFillTheCache) {
  uint32_t resource = file_.AddCompressed(MakeData(1 << 20, 1), Compression::kXpress, 32 << 10);
  Open();
  ASSERT_TRUE(Read(resource, 0, 1 << 20).ok());
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 32u);
  EXPECT_EQ(reader_->GetStats().cache_bytes, 0u);
}

TEST_F(ResourceReaderTest, ASolidChunkLargerThanTheBudgetStaysWhileItIsTheNewest) {
  uint32_t resource =
      file_.AddCompressed(MakeData(3 << 20, 1), Compression::kLzms, 1 << 20, {.solid = true, .pipable = false});
  Open({.cache_budget = 64 << 10, .decoder_threads = 1, .visit_blobs = nullptr});
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(Read(resource, i * 4096, 4096).ok());
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 1u);
  ASSERT_TRUE(Read(resource, 1 << 20, 4096).ok());
  EXPECT_EQ(reader_->GetStats().cache_bytes, 1u << 20);
  ASSERT_TRUE(Read(resource, 0, 4096).ok());
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 3u);
  // It would take both.
  EXPECT_GE(reader_->GetStats().wanted_bytes, 2u << 20);
}

// A solid resource of four chunks, full of blobs of one size, and its reader.
class SolidReaderTest : public ResourceReaderTest {
 protected:
  static constexpr uint32_t kChunk = 1 << 20;

  void OpenSolid(uint64_t blob_size, size_t budget, int threads) {
    content_ = MakeData(4 * kChunk, 11);
    resource_ = file_.AddCompressed(content_, Compression::kLzms, kChunk, {.solid = true, .pipable = false});
    ResourceReader::Options options;
    options.cache_budget = budget;
    options.decoder_threads = threads;
    options.visit_blobs = [this, blob_size](uint32_t, uint64_t begin, uint64_t end,
                                            ResourceReader::BlobVisitor visitor) {
      for (uint64_t blob = (begin + blob_size - 1) / blob_size * blob_size; blob < end; blob += blob_size) {
        visitor(blob, std::min<uint64_t>(blob_size, content_.size() - blob));
      }
    };
    solid_options_ = options;
    Open(std::move(options));
  }
  void ExpectRight(uint64_t offset, size_t size) {
    ASSERT_TRUE(Read(resource_, offset, size).ok());
    EXPECT_TRUE(std::equal(out_.begin(), out_.end(), content_.begin() + offset));
  }

  std::vector<char> content_;
  uint32_t resource_ = 0;
  ResourceReader::Options solid_options_;
};

TEST_F(SolidReaderTest, SmallBlobsOutliveTheirChunk) {
  OpenSolid(10000, /*budget=*/8 << 20, /*threads=*/1);
  for (uint64_t chunk = 0; chunk < 4; ++chunk) ExpectRight(chunk * kChunk + kChunk / 2, 1000);
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 4u);
  for (uint64_t offset = 0; offset + 10000 <= content_.size(); offset += 10000) {
    bool spans_chunks = offset / kChunk != (offset + 9999) / kChunk;
    if (!spans_chunks) ExpectRight(offset, 10000);
  }
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 4u);
  // Nothing is kept of blobs that reach into the next chunk; they are read all the same.
  ExpectRight(kChunk - kChunk % 10000, 10000);
  reader_->SetCacheBudget(0);
  EXPECT_EQ(reader_->GetStats().cache_bytes, 0u);
}

TEST_F(SolidReaderTest, KeptBlobsStayWithinTheBudget) {
  OpenSolid(10000, /*budget=*/3 << 20, /*threads=*/1);
  for (uint64_t chunk = 0; chunk < 4; ++chunk) ExpectRight(chunk * kChunk + kChunk / 2, 1000);
  // The packs take at most three quarters of the budget, the chunks the rest; the newest chunk stays whatever it takes.
  EXPECT_LE(reader_->GetStats().cache_bytes, (3u << 20) + kChunk);
}

TEST_F(SolidReaderTest, LargeBlobsAreNotKeptTwice) {
  OpenSolid(300 << 10, /*budget=*/64 << 20, /*threads=*/1);
  ExpectRight(0, 1000);
  EXPECT_EQ(reader_->GetStats().cache_bytes, kChunk);
}

TEST_F(SolidReaderTest, TheLikelyChunkIsDecodedForAReaderOfSmallFiles) {
  OpenSolid(10000, /*budget=*/64 << 20, /*threads=*/2);
  ExpectRight(0, 1000);
  absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (reader_->GetStats().chunks_decoded < 2 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 2u);
  // Whether a chunk was guessed before it was asked for, or asked for meanwhile, it is decoded once.
  for (uint64_t chunk : {2, 0, 3, 1, 2, 0}) ExpectRight(chunk * kChunk + kChunk / 2, 1000);
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 4u);
}

TEST_F(SolidReaderTest, NothingIsGuessedWithoutRoomOrForLargeFiles) {
  OpenSolid(300 << 10, /*budget=*/64 << 20, /*threads=*/2);
  ExpectRight(0, 1000);
  reader_->SetCacheBudget(2 * kChunk);
  ExpectRight(kChunk, 1000);
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 2u);
}

TEST_F(ResourceReaderTest, ReadersOfOneChunkShareOneDecode) {
  std::vector<char> content = MakeData(8 << 20, 3);
  uint32_t resource = file_.AddCompressed(content, Compression::kLzms, 8 << 20, {.solid = true, .pipable = false});
  Open();
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::vector<char> out(100000);
      size_t offset = t * 1000000;
      if (reader_->Read(resource, offset, absl::MakeSpan(out)).ok() &&
          std::equal(out.begin(), out.end(), content.begin() + offset)) {
        ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 8);
  EXPECT_EQ(reader_->GetStats().chunks_decoded, 1u);
}

TEST_F(ResourceReaderTest, ManyReadersWhileTheBudgetChanges) {
  std::vector<std::vector<char>> contents;
  for (uint32_t i = 0; i < 4; ++i) {
    contents.push_back(MakeData(700000 + i * 4321, i));
    file_.AddCompressed(contents[i], i % 2 == 0 ? Compression::kXpress : Compression::kLzx, 32 << 10,
                        {.solid = i == 3, .pipable = false});
  }
  Open({.cache_budget = 256 << 10, .decoder_threads = 2, .visit_blobs = nullptr});
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int round = 0; round < 200; ++round) {
        uint32_t resource = random() % contents.size();
        const std::vector<char>& content = contents[resource];
        size_t offset = random() % content.size();
        std::vector<char> out(1 + random() % std::min<size_t>(content.size() - offset, 400000));
        if (!reader_->Read(resource, offset, absl::MakeSpan(out)).ok() ||
            !std::equal(out.begin(), out.end(), content.begin() + offset)) {
          ++wrong;
        }
        if (round % 50 == 49) reader_->SetCacheBudget(round % 100 == 99 ? 0 : 128 << 10);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(reader_->GetStats().cache_bytes, 256u << 10);
}

TEST_F(ResourceReaderTest, DamagedChunksFailAndOthersDoNot) {
  std::vector<char> content = MakeData(320 << 10, 5);
  uint32_t resource = file_.AddCompressed(content, Compression::kLzx, 32 << 10);
  const ResourceLocation& location = file_.locations()[resource];
  uint32_t start_of_third;  // entry 1 is the offset of chunk 2
  memcpy(&start_of_third, &file_.bytes()[location.offset + 4], sizeof(start_of_third));
  // A block type that LZX does not have.
  memset(&file_.bytes()[location.offset + 9 * 4 + start_of_third], 0xff, 64);
  Open();
  EXPECT_EQ(ReasonOf(Read(resource, 70000, 10)), Reason::kBadImageFormat);
  EXPECT_EQ(ReasonOf(Read(resource, 0, content.size())), Reason::kBadImageFormat);
  ASSERT_TRUE(Read(resource, 100000, 100000).ok());
  EXPECT_TRUE(std::equal(out_.begin(), out_.end(), content.begin() + 100000));
}

// A read over three solid chunks, of which the second is damaged, must not fail a read of the third that waits for it.
TEST_F(ResourceReaderTest, AFailedReadFailsNobodyWaitingForItsOtherChunks) {
  constexpr uint32_t kChunk = 32 << 10;
  std::vector<char> content = MakeData(3 * kChunk, 5);
  uint32_t resource = file_.AddCompressed(content, Compression::kLzx, kChunk, {.solid = true, .pipable = false});
  const ResourceLocation& location = file_.locations()[resource];
  constexpr size_t kSizesAt = 16;
  uint32_t sizes[3];
  memcpy(sizes, &file_.bytes()[location.offset + kSizesAt], sizeof(sizes));
  ASSERT_LT(sizes[1], kChunk);  // else it would be raw
  memset(&file_.bytes()[location.offset + kSizesAt + sizeof(sizes) + sizes[0]], 0xff, 64);

  std::thread waiting;
  absl::Status waited;
  ResourceReader::Options options;
  options.decoder_threads = 1;
  // Called when the first chunk has been decoded: the right moment for the other reader to come.
  options.visit_blobs = [&](uint32_t, uint64_t begin, uint64_t, ResourceReader::BlobVisitor) {
    if (begin != 0 || waiting.joinable()) return;
    waiting = std::thread([&] {
      std::vector<char> out(1000);
      waited = reader_->Read(resource, 2 * kChunk + 100, absl::MakeSpan(out));
    });
    while (reader_->GetStats().cache_hits == 0) std::this_thread::yield();
  };
  Open(std::move(options));
  EXPECT_EQ(ReasonOf(Read(resource, kChunk / 2, 2 * kChunk)), Reason::kBadImageFormat);
  ASSERT_TRUE(waiting.joinable());
  waiting.join();
  EXPECT_TRUE(waited.ok()) << waited;
}

TEST_F(ResourceReaderTest, ImpossibleTablesAreRefused) {
  uint32_t resource = file_.AddCompressed(MakeData(320 << 10, 5), Compression::kXpress, 32 << 10);
  const std::string good = file_.bytes();
  uint64_t table = file_.locations()[resource].offset;
  for (uint32_t entry : {0u, 0x7fffffffu, 0xffffffffu}) {
    file_.bytes() = good;
    memcpy(&file_.bytes()[table + 4 * 4], &entry, sizeof(entry));
    WimSource source;
    UniqueFd fd = file_.Open(source);
    ResourceReader reader(&source, &file_.locations(), {});
    std::vector<char> out(320 << 10);
    EXPECT_EQ(ReasonOf(reader.Read(resource, 0, absl::MakeSpan(out))), Reason::kBadImageFormat) << entry;
  }
}

TEST_F(ResourceReaderTest, ImpossibleNumbersAreRefused) {
  uint32_t resource = file_.AddCompressed(MakeData(320 << 10, 5), Compression::kXpress, 32 << 10);
  const ResourceLocation good = file_.locations()[resource];
  NullMonitor monitor;
  auto refuses = [&](auto change) {
    ResourceLocation location = good;
    change(location);
    file_.locations()[resource] = location;
    WimSource source;
    UniqueFd fd = file_.Open(source);
    ResourceReader reader(&source, &file_.locations(), {});
    char byte;
    Reason reason = ReasonOf(reader.Read(resource, location.size - 1, absl::MakeSpan(&byte, 1)));
    Reason whole = ReasonOf(ReadWholeResource(source, location, 1 << 20, monitor).status());
    return reason == Reason::kBadImageFormat && whole == Reason::kBadImageFormat;
  };
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.size = ~uint64_t{0}; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.size_in_file = 8; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.size_in_file = ~uint64_t{0}; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.offset = ~uint64_t{0} - 10; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.chunk_size = 1; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.chunk_size = 0; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.chunk_size = 1 << 31; }));
  EXPECT_TRUE(refuses([](ResourceLocation& l) { l.compression = static_cast<Compression>(9); }));
}

TEST_F(ResourceReaderTest, AWholeResourceMayBeCancelled) {
  class Cancelled final : public OperationMonitor {
   public:
    void Report(const ProgressUpdate&) override {}
    bool cancelled() const override { return true; }
  } cancelled;
  uint32_t resource = file_.AddCompressed(MakeData(100000, 5), Compression::kXpress, 32 << 10);
  Open();
  EXPECT_EQ(ReasonOf(ReadWholeResource(source_, file_.locations()[resource], 100000, cancelled).status()),
            Reason::kCancelled);
}

TEST_F(ResourceReaderTest, AChangedImageFailsEveryReadFromThenOn) {
  uint32_t resource = file_.AddCompressed(MakeData(100000, 5), Compression::kXpress, 32 << 10);
  Open();
  ASSERT_TRUE(Read(resource, 0, 1000).ok());
  ASSERT_EQ(pwrite(fd_.get(), "x", 1, 0), 1);
  EXPECT_EQ(ReasonOf(Read(resource, 50000, 1000)), Reason::kImageChanged);
  EXPECT_TRUE(source_.changed());
  EXPECT_EQ(ReasonOf(Read(resource, 50000, 1000)), Reason::kImageChanged);
}

TEST_F(ResourceReaderTest, ATruncatedImageIsAChangedOne) {
  uint32_t resource = file_.AddCompressed(MakeData(100000, 5), Compression::kXpress, 32 << 10);
  Open();
  ASSERT_EQ(ftruncate(fd_.get(), 1000), 0);
  EXPECT_EQ(ReasonOf(Read(resource, 50000, 50000)), Reason::kImageChanged);
}

TEST(WimSourceTest, OnlyRegularFilesAreParts) {
  WimSource source;
  EXPECT_EQ(ReasonOf(source.AddPart(UniqueFd(open("/", O_RDONLY | O_CLOEXEC)), "root")), Reason::kBadImageFormat);
  EXPECT_EQ(ReasonOf(source.AddPart(UniqueFd(), "nothing")), Reason::kBadImageFormat);
  EXPECT_EQ(source.part_count(), 0);
}

}  // namespace
}  // namespace libmount
