// SPDX-License-Identifier: GPL-3.0-or-later
//
// Commits into files that wimlib made, checked by wimlib, 7-Zip and a comparison of every record.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wimlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/wim/image_metadata.h"
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

class WimCommitOf : public testing::TestWithParam<Making> {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(MakeThreeImages(directory_, wim_, GetParam().making)); }

  TempDirectory directory_;
  const std::string wim_ = directory_.Path("test.wim");
};

TEST_P(WimCommitOf, WithoutChangesEverythingStaysAsItWas) {
  std::vector<std::map<std::string, std::string>> before;
  for (uint32_t index = 1; index <= 3; ++index) before.push_back(Describe(wim_, index));
  ASSERT_GT(before[1].size(), 45u);
  const std::string xml = StableXml(wim_);
  const std::string metadata = MetadataOf(wim_, 2);
  const std::string old_bytes = ReadFile(wim_);
  const EditedImage image = ImageOf(wim_, 2);
  absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->image_index, 2u);
  EXPECT_TRUE(result->stored.empty());
  for (uint32_t index = 1; index <= 3; ++index) EXPECT_EQ(Describe(wim_, index), before[index - 1]) << index;
  EXPECT_EQ(StableXml(wim_), xml);
  ExpectSameMetadata(MetadataOf(wim_, 2), metadata);  // byte for byte as wimlib writes it
  // Behind the header, what was there is still there.
  EXPECT_EQ(ReadFile(wim_).substr(208, old_bytes.size() - 208), old_bytes.substr(208));
  CheckWim(wim_);
}

TEST_P(WimCommitOf, EditsAreWhatTheImageHolds) {
  const auto first = Describe(wim_, 1);
  const auto third = Describe(wim_, 3);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image, GetParam().making.add_flags & kUnix);
  absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
  ASSERT_TRUE(result.ok()) << result.status();
  image.Apply(result->stored);
  EXPECT_EQ(Describe(wim_, 2), Describe(image));
  EXPECT_EQ(Describe(wim_, 1), first);
  EXPECT_EQ(Describe(wim_, 3), third);
  CheckWim(wim_);
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(wim_, 2);
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(ReadAll(**tree, FindPath(**tree, "new noise")), Noise(200'000, 6));
  EXPECT_EQ(ReadAll(**tree, FindPath(**tree, "large and different")), Words(3'000'000, 9));
  EXPECT_EQ(ReadAll(**tree, FindPath(**tree, "dir/100:large stream")), Words(90'000, 55));

  // A second commit over the first, which takes some of it away again.
  EditedImage again = ImageOf(wim_, 2);
  again.Remove("large");
  again.Remove("large again");
  again.SetData("dir/1", "changed through one of two names");
  result = CommitTo(wim_, 2, again);
  ASSERT_TRUE(result.ok()) << result.status();
  again.Apply(result->stored);
  EXPECT_EQ(Describe(wim_, 2), Describe(again));
  CheckWim(wim_);
}

TEST_P(WimCommitOf, AppendedItIsAnImageOfItsOwn) {
  std::vector<std::map<std::string, std::string>> before;
  for (uint32_t index = 1; index <= 3; ++index) before.push_back(Describe(wim_, index));
  for (uint32_t round = 0; round < 2; ++round) {
    EditedImage image = ImageOf(wim_, 2);
    Edit(image);
    absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image, {.append = true, .generate_integrity = true});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->image_index, 4 + round);
    image.Apply(result->stored);
    EXPECT_EQ(Describe(wim_, 4 + round), Describe(image));
  }
  for (uint32_t index = 1; index <= 3; ++index) EXPECT_EQ(Describe(wim_, index), before[index - 1]) << index;
  CheckWim(wim_);
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(wim_);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->has_integrity_table());
  ASSERT_EQ((*file)->images().size(), 5u);
  EXPECT_EQ((*file)->images()[3].name, "second <&> (2)");
  EXPECT_EQ((*file)->images()[4].name, "second <&> (3)");
  EXPECT_EQ((*file)->images()[4].architecture, 9u);
}

