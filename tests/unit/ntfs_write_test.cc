// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: changing a volume, being killed in between, and running out of space.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <iterator>
#include <random>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/ntfs/wof.h"
#include "libmount/tree/windows.h"
#include "tests/unit/ntfs_test_util.h"

namespace libmount {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr uint64_t kMiB = 1 << 20;

// A disk in memory over a file, with groups: what an overlay does, without its files.
class GroupedDevice final : public WritableBlockDevice, public OperationGroups {
 public:
  explicit GroupedDevice(const std::string& path) : file_(path) {}

  uint64_t size() const override { return file_.size(); }
  uint32_t sector_size() const override { return file_.sector_size(); }

  int Read(uint64_t offset, absl::Span<char> out) const override {
    absl::MutexLock lock(&mutex_);
    while (!out.empty()) {
      const size_t length = std::min<size_t>(out.size(), kBlock - offset % kBlock);
      std::string block;
      if (int error = Load(offset / kBlock, block)) return error;
      memcpy(out.data(), block.data() + offset % kBlock, length);
      out.remove_prefix(length);
      offset += length;
    }
    return 0;
  }

  int Write(uint64_t offset, absl::Span<const char> data) override {
    absl::MutexLock lock(&mutex_);
    if (writes_left_ == 0) return ENOSPC;
    if (writes_left_ > 0) --writes_left_;
    ++writes_;
    while (!data.empty()) {
      const size_t length = std::min<size_t>(data.size(), kBlock - offset % kBlock);
      std::string block;
      if (int error = Load(offset / kBlock, block)) return error;
      memcpy(block.data() + offset % kBlock, data.data(), length);
      (open_ ? pending_ : blocks_)[offset / kBlock] = std::move(block);
      data.remove_prefix(length);
      offset += length;
    }
    return 0;
  }

  int Sync() override { return 0; }

