// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: changing a volume, being killed in between, and running out of space.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <random>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/ntfs/wof.h"
#include "libmount/tree/windows.h"
#include "tests/unit/ntfs_write_fixture.h"

namespace libmount {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

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