INSTANTIATE_TEST_SUITE_P(Formats, WimCommitOf,
                         testing::Values(Making{"None", {0, 0, kUnix, 0}}, Making{"Xpress", {1, 0, 0, kCheck}},
                                         Making{"Xpress4K", {1, 4096, kUnix, 0}}, Making{"Lzx", {2, 0, kUnix, kCheck}},
                                         Making{"Lzx2M", {2, 1 << 21, 0, 0}}, Making{"Lzms", {3, 0, 0, kCheck}}),
                         [](const testing::TestParamInfo<Making>& info) { return info.param.name; });

// For the rest: one file of XPRESS with an integrity table.
class WimCommit : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(MakeThreeImages(directory_, wim_, {1, 0, 0, kCheck})); }

  TempDirectory directory_;
  const std::string wim_ = directory_.Path("test.wim");
};

TEST_F(WimCommit, TheBootImageStaysBootable) {
  WIMStruct* handle = nullptr;
  ASSERT_EQ(wimlib_open_wim(wim_.c_str(), WIMLIB_OPEN_FLAG_WRITE_ACCESS, &handle), 0);
  wimlib_wim_info info = {};
  info.boot_index = 2;
  ASSERT_EQ(wimlib_set_wim_info(handle, &info, WIMLIB_CHANGE_BOOT_INDEX), 0);
  ASSERT_EQ(wimlib_overwrite(handle, 0, 1), 0);
  wimlib_free(handle);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image);
  ASSERT_TRUE(CommitTo(wim_, 2, image).ok());
  CheckWim(wim_);
  const std::string bytes = ReadFile(wim_);
  absl::StatusOr<WimHeader> header = ParseWimHeader(std::string_view(bytes).substr(0, 208), wim_);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->boot_index, 2u);
  const ResourceHeader boot = ParseResourceHeader(bytes.data() + 0x60);
  std::vector<ResourceHeader> metadata;
  for (uint64_t at = 0; at < header->blob_table.size; at += 50) {
    const ResourceHeader entry = ParseResourceHeader(bytes.data() + header->blob_table.offset + at);
    if (entry.flags & kResourceMetadata) metadata.push_back(entry);
  }
  ASSERT_EQ(metadata.size(), 3u);
  EXPECT_EQ(boot.offset, metadata[1].offset);
  EXPECT_EQ(boot.size_in_file, metadata[1].size_in_file);
  EXPECT_EQ(boot.flags, metadata[1].flags);
}