  void Begin(uint64_t request) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(open_);
    open_ = true;
    request_ = request;
  }
  int End(const Reply& reply) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(open_);
    if (request_ != 0 && !pending_.empty()) replies_[request_] = reply;
    for (auto& [number, block] : pending_) blocks_[number] = std::move(block);
    pending_.clear();
    open_ = false;
    return 0;
  }
  void Abort() override {
    absl::MutexLock lock(&mutex_);
    pending_.clear();
    open_ = false;
  }
  std::optional<Reply> FindReply(uint64_t request) const override {
    absl::MutexLock lock(&mutex_);
    auto found = replies_.find(request);
    return found == replies_.end() ? std::nullopt : std::optional<Reply>(found->second);
  }

  // As if the process had been killed: a group that was not ended is gone.
  void Die() { Abort(); }
  void FailAfter(int writes) {
    absl::MutexLock lock(&mutex_);
    writes_left_ = writes;
  }
  uint64_t writes() const {
    absl::MutexLock lock(&mutex_);
    return writes_;
  }
  // The disk as it is now, as a file.
  void SaveTo(const std::string& path) const {
    RunCommand("cp --sparse=always '" + path_of_base_ + "' '" + path + "'");
    FileDevice file(path, /*writable=*/true);
    absl::MutexLock lock(&mutex_);
    for (const auto& [number, block] : blocks_) {
      const uint64_t at = number * kBlock;
      file.Write(at, absl::MakeConstSpan(block.data(), std::min(kBlock, file.size() - at)));
    }
  }
  void set_base(const std::string& path) { path_of_base_ = path; }

 private:
  static constexpr uint64_t kBlock = 4096;

  int Load(uint64_t number, std::string& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const auto* blocks : {&pending_, &blocks_}) {
      if (auto found = blocks->find(number); found != blocks->end()) {
        block = found->second;
        return 0;
      }
    }
    block.assign(kBlock, '\0');
    const uint64_t at = number * kBlock;
    if (at >= file_.size()) return EINVAL;
    return file_.Read(at, absl::MakeSpan(block).first(std::min(kBlock, file_.size() - at)));
  }

  FileDevice file_;
  std::string path_of_base_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::string> blocks_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::string> pending_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Reply> replies_ ABSL_GUARDED_BY(mutex_);
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t request_ ABSL_GUARDED_BY(mutex_) = 0;
  int writes_left_ ABSL_GUARDED_BY(mutex_) = -1;
  uint64_t writes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class NtfsWriteTest : public testing::Test {
 protected:
  void SetUp() override { Make(32 * kMiB); }
  void Make(uint64_t size, uint32_t sector_size = 512, uint32_t cluster_size = 4096) {
    tree_.reset();
    device_.reset();
    MakeVolume(path(), size, sector_size, cluster_size);
  }
  std::string path() const { return directory_.Path("volume"); }

  NtfsTree& Open(bool resumed = false) {
    if (device_ == nullptr) {
      device_ = std::make_unique<GroupedDevice>(path());
      device_->set_base(path());
    }
    tree_.reset();
    NtfsTreeOptions options;
    options.uid = 1000;
    options.gid = 1000;
    absl::StatusOr<std::unique_ptr<NtfsTree>> tree =
        NtfsTree::OpenForWriting(device_.get(), device_.get(), resumed, options);
    EXPECT_TRUE(tree.ok()) << tree.status();
    if (!tree.ok()) abort();
    tree_ = *std::move(tree);
    return *tree_;
  }

  NodeId File(std::string_view name, std::string_view content = {}, NodeId parent = kRootNode) {
    ErrnoOr<NodeAttributes> made = tree_->MakeNode({}, parent, name, S_IFREG | 0644, 0);
    EXPECT_TRUE(made.ok()) << name << " " << made.error();
    if (!made.ok()) return 0;
    if (!content.empty()) Put(made->node, content);
    return made->node;
  }
  void Put(NodeId node, std::string_view content, uint64_t offset = 0) {
    ErrnoOr<size_t> put = tree_->Write({}, node, offset, absl::MakeConstSpan(content.data(), content.size()));
    EXPECT_TRUE(put.ok()) << put.error();
  }
  NodeId Directory(std::string_view name, NodeId parent = kRootNode) {
    ErrnoOr<NodeAttributes> made = tree_->MakeDirectory({}, parent, name, 0755);
    EXPECT_TRUE(made.ok()) << name << " " << made.error();
    return made.ok() ? made->node : 0;
  }

  // The volume as it is on the disk now, while the tree is open: whole for other tools, and with what the tree shows.
  void CheckVolume() {
    const std::string copy = directory_.Path("copy");
    device_->SaveTo(copy);
    RunCommand("PATH=$PATH:/usr/sbin:/sbin ntfsfix -n '" + copy + "' 2>&1");
    // Counts the clusters of all files against $Bitmap.
    RunCommand("PATH=$PATH:/usr/sbin:/sbin ntfsresize -f --info '" + copy + "' 2>&1");
    FileDevice device(copy);
    absl::StatusOr<std::unique_ptr<NtfsTree>> other = NtfsTree::Open(&device, {});
    ASSERT_TRUE(other.ok()) << other.status();
    std::map<std::string, Seen> expected = Walk(*tree_);
    std::map<std::string, Seen> got = Walk(**other);
    for (const auto& [name, seen] : expected) {
      ASSERT_TRUE(got.contains(name)) << name;
      EXPECT_EQ(got[name].attributes.size, seen.attributes.size) << name;
      EXPECT_EQ(got[name].attributes.mode, seen.attributes.mode) << name;
      EXPECT_EQ(got[name].attributes.node, seen.attributes.node) << name;
      EXPECT_EQ(got[name].attributes.link_count, seen.attributes.link_count) << name;
      EXPECT_TRUE(got[name].content == seen.content) << name;
    }
    EXPECT_EQ(got.size(), expected.size());
  }

  TestDirectory directory_;
  std::unique_ptr<GroupedDevice> device_;
  std::unique_ptr<NtfsTree> tree_;
};

