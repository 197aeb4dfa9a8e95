// SPDX-License-Identifier: GPL-3.0-or-later
//
// Whole files written anew, checked by wimlib, 7-Zip and a comparison of every record; and with what wimlib itself
// makes of the same file.

#include "libmount/wim/wim_rebuild.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wimlib.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/movable_tree.h"
#include "libmount/wim/wim_header.h"
#include "tests/unit/wim_commit_test_util.h"
#include "tests/unit/wim_format_test_util.h"

namespace libmount {
namespace {

constexpr int kUnix = WIMLIB_ADD_FLAG_UNIX_DATA;
constexpr int kCheck = WIMLIB_WRITE_FLAG_CHECK_INTEGRITY;

struct Making {
  const char* name;
  WimMaking making;
};

absl::StatusOr<WimCommitResult> RebuildTo(const std::string& from, const std::string& to, uint32_t index,
                                          const ImageContents* contents, const WimRebuildOptions& options = {},
                                          OperationMonitor* monitor = nullptr) {
  UniqueFd old_file(open(from.c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd new_file(open(to.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  NullMonitor nobody;
  return RebuildWim(old_file.get(), new_file.get(), from, index, contents, options,
                    monitor == nullptr ? nobody : *monitor);
}

WimHeader HeaderOf(const std::string& wim) {
  absl::StatusOr<WimHeader> header = ParseWimHeader(std::string_view(ReadFile(wim)).substr(0, kWimHeaderSize), wim);
  EXPECT_TRUE(header.ok()) << header.status();
  return header.ok() ? *header : WimHeader();
}

// The size that wimlib gives the file without dead space, compressed as it is.
uint64_t OptimizedSize(const TempDirectory& directory, const std::string& wim) {
  const std::string copy = directory.Path("optimized.wim");
  std::filesystem::copy_file(wim, copy, std::filesystem::copy_options::overwrite_existing);
  WIMStruct* handle = nullptr;
  EXPECT_EQ(wimlib_open_wim(copy.c_str(), WIMLIB_OPEN_FLAG_WRITE_ACCESS, &handle), 0);
  EXPECT_EQ(wimlib_overwrite(handle, WIMLIB_WRITE_FLAG_REBUILD, 1), 0);
  wimlib_free(handle);
  return std::filesystem::file_size(copy);
}

void ExpectAboutEqual(uint64_t size, uint64_t expected) {
  EXPECT_LE(size, expected + expected / 100 + 4096);
  EXPECT_GE(size + expected / 100 + 4096, expected);
}

class WimRebuildOf : public testing::TestWithParam<Making> {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(MakeThreeImages(directory_, wim_, GetParam().making)); }

  TempDirectory directory_;
  const std::string wim_ = directory_.Path("test.wim");
  const std::string new_ = directory_.Path("new.wim");
};

TEST_P(WimRebuildOf, WithoutChangesEverythingIsThereAndNothingElse) {
  // Dead space: data of a commit that the next one takes away.
  EditedImage image = ImageOf(wim_, 2);
  image.AddFile("dead", Noise(3'000'000, 21));
  ASSERT_TRUE(CommitTo(wim_, 2, image).ok());
  image = ImageOf(wim_, 2);
  image.Remove("dead");
  ASSERT_TRUE(CommitTo(wim_, 2, image).ok());
  const std::string before = ReadFile(wim_);
  absl::StatusOr<WimCommitResult> result = RebuildTo(wim_, new_, 2, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->image_index, 2u);
  EXPECT_TRUE(ReadFile(wim_) == before);
  CheckWim(new_);
  for (uint32_t index = 1; index <= 3; ++index) {
    EXPECT_EQ(Describe(new_, index), Describe(wim_, index)) << index;
    EXPECT_TRUE(MetadataOf(new_, index) == MetadataOf(wim_, index)) << index;
  }
  EXPECT_EQ(StableXml(new_), StableXml(wim_));
  EXPECT_EQ(HeaderOf(new_).guid, HeaderOf(wim_).guid);
  EXPECT_EQ(HeaderOf(new_).integrity_table.empty(), HeaderOf(wim_).integrity_table.empty());
  const uint64_t size = std::filesystem::file_size(new_);
  EXPECT_LT(size + 3'000'000, before.size());
  ExpectAboutEqual(size, OptimizedSize(directory_, wim_));
}

TEST_P(WimRebuildOf, EditsAreWhatTheImageHolds) {
  const auto first = Describe(wim_, 1);
  const auto third = Describe(wim_, 3);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image, GetParam().making.add_flags & kUnix);
  absl::StatusOr<WimCommitResult> result = RebuildTo(wim_, new_, 2, &image);
  ASSERT_TRUE(result.ok()) << result.status();
  image.Apply(result->stored);
  EXPECT_EQ(Describe(new_, 2), Describe(image));
  EXPECT_EQ(Describe(new_, 1), first);
  EXPECT_EQ(Describe(new_, 3), third);
  CheckWim(new_);
  ExpectAboutEqual(std::filesystem::file_size(new_), OptimizedSize(directory_, new_));
  // What it makes can be committed to, and rebuilt.
  EditedImage again = ImageOf(new_, 2);
  again.Remove("large");
  ASSERT_TRUE(CommitTo(new_, 2, again).ok());
  CheckWim(new_);
  result = RebuildTo(new_, wim_, 1, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  CheckWim(wim_);
  EXPECT_EQ(Describe(wim_, 2), Describe(new_, 2));
}

TEST_P(WimRebuildOf, CompressedAnewInEveryOtherWay) {
  std::vector<std::map<std::string, std::string>> before;
  for (uint32_t index = 1; index <= 3; ++index) before.push_back(Describe(wim_, index));
  for (Compression kind : {Compression::kXpress, Compression::kLzx, Compression::kLzms}) {
    SCOPED_TRACE(static_cast<int>(kind));
    EditedImage image = ImageOf(wim_, 1);
    image.AddFile("added", Words(200'000, 31));
    absl::StatusOr<WimCommitResult> result =
        RebuildTo(wim_, new_, 1, &image, {.append = true, .generate_integrity = true, .recompress = kind});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->image_index, 4u);
    const WimHeader header = HeaderOf(new_);
    EXPECT_EQ(header.compression, kind);
    EXPECT_FALSE(header.integrity_table.empty());
    const WimHeader old_header = HeaderOf(wim_);
    const uint32_t usual = kind == Compression::kLzms ? 131072 : 32768;
    EXPECT_EQ(header.chunk_size, kind == old_header.compression ? old_header.chunk_size : usual);
    CheckWim(new_);
    for (uint32_t index = 1; index <= 3; ++index) {
      EXPECT_EQ(Describe(new_, index), before[index - 1]);
      EXPECT_TRUE(MetadataOf(new_, index) == MetadataOf(wim_, index)) << index;
    }
    image.Apply(result->stored);
    EXPECT_EQ(Describe(new_, 4), Describe(image));
    ExpectAboutEqual(std::filesystem::file_size(new_), OptimizedSize(directory_, new_));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, WimRebuildOf,
                         testing::Values(Making{"None", {0, 0, kUnix, 0}}, Making{"Xpress", {1, 0, 0, kCheck}},
                                         Making{"Xpress4K", {1, 4096, kUnix, 0}}, Making{"Lzx", {2, 0, kUnix, kCheck}},
                                         Making{"Lzms", {3, 0, 0, kCheck}}),
                         [](const testing::TestParamInfo<Making>& info) { return info.param.name; });

// For the rest: one file of XPRESS with an integrity table.
class WimRebuild : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(MakeThreeImages(directory_, wim_, {1, 0, 0, kCheck})); }

  TempDirectory directory_;
  const std::string wim_ = directory_.Path("test.wim");
  const std::string new_ = directory_.Path("new.wim");
};

TEST_F(WimRebuild, TheBootImageStaysBootable) {
  WIMStruct* handle = nullptr;
  ASSERT_EQ(wimlib_open_wim(wim_.c_str(), WIMLIB_OPEN_FLAG_WRITE_ACCESS, &handle), 0);
  wimlib_wim_info info = {};
  info.boot_index = 2;
  ASSERT_EQ(wimlib_set_wim_info(handle, &info, WIMLIB_CHANGE_BOOT_INDEX), 0);
  ASSERT_EQ(wimlib_overwrite(handle, 0, 1), 0);
  wimlib_free(handle);
  for (const bool changed : {false, true}) {
    EditedImage image = ImageOf(wim_, 2);
    Edit(image);
    ASSERT_TRUE(RebuildTo(wim_, new_, 2, changed ? &image : nullptr).ok());
    CheckWim(new_);
    const std::string bytes = ReadFile(new_);
    EXPECT_EQ(HeaderOf(new_).boot_index, 2u);
    const ResourceHeader boot = ParseResourceHeader(bytes.data() + 0x60);
    std::vector<ResourceHeader> metadata;
    const ResourceHeader table = HeaderOf(new_).blob_table;
    for (uint64_t at = 0; at < table.size; at += 50) {
      const ResourceHeader entry = ParseResourceHeader(bytes.data() + table.offset + at);
      if (entry.flags & kResourceMetadata) metadata.push_back(entry);
    }
    ASSERT_EQ(metadata.size(), 3u);
    EXPECT_EQ(boot.offset, metadata[1].offset);
    EXPECT_EQ(boot.size_in_file, metadata[1].size_in_file);
    EXPECT_EQ(boot.flags, metadata[1].flags);
  }
}

// An image whose removed files are still in use.
class HoldingImage final : public ImageContents {
 public:
  HoldingImage(const ImageContents& image, BlobHash held) : image_(image), held_(held) {}
  File GetFile(NodeId node) const override { return image_.GetFile(node); }
  void VisitEntries(NodeId directory, EntryVisitor visitor) const override { image_.VisitEntries(directory, visitor); }
  absl::Status ReadStaged(NodeId file, size_t stream, uint64_t offset, absl::Span<char> out) const override {
    return image_.ReadStaged(file, stream, offset, out);
  }
  void VisitHeldBlobs(absl::FunctionRef<void(const BlobHash&)> visitor) const override { visitor(held_); }
  uint64_t staged_bytes() const override { return image_.staged_bytes(); }

 private:
  const ImageContents& image_;
  const BlobHash held_;
};

TEST_F(WimRebuild, DataInUseIsKeptThoughNoImageNamesIt) {
  EditedImage image = ImageOf(wim_, 2);
  image.AddFile("held", Words(50'000, 78));
  ASSERT_TRUE(CommitTo(wim_, 2, image).ok());
  image = ImageOf(wim_, 2);
  const BlobHash held = image.Record("held").streams[0].hash;
  image.Remove("held");
  const std::string again = directory_.Path("again.wim");
  for (const bool holds : {false, true}) {
    const HoldingImage holding(image, held);
    const ImageContents& contents = holds ? static_cast<const ImageContents&>(holding) : image;
    ASSERT_TRUE(RebuildTo(wim_, new_, 2, &contents).ok());
    CheckWim(new_);
    // Where nothing else has changed it is kept as well.
    ASSERT_TRUE(RebuildTo(new_, again, 2, &contents, {.unchanged = true}).ok());
    EXPECT_EQ(std::filesystem::file_size(again), std::filesystem::file_size(new_));
    absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(new_, 2);
    ASSERT_TRUE(tree.ok());
    std::string data(50'000, '\0');
    EXPECT_EQ((*tree)->blob_store()->ReadBlob(held, 0, absl::MakeSpan(data)), holds ? 0 : EIO);
    if (holds) {
      EXPECT_EQ(data, Words(50'000, 78));
    }
  }
}

TEST_F(WimRebuild, ATreeThatIsMovedReadsTheNewFile) {
  UniqueFd saved(open(directory_.Path("saved").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  NullMonitor monitor;
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(wim_);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->SaveMetadata(2, saved.get(), monitor).ok());
  absl::StatusOr<std::unique_ptr<WimTree>> opened = (*file)->OpenTreeFromMetadata(saved.get(), {}, monitor);
  ASSERT_TRUE(opened.ok());
  MovableTree tree(*std::move(opened));
  const NodeId node = FindPath(tree, "dir/400000");
  const NodeId removed = FindPath(tree, "dir/sub/small9");
  EditedImage image(*tree.base_image());
  Edit(image);
  image.Remove("dir/sub/small9");
  absl::StatusOr<WimCommitResult> result = RebuildTo(wim_, new_, 2, &image, {.recompress = Compression::kLzx});
  ASSERT_TRUE(result.ok()) << result.status();
  image.Apply(result->stored);

  // Reads go on all the time.
  std::atomic<bool> stop = false;
  std::atomic<int> reads = 0;
  std::thread reader([&] {
    while (!stop) {
      EXPECT_EQ(ReadAll(tree, node), Words(400'000, 400'000));
      ++reads;
    }
  });
  tree.SuspendChangeDetection();
  ASSERT_EQ(rename(new_.c_str(), wim_.c_str()), 0);
  file = OpenWimFile(wim_);
  ASSERT_TRUE(file.ok());
  opened = (*file)->OpenTreeFromMetadata(saved.get(), {}, monitor);
  ASSERT_TRUE(opened.ok());
  tree.MoveTo(*std::move(opened));
  tree.RenewChangeDetection();
  const int before = reads;
  while (reads < before + 2) usleep(1000);
  stop = true;
  reader.join();
  EXPECT_EQ(FindPath(tree, "dir/400000"), node);
  EXPECT_EQ(FindPath(tree, "dir/sub/small9"), removed);  // it shows what was mounted
  EXPECT_TRUE(tree.CheckImageUnchanged().ok());
  std::string data(123'456, '\0');
  EXPECT_EQ(tree.blob_store()->ReadBlob(image.Record("new").streams[0].hash, 0, absl::MakeSpan(data)), 0);
  EXPECT_EQ(data, Words(123'456, 5));
}

TEST_F(WimRebuild, DamagedDataIsNotLostSilently) {
  EditedImage image = ImageOf(wim_, 2);
  image.AddFile("noise that is damaged", Noise(500'000, 91));
  absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
  ASSERT_TRUE(result.ok());
  std::string bytes = ReadFile(wim_);
  const size_t at = bytes.find(Noise(500'000, 91).substr(0, 1000));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 10] ^= 1;
  WriteFile(wim_, bytes);
  // Copied as it is, and found damaged as before; but not given a SHA-1 of its own.
  ASSERT_TRUE(RebuildTo(wim_, new_, 1, nullptr).ok());
  EXPECT_EQ(Describe(new_, 2), Describe(wim_, 2));
  EXPECT_EQ(ReasonOf(RebuildTo(wim_, new_, 1, nullptr, {.recompress = Compression::kLzx}).status()),
            Reason::kBadImageFormat);
  // A place outside the file.
  const ResourceHeader table = HeaderOf(wim_).blob_table;
  for (uint64_t entry = table.offset; entry < table.offset + table.size; entry += 50) {
    if (LoadLe64(bytes.data() + entry + 8) == at) bytes[entry + 8 + 6] = 1;
  }
  WriteFile(wim_, bytes);
  EXPECT_EQ(ReasonOf(RebuildTo(wim_, new_, 1, nullptr).status()), Reason::kBadImageFormat);
}

TEST_F(WimRebuild, WhatCannotBeChangedIsRefused) {
  auto reason_of = [&](const std::string& wim, uint32_t index) {
    return ReasonOf(RebuildTo(wim, new_, index, nullptr).status());
  };
  EXPECT_EQ(reason_of(wim_, 0), Reason::kInvalidImageIndex);
  EXPECT_EQ(reason_of(wim_, 4), Reason::kInvalidImageIndex);
  const std::string root = directory_.Path("root");
  MakeWim(root, directory_.Path("solid.wim"), {3, 0, 0, WIMLIB_WRITE_FLAG_SOLID});
  EXPECT_EQ(reason_of(directory_.Path("solid.wim"), 1), Reason::kSolidImage);
  MakeWim(root, directory_.Path("pipable.wim"), {1, 0, 0, WIMLIB_WRITE_FLAG_PIPABLE});
  EXPECT_EQ(reason_of(directory_.Path("pipable.wim"), 1), Reason::kImageReadOnly);
}

TEST_F(WimRebuild, CancelledAtAnyTimeItEnds) {
  const std::string before = ReadFile(wim_);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image);
  int cancelled = 0;
  for (int asks = 1;; asks = asks * 5 / 4 + 1) {
    Canceller canceller(asks);
    absl::StatusOr<WimCommitResult> result =
        RebuildTo(wim_, new_, 2, &image, {.recompress = Compression::kXpress}, &canceller);
    if (result.ok()) break;
    ++cancelled;
    ASSERT_EQ(ReasonOf(result.status()), Reason::kCancelled) << result.status();
  }
  EXPECT_GT(cancelled, 10);
  EXPECT_TRUE(ReadFile(wim_) == before);
  CheckWim(new_);
}

TEST_F(WimRebuild, WithoutSpaceItSaysSo) {
  int failures = 0;
  for (uint64_t space = 0;; space = space * 2 + 1000) {
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limit = {space, space};
      setrlimit(RLIMIT_FSIZE, &limit);
      absl::StatusOr<WimCommitResult> result = RebuildTo(wim_, new_, 2, nullptr);
      _exit(result.ok() ? 0 : ReasonOf(result.status()) == Reason::kOutOfResources ? 1 : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 0) break;
    ASSERT_EQ(WEXITSTATUS(status), 1);
    ++failures;
  }
  EXPECT_GT(failures, 5);
  CheckWim(new_);
}

}  // namespace
}  // namespace libmount