TEST_F(WimCommit, DataThatHardlyShrinksIsStoredRaw) {
  EditedImage image = ImageOf(wim_, 1);
  std::string data = Noise(2'000'000, 3);
  memset(data.data() + 500'000, 0, 60);  // one chunk shrinks, by less than the table takes
  image.AddFile("hardly", data);
  image.AddFile("behind it", Words(100'000, 12));
  ASSERT_TRUE(CommitTo(wim_, 1, image).ok());
  CheckWim(wim_);
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(wim_, 1);
  ASSERT_TRUE(tree.ok());
  EXPECT_EQ(ReadAll(**tree, FindPath(**tree, "hardly")), data);
}

TEST_F(WimCommit, WhatCannotBeChangedIsRefused) {
  const EditedImage image = ImageOf(wim_, 1);
  auto reason_of = [&](const std::string& wim, uint32_t index) {
    const std::string before = ReadFile(wim);
    const Reason reason = ReasonOf(CommitTo(wim, index, image).status());
    EXPECT_EQ(ReadFile(wim), before);
    return reason;
  };
  EXPECT_EQ(reason_of(wim_, 0), Reason::kInvalidImageIndex);
  EXPECT_EQ(reason_of(wim_, 4), Reason::kInvalidImageIndex);
  const std::string root = directory_.Path("root");
  MakeWim(root, directory_.Path("solid.wim"), {3, 0, 0, WIMLIB_WRITE_FLAG_SOLID});
  EXPECT_EQ(reason_of(directory_.Path("solid.wim"), 1), Reason::kSolidImage);
  MakeWim(root, directory_.Path("pipable.wim"), {1, 0, 0, WIMLIB_WRITE_FLAG_PIPABLE});
  EXPECT_EQ(reason_of(directory_.Path("pipable.wim"), 1), Reason::kImageReadOnly);
  std::string bytes = ReadFile(wim_);
  bytes[0x10] |= 0x04;
  WriteFile(directory_.Path("readonly.wim"), bytes);
  EXPECT_EQ(reason_of(directory_.Path("readonly.wim"), 1), Reason::kImageReadOnly);
  bytes[0x10] = static_cast<char>((bytes[0x10] & ~0x04) | 0x40);
  WriteFile(directory_.Path("busy.wim"), bytes);
  EXPECT_EQ(reason_of(directory_.Path("busy.wim"), 1), Reason::kImageInUse);
  bytes[0x10] &= ~0x40;
  bytes[0x2a] = 2;
  WriteFile(directory_.Path("split.wim"), bytes);
  EXPECT_EQ(reason_of(directory_.Path("split.wim"), 1), Reason::kSplitImage);
}

TEST_F(WimCommit, CancelledAtAnyTimeTheFileIsAsItWas) {
  const std::string before = ReadFile(wim_);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image);
  int asks = 1;
  int cancelled = 0;
  for (;; asks = asks * 5 / 4 + 1) {
    Canceller canceller(asks);
    absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image, {}, &canceller);
    if (result.ok()) break;
    ++cancelled;
    ASSERT_EQ(ReasonOf(result.status()), Reason::kCancelled) << result.status();
    ASSERT_TRUE(ReadFile(wim_) == before) << "after " << asks;
  }
  EXPECT_GT(cancelled, 10);
  CheckWim(wim_);
}

TEST_F(WimCommit, WithoutSpaceTheFileIsAsItWas) {
  const std::string before = ReadFile(wim_);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image);
  int failures = 0;
  for (uint64_t more = 0;; more = more * 2 + 1000) {
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limit = {before.size() + more, before.size() + more};
      setrlimit(RLIMIT_FSIZE, &limit);
      absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
      _exit(result.ok() ? 0 : ReasonOf(result.status()) == Reason::kOutOfResources ? 1 : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 0) break;
    ASSERT_EQ(WEXITSTATUS(status), 1);
    ASSERT_TRUE(ReadFile(wim_) == before) << more;
    ++failures;
  }
  EXPECT_GT(failures, 5);
  CheckWim(wim_);
}

#ifdef DISMD_TEST_SEAMS
class WimCommitKilledAt : public WimCommit, public testing::WithParamInterface<const char*> {};