TEST_F(NtfsWriteTest, FilesAreMadeWrittenAndReadAgain) {
  NtfsTree& tree = Open();
  EXPECT_FALSE(tree.read_only());
  const NodeId directory = Directory("Directory");
  const std::string large = RandomBytes(3'000'000, 1);
  const NodeId file = File("large", large, directory);
  const NodeId small = File("small", "small");
  EXPECT_TRUE(ReadAll(tree, file) == large);
  EXPECT_EQ(ReadAll(tree, small), "small");
  Put(file, "CHANGED", 1'000'000);
  std::string expected = large;
  expected.replace(1'000'000, 7, "CHANGED");
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  Put(small, "far", 500'000);
  EXPECT_TRUE(ReadAll(tree, small) == "small" + std::string(499'995, '\0') + "far");
  EXPECT_EQ(tree.MakeDirectory({}, kRootNode, "directory", 0755).error(), EEXIST);
  EXPECT_EQ(tree.MakeNode({}, kRootNode, "device", S_IFCHR, 5).error(), EPERM);
  EXPECT_EQ(tree.MakeNode({}, small, "x", S_IFREG, 0).error(), ENOTDIR);
  EXPECT_EQ(tree.MakeNode({}, kRootNode, std::string(256, 'x'), S_IFREG, 0).error(), ENAMETOOLONG);
  EXPECT_FALSE(tree.GetXattr(file, "system.ntfs_acl")->empty());
  CheckVolume();
}

TEST_F(NtfsWriteTest, RemovingAndRenaming) {
  NtfsTree& tree = Open();
  const NodeId a = Directory("a");
  const NodeId b = Directory("b");
  const NodeId file = File("file", "1", a);
  EXPECT_EQ(tree.RemoveDirectory({}, kRootNode, "a"), ENOTEMPTY);
  EXPECT_EQ(tree.Unlink({}, kRootNode, "a"), EISDIR);
  EXPECT_EQ(tree.RemoveDirectory({}, a, "file"), ENOTDIR);
  EXPECT_EQ(tree.Rename({}, a, "file", b, "moved", 0), 0);
  EXPECT_EQ(Find(tree, "/b/moved"), file);
  EXPECT_EQ(Find(tree, "/a/file"), 0u);
  EXPECT_EQ(tree.Rename({}, b, "moved", b, "MOVED", 0), 0);
  EXPECT_THAT(List(tree, b), UnorderedElementsAre("MOVED"));
  const NodeId other = File("other", "2", a);
  EXPECT_EQ(tree.Rename({}, a, "other", b, "moved", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(tree.Rename({}, a, "other", b, "moved", RENAME_EXCHANGE), 0);
  EXPECT_EQ(Find(tree, "/b/MOVED"), other);
  EXPECT_EQ(Find(tree, "/a/other"), file);
  EXPECT_EQ(tree.Rename({}, a, "other", b, "MOVED", 0), 0);
  EXPECT_EQ(ReadAll(tree, Find(tree, "/b/MOVED")), "1");
  EXPECT_EQ(tree.GetAttributes(other).error(), ENOENT);
  // Directories.
  EXPECT_EQ(tree.Rename({}, kRootNode, "b", a, "b in a", 0), 0);
  EXPECT_EQ(*tree.Parent(b), a);
  EXPECT_EQ(ReadAll(tree, Find(tree, "/a/b in a/MOVED")), "1");
  EXPECT_EQ(tree.Rename({}, kRootNode, "a", b, "x", 0), EINVAL);
  Directory("full");
  EXPECT_EQ(tree.Rename({}, kRootNode, "full", a, "b in a", 0), ENOTEMPTY);
  EXPECT_EQ(tree.Rename({}, kRootNode, "none", a, "x", 0), ENOENT);
  CheckVolume();
  EXPECT_EQ(tree.Unlink({}, b, "moved"), 0);
  EXPECT_EQ(tree.RemoveDirectory({}, a, "b in a"), 0);
  EXPECT_EQ(tree.RemoveDirectory({}, kRootNode, "a"), 0);
  EXPECT_THAT(List(tree, kRootNode), UnorderedElementsAre("full"));
  CheckVolume();
}

TEST_F(NtfsWriteTest, HardLinksAndSymbolicLinks) {
  NtfsTree& tree = Open();
  const NodeId directory = Directory("d");
  const NodeId file = File("file", "content");
  ASSERT_TRUE(tree.MakeLink({}, file, directory, "second").ok());
  EXPECT_EQ(tree.GetAttributes(file)->link_count, 2u);
  EXPECT_EQ(tree.MakeLink({}, directory, kRootNode, "x").error(), EPERM);
  EXPECT_EQ(tree.MakeLink({}, file, kRootNode, "FILE").error(), EEXIST);
  EXPECT_EQ(tree.Unlink({}, kRootNode, "file"), 0);
  EXPECT_EQ(ReadAll(tree, Find(tree, "/d/second")), "content");
  EXPECT_EQ(tree.GetAttributes(file)->link_count, 1u);
  for (const char* target : {"second", "../d/second", "/absolute", "with:colon", "//two"}) {
    const std::string name = "link" + std::to_string(strlen(target));
    ErrnoOr<NodeAttributes> link = tree.MakeSymlink({}, directory, name, target);
    ASSERT_TRUE(link.ok()) << target;
    EXPECT_TRUE(S_ISLNK(link->mode));
    EXPECT_EQ(*tree.ReadLink(link->node), target);
    EXPECT_EQ(link->size, strlen(target));
  }
  EXPECT_EQ(tree.Rename({}, directory, "link6", kRootNode, "moved", 0), 0);
  tree_.reset();
  NtfsTree& again = Open();
  EXPECT_EQ(*again.ReadLink(Find(again, "/d/link11")), "second");
  EXPECT_EQ(*again.ReadLink(Find(again, "/d/link9")), "../absolute");
  CheckVolume();
}

TEST_F(NtfsWriteTest, RemovedFilesLiveWhileTheyAreOpen) {
  NtfsTree& tree = Open();
  const NodeId file = File("file", "content");
  ASSERT_EQ(tree.Open(file), 0);
  ASSERT_EQ(tree.Open(file), 0);
  EXPECT_EQ(tree.Unlink({}, kRootNode, "file"), 0);
  EXPECT_THAT(List(tree, kRootNode), IsEmpty());
  EXPECT_EQ(tree.GetAttributes(file)->link_count, 0u);
  EXPECT_EQ(ReadAll(tree, file), "content");
  Put(file, "CONTENT");
  File("file", "another");
  tree.Release(file);
  EXPECT_EQ(ReadAll(tree, file), "CONTENT");
  EXPECT_EQ(tree.MakeLink({}, file, kRootNode, "x").error(), ENOENT);
  tree.Release(file);
  EXPECT_EQ(tree.GetAttributes(file).error(), ENOENT);
  CheckVolume();
}

TEST_F(NtfsWriteTest, AfterARecoveryRemovedFilesLiveUntilTheNextMount) {
  NtfsTree* tree = &Open();
  const NodeId open = File("open", "1");
  const NodeId later = File("later", "2");
  tree->Open(open);
  tree->Unlink({}, kRootNode, "open");
  device_->Die();
  tree = &Open(/*resumed=*/true);
  EXPECT_EQ(ReadAll(*tree, open), "1");
  EXPECT_EQ(tree->GetAttributes(open)->link_count, 0u);
  EXPECT_EQ(tree->MakeLink({}, open, kRootNode, "x").error(), ENOENT);
  EXPECT_EQ(tree->Unlink({}, kRootNode, "later"), 0);
  EXPECT_EQ(ReadAll(*tree, later), "2");
  EXPECT_THAT(List(*tree, kRootNode), IsEmpty());
  EXPECT_EQ(tree->Lookup(kRootNode, "$dismd-removed-00000040-0001").error(), ENOENT);
  tree = &Open(/*resumed=*/false);
  EXPECT_EQ(tree->GetAttributes(open).error(), ENOENT);
  EXPECT_EQ(tree->GetAttributes(later).error(), ENOENT);
  CheckVolume();
}

TEST_F(NtfsWriteTest, RemovedFilesGoWhenNobodyCanHaveThemOpenAnyMore) {
  NtfsTree* tree = &Open();
  const NodeId open = File("open", "1");
  const NodeId stays = File("stays", "2");
  tree->Open(open);
  tree->Unlink({}, kRootNode, "open");
  device_->Die();
  tree = &Open(/*resumed=*/true);
  tree->Release(open);  // of an Open before the recovery
  EXPECT_EQ(ReadAll(*tree, open), "1");
  EXPECT_EQ(tree->RemoveUnlinked(), 0);
  EXPECT_EQ(tree->GetAttributes(open).error(), ENOENT);
  EXPECT_EQ(tree->RemoveUnlinked(), 0);
  EXPECT_EQ(ReadAll(*tree, stays), "2");
  EXPECT_THAT(List(*tree, kRootNode), UnorderedElementsAre("stays"));
  CheckVolume();
}

TEST_F(NtfsWriteTest, AttributesSizesAndTimes) {
  NtfsTree& tree = Open();
  const NodeId file = File("file", std::string(100'000, 'x'));
  AttributeChanges changes;
  changes.size = 10;
  EXPECT_EQ(tree.SetAttributes({}, file, changes)->size, 10u);
  changes.size = 1'000'000;
  EXPECT_EQ(tree.SetAttributes({}, file, changes)->size, 1'000'000u);
  EXPECT_TRUE(ReadAll(tree, file) == "xxxxxxxxxx" + std::string(999'990, '\0'));
  changes = {};
  changes.mode = 0444;
  EXPECT_EQ(tree.SetAttributes({}, file, changes)->mode, S_IFREG | 0444u);
  changes.mode = 0600;
  EXPECT_EQ(tree.SetAttributes({}, file, changes)->mode, S_IFREG | 0644u);
  changes = {};
  changes.modification_time = timespec{1'500'000'000, 123'456'700};
  changes.access_time = timespec{1'400'000'000, 0};
  ErrnoOr<NodeAttributes> set = tree.SetAttributes({}, file, changes);
  EXPECT_EQ(set->modification_time.tv_sec, 1'500'000'000);
  EXPECT_EQ(set->modification_time.tv_nsec, 123'456'700);
  EXPECT_EQ(set->access_time.tv_sec, 1'400'000'000);
  changes = {};
  changes.uid = 0;
  EXPECT_EQ(tree.SetAttributes({}, file, changes).error(), EPERM);
  changes = {};
  changes.size = uint64_t{1} << 50;
  EXPECT_EQ(tree.SetAttributes({}, file, changes).error(), EFBIG);
  changes.size = 0;
  EXPECT_EQ(tree.SetAttributes({}, kRootNode, changes).error(), EISDIR);
  CheckVolume();
}

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

TEST_F(NtfsWriteTest, ExtendedAttributes) {
  NtfsTree& tree = Open();
  const NodeId file = File("A long file name.text", "x");
  struct Case {
    const char* name;
    std::string value;
  };
  std::string times;
  for (uint64_t time : {130000000000000001u, 130000000000000002u, 130000000000000003u}) AppendLe(time, times);
  const std::string acl = *tree.GetXattr(file, "system.ntfs_acl");
  const Case cases[] = {
      {"system.ntfs_attrib", std::string("\x26\0\0\0", 4)},
      {"system.ntfs_crtime", times.substr(0, 8)},
      {"system.ntfs_dos_name", "ALONGF~1.TEX"},
      {"system.ntfs_ea", std::string("\x10\0\0\0\0\3\4\0NAM\0VALU", 16)},
      {"system.ntfs_acl", acl},
      {"user.stream", "value"},
      {"user.large", RandomBytes(60'000, 5)},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    EXPECT_EQ(tree.SetXattr({}, file, test.name, test.value, 0), 0);
    ErrnoOr<std::string> got = tree.GetXattr(file, test.name);
    ASSERT_TRUE(got.ok());
    EXPECT_TRUE(*got == test.value);
    EXPECT_EQ(tree.SetXattr({}, file, test.name, test.value, XATTR_CREATE), EEXIST);
  }
  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_object_id", "0123456789abcdef", 0), 0);
  EXPECT_EQ(tree.GetXattr(file, "system.ntfs_object_id")->substr(0, 16), "0123456789abcdef");
  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_times", times, 0), 0);
  EXPECT_EQ(tree.GetXattr(file, "system.ntfs_times")->substr(0, 24), times);
  EXPECT_NE(Find(tree, "/ALONGF~1.TEX"), 0u);
  EXPECT_EQ(tree.GetAttributes(file)->link_count, 1u);
  EXPECT_EQ(ReadAll(tree, Find(tree, "/A long file name.text:stream")), "value");
  CheckVolume();

  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_acl", "short", 0), EINVAL);
  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_attrib", "x", 0), EINVAL);
  EXPECT_EQ(tree.SetXattr({}, file, "security.x", "x", 0), EOPNOTSUPP);
  EXPECT_EQ(tree.SetXattr({}, file, "user.none", "x", XATTR_REPLACE), ENODATA);
  for (const char* name : {"system.ntfs_dos_name", "system.ntfs_ea", "system.ntfs_object_id", "user.stream"}) {
    EXPECT_EQ(tree.RemoveXattr({}, file, name), 0) << name;
    EXPECT_EQ(tree.GetXattr(file, name).error(), ENODATA) << name;
    EXPECT_EQ(tree.RemoveXattr({}, file, name), ENODATA) << name;
  }
  std::string junction;
  const std::string data = JunctionData("\\??\\C:\\Windows");
  AppendLe(kReparseMountPoint, junction);
  AppendLe(static_cast<uint16_t>(data.size()), junction);
  AppendLe(uint16_t{0}, junction);
  junction += data;
  const NodeId directory = Directory("junction");
  EXPECT_EQ(tree.SetXattr({}, directory, "system.ntfs_reparse_data", junction, 0), 0);
  EXPECT_TRUE(S_ISLNK(tree.GetAttributes(directory)->mode));
  EXPECT_EQ(*tree.ReadLink(directory), "Windows");
  EXPECT_EQ(tree.RemoveXattr({}, directory, "system.ntfs_reparse_data"), 0);
  EXPECT_TRUE(S_ISDIR(tree.GetAttributes(directory)->mode));
  CheckVolume();
}

TEST_F(NtfsWriteTest, AFileOfSeveralNamesHasAShortNameToo) {
  NtfsTree& tree = Open();
  const NodeId directory = Directory("directory");
  const NodeId file = File("A long file name.text", "x");
  const std::vector<std::string> names = {"/A long file name.text", "/another long name.text",
                                          "/directory/A long file name.text"};
  ASSERT_TRUE(tree.MakeLink({}, file, kRootNode, "another long name.text").ok());
  ASSERT_TRUE(tree.MakeLink({}, file, directory, "A long file name.text").ok());
  File("TAKEN.TXT");
  auto check = [&](const char* short_name) {
    for (const std::string& name : names) EXPECT_EQ(Find(tree, name), file) << name;
    EXPECT_EQ(tree.GetAttributes(file)->link_count, names.size());
    if (short_name == nullptr) {
      EXPECT_EQ(tree.GetXattr(file, "system.ntfs_dos_name").error(), ENODATA);
    } else {
      EXPECT_EQ(*tree.GetXattr(file, "system.ntfs_dos_name"), short_name);
      EXPECT_EQ(Find(tree, "/" + std::string(short_name)), file);
    }
    CheckVolume();
  };
  for (const char* short_name : {"ALONGF~1.TEX", "OTHER~1.TEX"}) {
    EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_dos_name", short_name, 0), 0);
    check(short_name);
  }
  EXPECT_EQ(Find(tree, "/ALONGF~1.TEX"), 0u);
  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_dos_name", "TAKEN.TXT", 0), EEXIST);
  EXPECT_NE(tree.SetXattr({}, file, "system.ntfs_dos_name", "a*b", 0), 0);
  check("OTHER~1.TEX");
  EXPECT_EQ(tree.RemoveXattr({}, file, "system.ntfs_dos_name"), 0);
  check(nullptr);
  EXPECT_EQ(tree.SetXattr({}, file, "system.ntfs_dos_name", "ALONGF~1.TEX", 0), 0);
  ASSERT_EQ(tree.Open(Find(tree, "/TAKEN.TXT")), 0);
  const NodeId removed = Find(tree, "/TAKEN.TXT");
  EXPECT_EQ(tree.Unlink({}, kRootNode, "TAKEN.TXT"), 0);
  EXPECT_EQ(tree.SetXattr({}, removed, "system.ntfs_dos_name", "TAKEN.TXT", 0), EOPNOTSUPP);
  tree.Release(removed);
  // It goes with the name that has it.
  EXPECT_EQ(tree.Unlink({}, kRootNode, "ALONGF~1.TEX"), 0);
  EXPECT_EQ(tree.GetAttributes(file)->link_count, 2u);
  EXPECT_EQ(tree.GetXattr(file, "system.ntfs_dos_name").error(), ENODATA);
  CheckVolume();
}

TEST_F(NtfsWriteTest, StreamsAsNodes) {
  NtfsTree& tree = Open();
  const NodeId file = File("file", "main");
  const NodeId stream = File("file:stream", "data");
  EXPECT_EQ(tree.GetAttributes(stream)->stream_of, file);
  EXPECT_EQ(tree.MakeNode({}, kRootNode, "file:STREAM", S_IFREG, 0).error(), EEXIST);
  Put(stream, RandomBytes(100'000, 1), 4);
  EXPECT_EQ(tree.GetAttributes(stream)->size, 100'004u);
  EXPECT_EQ(tree.Unlink({}, kRootNode, "file:stream"), 0);
  EXPECT_EQ(tree.GetAttributes(stream).error(), ENOENT);
  EXPECT_EQ(ReadAll(tree, file), "main");
  CheckVolume();
}

TEST_F(NtfsWriteTest, AChangeWritesOnlyWhatItTouches) {
  Open();
  const NodeId file = File("small", "small");
  const uint64_t before = device_->writes();
  Put(file, "SMALL");
  // The file's record and its entry in the directory. (The volume's own files would be eight more.)
  EXPECT_LE(device_->writes() - before, 4u);
  CheckVolume();
}

TEST_F(NtfsWriteTest, ARepeatedRequestIsAnsweredAndNotDoneAgain) {
  NtfsTree* tree = &Open();
  const Request request{7, 0, 0};
  const ErrnoOr<NodeAttributes> made = tree->MakeDirectory(request, kRootNode, "d", 0755);
  ASSERT_TRUE(made.ok());
  device_->Die();
  tree = &Open(/*resumed=*/true);
  EXPECT_EQ(tree->MakeDirectory(request, kRootNode, "d", 0755)->node, made->node);
  EXPECT_EQ(tree->MakeDirectory({8, 0, 0}, kRootNode, "d", 0755).error(), EEXIST);
  EXPECT_EQ(tree->RemoveDirectory({9, 0, 0}, kRootNode, "d"), 0);
  EXPECT_EQ(tree->RemoveDirectory({9, 0, 0}, kRootNode, "d"), 0);
  EXPECT_EQ(tree->RemoveDirectory({10, 0, 0}, kRootNode, "d"), ENOENT);
}

// A write that fails anywhere leaves nothing of its operation, and the next one works.
TEST_F(NtfsWriteTest, AFailedWriteLeavesNothingOfItsOperation) {
  NtfsTree& tree = Open();
  const NodeId directory = Directory("d");
  File("replaced", "old", directory);
  for (int writes = 0; writes < 12; ++writes) {
    SCOPED_TRACE(writes);
    const NodeId file = File("file" + std::to_string(writes), "content");
    const std::map<std::string, Seen> before = Walk(tree);
    device_->FailAfter(writes);
    const int error = tree.Rename({}, kRootNode, "file" + std::to_string(writes), directory, "replaced", 0);
    device_->FailAfter(-1);
    if (error == 0) break;
    EXPECT_EQ(error, ENOSPC);
    const std::map<std::string, Seen> after = Walk(tree);
    ASSERT_EQ(after.size(), before.size());
    for (const auto& [name, seen] : before) EXPECT_TRUE(after.at(name).content == seen.content) << name;
    EXPECT_EQ(tree.Unlink({}, kRootNode, "file" + std::to_string(writes)), 0);
    EXPECT_EQ(tree.GetAttributes(file).error(), ENOENT);
    CheckVolume();
  }
}

TEST_F(NtfsWriteTest, AFullVolumeSaysSoAndStaysWhole) {
  Make(4 * kMiB);
  NtfsTree& tree = Open();
  const NodeId file = File("file");
  uint64_t size = 0;
  const std::string block = RandomBytes(256 << 10, 1);
  while (true) {
    ErrnoOr<size_t> put = tree.Write({}, file, size, block);
    if (!put.ok()) {
      EXPECT_EQ(put.error(), ENOSPC);
      break;
    }
    size += *put;
    ASSERT_LT(size, 4 * kMiB);
  }
  EXPECT_EQ(tree.GetAttributes(file)->size, size);
  CheckVolume();
  AttributeChanges changes;
  changes.size = 0;
  EXPECT_TRUE(tree.SetAttributes({}, file, changes).ok());
  Put(file, block);
  CheckVolume();
}

TEST_F(NtfsWriteTest, WritingToAFileOfTheOverlayFilterUnpacksIt) {
  const std::string content = RandomBytes(10'000, 3);
  {
    VolumeFiller filler(path());
    filler.MakeFile("/file");
    filler.Resize("/file", content.size());
    // Three chunks that did not become smaller.
    std::string stream;
    AppendLe(uint32_t{4096}, stream);
    AppendLe(uint32_t{8192}, stream);
    filler.WriteStream("/file", std::string(kWofStreamName), stream + content);
    std::string data;
    for (uint32_t value : {1u, 2u, 1u, kWofXpress4k}) AppendLe(value, data);
    filler.SetReparsePoint("/file", kReparseWof, data);
  }
  NtfsTree& tree = Open();
  const NodeId file = Find(tree, "/file");
  EXPECT_TRUE(ReadAll(tree, file) == content);
  Put(file, "new", 5000);
  std::string expected = content;
  expected.replace(5000, 3, "new");
  EXPECT_TRUE(ReadAll(tree, file) == expected);
  CheckVolume();
}

TEST_F(NtfsWriteTest, ManyFilesInOneDirectoryComeAndGo) {
  NtfsTree& tree = Open();
  const NodeId directory = Directory("d");
  for (int i = 0; i < 1000; ++i) File("a rather long file name number " + std::to_string(i), {}, directory);
  EXPECT_EQ(List(tree, directory).size(), 1000u);
  CheckVolume();
  // As rm -r: entries go while they are listed.
  uint64_t cookie = 0;
  size_t removed = 0;
  for (bool more = true; more;) {
    std::vector<std::string> names;
    tree.ReadDirectory(directory, cookie, [&](const DirectoryEntry& entry) {
      names.emplace_back(entry.name);
      cookie = entry.next_cookie;
      return names.size() < 50;
    });
    more = !names.empty();
    for (const std::string& name : names) {
      EXPECT_EQ(tree.Unlink({}, directory, name), 0);
      ++removed;
    }
  }
  EXPECT_EQ(removed, 1000u);
  EXPECT_EQ(tree.RemoveDirectory({}, kRootNode, "d"), 0);
  CheckVolume();
}

// Random changes against a model, killed and gone on with every so often.
TEST_F(NtfsWriteTest, RandomChangesAgainstAModel) {
  for (uint32_t cluster : {512u, 4096u, 65536u}) {
    SCOPED_TRACE(cluster);
    Make(64 * kMiB, 512, cluster);
    NtfsTree* tree = &Open();
    std::mt19937 random(cluster);
    std::map<std::string, std::string> model;  // contents by path; directories "D1".."D3"
    std::vector<std::string> directories = {""};
    for (int i = 1; i <= 3; ++i) {
      Directory("D" + std::to_string(i));
      directories.push_back("/D" + std::to_string(i));
    }
    auto pick_path = [&] {
      return directories[random() % directories.size()] + "/name" + std::to_string(random() % 25);
    };
    auto parent_of = [&](const std::string& path) {
      return path.rfind('/') == 0 ? kRootNode : Find(*tree, path.substr(0, path.rfind('/')));
    };
    auto name_of = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
    for (int step = 0; step < 600; ++step) {
      const std::string path = pick_path();
      auto known = model.find(path);
      const NodeId node = Find(*tree, path);
      ASSERT_EQ(node != 0, known != model.end()) << path;
      switch (random() % 6) {
        case 0:
        case 1: {
          const NodeId file = node != 0 ? node : File(name_of(path), {}, parent_of(path));
          std::string& content = model[path];
          const size_t at = content.empty() ? 0 : random() % content.size();
          const std::string data = RandomBytes(1 + random() % 150'000, static_cast<uint32_t>(step));
          Put(file, data, at);
          if (content.size() < at + data.size()) content.resize(at + data.size());
          content.replace(at, data.size(), data);
          break;
        }
        case 2: {
          EXPECT_EQ(tree->Unlink({}, parent_of(path), name_of(path)), node == 0 ? ENOENT : 0);
          if (node != 0) model.erase(known);
          break;
        }
        case 3: {
          const std::string to = pick_path();
          const int error = tree->Rename({}, parent_of(path), name_of(path), parent_of(to), name_of(to), 0);
          EXPECT_EQ(error, node == 0 ? ENOENT : 0);
          if (node != 0 && to != path) {
            model[to] = std::move(known->second);
            model.erase(path);
          }
          break;
        }
        case 4: {
          if (node == 0) break;
          AttributeChanges changes;
          changes.size = random() % 200'000;
          EXPECT_TRUE(tree->SetAttributes({}, node, changes).ok());
          known->second.resize(*changes.size);
          break;
        }
        default: {
          if (node != 0) {
            EXPECT_TRUE(ReadAll(*tree, node) == known->second) << path;
          }
        }
      }
      if (step % 150 == 149) {
        device_->Die();
        tree = &Open(step % 300 == 149);
      }
    }
    tree = &Open(false);
    std::map<std::string, Seen> seen = Walk(*tree);
    for (const auto& [path, content] : model) EXPECT_TRUE(seen[path].content == content) << path;
    EXPECT_EQ(seen.size(), model.size() + 3);
    CheckVolume();
  }
}

TEST_F(NtfsWriteTest, AHibernatedVolumeIsReadAndNotWritten) {
  {
    VolumeFiller filler(path());
    filler.MakeFile("/hiberfil.sys", "hibr" + std::string(8192, 'x'));
  }
  FileDevice device(path());
  EXPECT_TRUE(NtfsTree::Open(&device, {}).ok());
  GroupedDevice writable(path());
  const absl::Status status = NtfsTree::OpenForWriting(&writable, &writable, false, {}).status();
  EXPECT_EQ(ReasonOf(status), Reason::kVolumeHibernated) << status;
  EXPECT_EQ(writable.writes(), 0u);
}

}  // namespace
}  // namespace libmount
