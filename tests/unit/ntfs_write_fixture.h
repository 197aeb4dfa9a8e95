// SPDX-License-Identifier: GPL-3.0-or-later
//
// A small NTFS volume in memory, changed through NtfsTree, and looked at by other programs.

#ifndef TESTS_UNIT_NTFS_WRITE_FIXTURE_H_
#define TESTS_UNIT_NTFS_WRITE_FIXTURE_H_

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "libmount/ntfs/ntfs_tree.h"
#include "tests/unit/ntfs_test_util.h"

namespace libmount {

inline constexpr uint64_t kMiB = 1 << 20;

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

}  // namespace libmount

#endif  // TESTS_UNIT_NTFS_WRITE_FIXTURE_H_