TEST_P(WimCommitKilledAt, TheFileIsTheOldOrTheNewOne) {
  const std::string before = ReadFile(wim_);
  const auto old_image = Describe(wim_, 2);
  EditedImage image = ImageOf(wim_, 2);
  Edit(image);
  const std::string seam = directory_.Path(GetParam());
  WriteFile(seam + ".stop", "");
  const pid_t child = fork();
  if (child == 0) {
    setenv("DISMD_TEST_SEAM_DIR", directory_.path().c_str(), 1);
    static_cast<void>(CommitTo(wim_, 2, image));
    _exit(1);  // the seam was not reached
  }
  int status = 0;
  while (access((seam + ".reached").c_str(), F_OK) != 0) {
    ASSERT_EQ(waitpid(child, &status, WNOHANG), 0) << "the commit ended";
    usleep(1000);
  }
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));

  // As it is, before anything is repaired.
  const bool committed = std::string_view(GetParam()) == "commit-header-written";
  const std::string after = ReadFile(wim_);
  EXPECT_EQ(after.substr(0, 208) == before.substr(0, 208), !committed);
  EXPECT_TRUE(after.substr(208, before.size() - 208) == before.substr(208));
  CheckWim(wim_);
  EXPECT_EQ(Describe(wim_, 2) == old_image, !committed);

  UniqueFd fd(open(wim_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(RemoveUncommittedTail(fd.get(), wim_, before.size()).ok());
  EXPECT_TRUE(ReadFile(wim_) == (committed ? after : before));
  ASSERT_TRUE(RemoveUncommittedTail(fd.get(), wim_, before.size()).ok());
  // What was staged can be committed again, done or not.
  absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
  ASSERT_TRUE(result.ok()) << result.status();
  image.Apply(result->stored);
  EXPECT_EQ(Describe(wim_, 2), Describe(image));
  CheckWim(wim_);
}

INSTANTIATE_TEST_SUITE_P(Steps, WimCommitKilledAt,
                         testing::Values("commit-begin", "commit-resource", "commit-resources-written",
                                         "commit-metadata-written", "commit-blob-table-written", "commit-xml-written",
                                         "commit-integrity-written", "commit-synced", "commit-header-written"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });
#endif

TEST_F(WimCommit, OtherTreesOfTheFileGoOnAndReadWhatWasAdded) {
  RecordingObserver observer;
  WimTreeOptions options;
  options.observer = &observer;
  options.cache_budget = 0;
  absl::StatusOr<std::unique_ptr<WimTree>> opened = OpenWimTree(wim_, 2, options);
  ASSERT_TRUE(opened.ok());
  WimTree& tree = **opened;
  const NodeId old_file = FindPath(tree, "dir/100");
  const std::string old_data = ReadAll(tree, old_file);
  EditedImage image(*tree.base_image());
  Edit(image);

  tree.SuspendChangeDetection();
  absl::StatusOr<WimCommitResult> result = CommitTo(wim_, 2, image);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(ReadAll(tree, FindPath(tree, "dir/400000")), Words(400'000, 400'000));  // meanwhile
  tree.RenewChangeDetection();
  NullMonitor monitor;
  ASSERT_TRUE(tree.ReloadBlobs(monitor).ok());
  EXPECT_TRUE(tree.CheckImageUnchanged().ok());
  EXPECT_EQ(ReadAll(tree, old_file), old_data);
  EXPECT_EQ(FindPath(tree, "new"), 0u);

  image.Apply(result->stored);
  std::string data(123'456, '\0');
  const BlobHash added = image.Record("new").streams[0].hash;
  ASSERT_EQ(tree.blob_store()->ReadBlob(added, 0, absl::MakeSpan(data)), 0);
  EXPECT_EQ(data, Words(123'456, 5));
  std::string part(1000, '\0');
  ASSERT_EQ(tree.blob_store()->ReadBlob(image.Record("dir/400000").streams[0].hash, 5000, absl::MakeSpan(part)), 0);
  EXPECT_EQ(part, Words(400'000, 400'000).substr(5000, 1000));
  EXPECT_EQ(tree.blob_store()->ReadBlob(BlobHash{1, 2, 3}, 0, absl::MakeSpan(part)), EIO);
  EXPECT_EQ(tree.blob_store()->ReadBlob(added, 123'456 - 999, absl::MakeSpan(part)), EIO);
  EXPECT_EQ(observer.changes(), 0);

  // A change of somebody else's is still one.
  UniqueFd fd(open(wim_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(pwrite(fd.get(), "x", 1, lseek(fd.get(), 0, SEEK_END)), 1);
  EXPECT_EQ(ReasonOf(tree.CheckImageUnchanged()), Reason::kImageChanged);
  EXPECT_EQ(tree.blob_store()->ReadBlob(added, 0, absl::MakeSpan(part)), EIO);
}

TEST_F(WimCommit, NodeIdsOutliveACommitThroughSavedMetadata) {
  UniqueFd saved(open(directory_.Path("saved").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  NullMonitor monitor;
  {
    absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(wim_);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->SaveMetadata(2, saved.get(), monitor).ok());
  }
  EditedImage image = ImageOf(wim_, 2);
  const auto before = Describe(image);
  const NodeId wanted = image.Find("dir/sub/small9");
  image.Remove("dir/100");
  ASSERT_TRUE(CommitTo(wim_, 2, image).ok());
  EXPECT_NE(ImageOf(wim_, 2).Find("dir/sub/small9"), wanted);  // the image's own ids have moved on

  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(wim_);
  ASSERT_TRUE(file.ok());
  absl::StatusOr<std::unique_ptr<WimTree>> tree = (*file)->OpenTreeFromMetadata(saved.get(), {}, monitor);
  ASSERT_TRUE(tree.ok()) << tree.status();
  EXPECT_EQ(FindPath(**tree, "dir/sub/small9"), wanted);
  EXPECT_EQ(Describe(EditedImage(*(*tree)->base_image())), before);
  EXPECT_EQ(ReadAll(**tree, FindPath(**tree, "dir/100")), Words(100, 100));

  ASSERT_EQ(pwrite(saved.get(), "x", 1, 100), 1);
  EXPECT_EQ(ReasonOf((*file)->OpenTreeFromMetadata(saved.get(), {}, monitor).status()), Reason::kBadImageFormat);
}

TEST_F(WimCommit, StreamsHaveTheNodeIdsThatLookUpsGive) {
  EditedImage image = ImageOf(wim_, 1);
  Edit(image);
  ASSERT_TRUE(CommitTo(wim_, 1, image).ok());
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(wim_, 1);
  ASSERT_TRUE(tree.ok());
  const BaseImage& base = *(*tree)->base_image();
  const NodeId file = FindPath(**tree, "dir/100");
  EXPECT_EQ(base.StreamNode(file, 0), file);
  EXPECT_EQ(base.StreamNode(file, 2), FindPath(**tree, "dir/100:large stream"));
  EXPECT_EQ(base.FileOfNode(base.StreamNode(file, 2)), std::pair(file, size_t{2}));
  const NodeId directory = FindPath(**tree, "new dir");
  EXPECT_EQ(base.StreamNode(directory, 0), FindPath(**tree, "new dir:of a directory"));
  EXPECT_EQ(base.FileOfNode(base.StreamNode(directory, 0)), std::pair(directory, size_t{0}));
  EXPECT_EQ(base.GetFileRecord(base.LastNode() + 1).error(), ENOENT);
  EXPECT_EQ(base.VisitEntries(file, [](const BaseImage::Entry&) { return true; }), ENOTDIR);
}

// Whole images with everything that Windows has, where they are at hand: those of tests/integration/images.py.
TEST(WimCommitImages, WithoutChangesWindowsImagesStayAsTheyWere) {
  const char* images = getenv("DISMD_TEST_IMAGES");
  if (images == nullptr) GTEST_SKIP() << "DISMD_TEST_IMAGES names no directory";
  TempDirectory directory;
  for (const auto& file : std::filesystem::directory_iterator(images)) {
    const std::string name = file.path().filename();
    if (name.find(".wim") == name.npos || name.find("pipable") != name.npos || name == "huge.wim") continue;
    SCOPED_TRACE(name);
    const std::string wim = directory.Path(name);
    std::filesystem::copy_file(file.path(), wim);
    const auto before = Describe(wim, 1);
    const std::string xml = StableXml(wim);
    const std::string metadata = MetadataOf(wim, 1);
    EditedImage image = ImageOf(wim, 1);
    absl::StatusOr<WimCommitResult> result = CommitTo(wim, 1, image);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Describe(wim, 1), before);
    EXPECT_EQ(StableXml(wim), xml);
    ExpectSameMetadata(MetadataOf(wim, 1), metadata);
    CheckWim(wim);
    std::filesystem::remove(wim);
  }
}

}  // namespace
}  // namespace libmount
