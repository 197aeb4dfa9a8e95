// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree, operation by operation, over a small image in memory.

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "tests/unit/staging_test_util.h"

namespace libmount {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

class StagedTreeTest : public ::testing::Test {
 protected:
  StagedTreeTest() {
    docs_ = image_.AddDirectory(kRootNode, "Docs");
    readme_ = image_.AddFile(docs_, "Readme.txt", "read me first");
    big_ = image_.AddFile(kRootNode, "big.bin", std::string(1 << 20, 'b'));
    image_.AddName(kRootNode, "Long File Name.txt", image_.AddFile(docs_, "linked", "two names"), "LONGFI~1.TXT");
    stream_ = image_.AddStream(readme_, "note", "a note");
    Reopen();
  }

  void Reopen(bool resumed = false) {
    tree_.reset();
    StagedTreeOptions options = options_;
    options.resumed = resumed;
    tree_ = OpenStaged(directory_, image_, options);
  }

  NodeId Make(NodeId parent, std::string_view name, std::string_view content = "") {
    ErrnoOr<NodeAttributes> made = tree_->MakeNode({}, parent, name, S_IFREG | 0644, 0);
    if (!made.ok()) return 0;
    if (!content.empty()) {
      EXPECT_TRUE(tree_->Write({}, made->node, 0, Bytes(content)).ok());
    }
    return made->node;
  }
  NodeId Find(NodeId parent, std::string_view name) {
    ErrnoOr<LookupResult> found = tree_->Lookup(parent, name);
    return found.ok() ? found->attributes.node : 0;
  }

  TestImage image_;
  StagingDirectory directory_;
  StagedTreeOptions options_;
  std::unique_ptr<StagedTree> tree_;
  NodeId docs_ = 0, readme_ = 0, big_ = 0, stream_ = 0;
};

TEST_F(StagedTreeTest, NamesThatCannotBeAreTooLong) {
  EXPECT_EQ(tree_->Lookup(kRootNode, std::string(255, 'x')).error(), ENOENT);
  EXPECT_EQ(tree_->Lookup(kRootNode, std::string(256, 'x')).error(), ENAMETOOLONG);
}

TEST_F(StagedTreeTest, WithoutChangesItIsTheImage) {
  EXPECT_FALSE(tree_->has_changes());
  EXPECT_THAT(List(*tree_, kRootNode), ElementsAre("Docs", "big.bin", "Long File Name.txt"));
  EXPECT_EQ(Content(*tree_, readme_), "read me first");
  EXPECT_EQ(Find(docs_, "README.TXT"), readme_);
  EXPECT_EQ(Find(docs_, "readme.txt:NOTE:$data"), stream_);
  EXPECT_EQ(Find(kRootNode, "longfi~1.txt"), Find(docs_, "linked"));
  EXPECT_EQ(*tree_->Parent(docs_), kRootNode);
}

TEST_F(StagedTreeTest, WhatIsMadeIsThereAndOutlivesTheProcess) {
  const NodeId file = Make(docs_, "new.txt", "hello");
  ErrnoOr<NodeAttributes> made = tree_->MakeDirectory({}, docs_, "sub", 0755);
  ASSERT_TRUE(made.ok());
  const NodeId inner = Make(made->node, "inner", std::string(100'000, 'x'));
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(tree_->has_changes());
    EXPECT_THAT(List(*tree_, docs_), ElementsAre("Readme.txt", "linked", "new.txt", "sub"));
    EXPECT_EQ(Find(docs_, "NEW.txt"), file);
    EXPECT_EQ(Content(*tree_, file), "hello");
    EXPECT_EQ(Content(*tree_, inner), std::string(100'000, 'x'));
    EXPECT_EQ(tree_->GetAttributes(docs_)->link_count, 3u);
    EXPECT_EQ(*tree_->Parent(made->node), docs_);
    Reopen();
  }
  EXPECT_NE(Make(docs_, "another"), inner);
}

TEST_F(StagedTreeTest, NamesCollideWithoutCase) {
  EXPECT_EQ(tree_->MakeNode({}, docs_, "README.TXT", S_IFREG | 0644, 0).error(), EEXIST);
  EXPECT_EQ(tree_->MakeDirectory({}, kRootNode, "LONGFI~1.TXT", 0755).error(), EEXIST);
  EXPECT_EQ(tree_->MakeNode({}, docs_, std::string(256, 'n'), S_IFREG | 0644, 0).error(), ENAMETOOLONG);
  EXPECT_EQ(tree_->MakeNode({}, docs_, "a/b", S_IFREG | 0644, 0).error(), EINVAL);
  EXPECT_EQ(tree_->MakeNode({}, docs_, "\xff", S_IFREG | 0644, 0).error(), EINVAL);
  EXPECT_EQ(tree_->MakeNode({}, readme_, "x", S_IFREG | 0644, 0).error(), ENOTDIR);
  EXPECT_EQ(tree_->MakeNode({}, 4711, "x", S_IFREG | 0644, 0).error(), ENOENT);
  EXPECT_EQ(tree_->MakeNode({}, docs_, "fifo", S_IFIFO | 0644, 0).error(), EPERM);
}

TEST_F(StagedTreeTest, AWriteIntoTheImagesFileStagesOnlyItself) {
  ASSERT_TRUE(tree_->Write({}, big_, 5000, Bytes("here")).ok());
  EXPECT_EQ(tree_->GetStats().staged_bytes, 4u);
  std::string expected(1 << 20, 'b');
  expected.replace(5000, 4, "here");
  EXPECT_EQ(Content(*tree_, big_), expected);
  Reopen();
  EXPECT_EQ(Content(*tree_, big_), expected);
  ASSERT_TRUE(tree_->Write({}, big_, 4998, Bytes("overlaps")).ok());
  expected.replace(4998, 8, "overlaps");
  EXPECT_EQ(Content(*tree_, big_), expected);
  EXPECT_EQ(tree_->GetStats().staged_bytes, 8u);
}

TEST_F(StagedTreeTest, TruncatingHidesTheImagesBytesForGood) {
  AttributeChanges changes;
  changes.size = 4;
  ASSERT_TRUE(tree_->SetAttributes({}, readme_, changes).ok());
  changes.size = 8;
  ASSERT_TRUE(tree_->SetAttributes({}, readme_, changes).ok());
  EXPECT_EQ(Content(*tree_, readme_), std::string("read\0\0\0\0", 8));
  EXPECT_EQ(*tree_->Seek(readme_, 0, SEEK_HOLE), 4u);
  EXPECT_EQ(tree_->Seek(readme_, 5, SEEK_DATA).error(), ENXIO);
  EXPECT_EQ(tree_->Allocate({}, big_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10, 20), 0);
  std::string expected(1 << 20, 'b');
  expected.replace(10, 20, std::string(20, '\0'));
  EXPECT_EQ(Content(*tree_, big_), expected);
  EXPECT_EQ(tree_->Allocate({}, big_, 0, 1 << 20, 100), 0);
  EXPECT_EQ(tree_->GetAttributes(big_)->size, (1u << 20) + 100);
  EXPECT_EQ(tree_->Allocate({}, big_, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
}

TEST_F(StagedTreeTest, SequentialWritesMakeFewExtents) {
  const NodeId file = Make(kRootNode, "log");
  const std::string piece(100'000, 'p');
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(tree_->Write({}, file, i * piece.size(), Bytes(piece)).ok());
  // One for each doubling.
  EXPECT_LT(tree_->GetStats().log_bytes, 200u * 100);
  EXPECT_EQ(Content(*tree_, file).size(), 200 * piece.size());
}

TEST_F(StagedTreeTest, SpaceReservedForALargeFileGoesBack) {
  const std::string piece(1 << 20, 'p');
  auto grow = [&](NodeId file) {
    ASSERT_EQ(tree_->Open(file), 0);
    for (int i = 0; i < 9; ++i) ASSERT_TRUE(tree_->Write({}, file, i * piece.size(), Bytes(piece)).ok());
  };
  auto taken = [&] {
    struct stat st = {};
    EXPECT_EQ(stat((directory_.path() + "/data").c_str(), &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  };
  const NodeId file = Make(kRootNode, "large");
  grow(file);
  EXPECT_GE(taken(), 10 * piece.size()) << "nothing is reserved";
  tree_->Release(file);
  EXPECT_LT(taken(), 10 * piece.size());
  ASSERT_TRUE(tree_->Write({}, file, 9 * piece.size(), Bytes(piece)).ok());
  EXPECT_EQ(Content(*tree_, file), std::string(10 * piece.size(), 'p'));

  grow(Make(kRootNode, "another"));
  EXPECT_GE(taken(), 20 * piece.size());
  Reopen(/*resumed=*/true);
  EXPECT_LT(taken(), 20 * piece.size()) << "the process died";
}

TEST_F(StagedTreeTest, UnlinkedFilesLiveWhileTheyAreOpen) {
  const NodeId file = Make(docs_, "temp", "data");
  ASSERT_EQ(tree_->Open(file), 0);
  ASSERT_EQ(tree_->Open(readme_), 0);
  ASSERT_EQ(tree_->Unlink({}, docs_, "temp"), 0);
  ASSERT_EQ(tree_->Unlink({}, docs_, "Readme.txt"), 0);
  EXPECT_EQ(Content(*tree_, file), "data");
  EXPECT_EQ(Content(*tree_, readme_), "read me first");
  EXPECT_EQ(tree_->GetAttributes(file)->link_count, 0u);
  Reopen(/*resumed=*/true);
  EXPECT_EQ(Content(*tree_, file), "data") << "the process died; the file may still be open";
  Reopen();
  EXPECT_EQ(tree_->GetAttributes(file).error(), ENOENT) << "a new mount: nobody has it open";
  EXPECT_EQ(tree_->GetAttributes(readme_).error(), ENOENT);
  EXPECT_EQ(tree_->GetStats().staged_bytes, 0u);
}

TEST_F(StagedTreeTest, TheLastReleaseLetsAnUnlinkedFileGo) {
  const NodeId file = Make(docs_, "temp", "data");
  ASSERT_EQ(tree_->Open(file), 0);
  ASSERT_EQ(tree_->Open(file), 0);
  ASSERT_EQ(tree_->Unlink({}, docs_, "TEMP"), 0);
  tree_->Release(file);
  EXPECT_EQ(Content(*tree_, file), "data");
  tree_->Release(file);
  EXPECT_EQ(tree_->GetAttributes(file).error(), ENOENT);
  EXPECT_EQ(tree_->GetStats().staged_bytes, 0u);
}

TEST_F(StagedTreeTest, LinksAreCounted) {
  ErrnoOr<NodeAttributes> linked = tree_->MakeLink({}, readme_, kRootNode, "second");
  ASSERT_TRUE(linked.ok());
  EXPECT_EQ(linked->link_count, 2u);
  EXPECT_EQ(linked->node, readme_);
  EXPECT_EQ(tree_->MakeLink({}, docs_, kRootNode, "dir").error(), EPERM);
  EXPECT_EQ(tree_->MakeLink({}, stream_, kRootNode, "dir").error(), EPERM);
  ASSERT_EQ(tree_->Unlink({}, docs_, "Readme.txt"), 0);
  EXPECT_EQ(tree_->GetAttributes(readme_)->link_count, 1u);
  EXPECT_EQ(Content(*tree_, readme_), "read me first");
  EXPECT_EQ(tree_->Rename({}, kRootNode, "Long File Name.txt", docs_, "linked", 0), 0) << "one file: nothing happens";
  EXPECT_EQ(tree_->GetAttributes(Find(docs_, "linked"))->link_count, 2u);
}

TEST_F(StagedTreeTest, RemovingDirectories) {
  EXPECT_EQ(tree_->RemoveDirectory({}, kRootNode, "Docs"), ENOTEMPTY);
  EXPECT_EQ(tree_->RemoveDirectory({}, kRootNode, "big.bin"), ENOTDIR);
  EXPECT_EQ(tree_->Unlink({}, kRootNode, "Docs"), EISDIR);
  ASSERT_EQ(tree_->Unlink({}, docs_, "Readme.txt"), 0);
  ASSERT_EQ(tree_->Unlink({}, docs_, "linked"), 0);
  ASSERT_EQ(tree_->Open(docs_), 0);
  ASSERT_EQ(tree_->RemoveDirectory({}, kRootNode, "docs"), 0);
  EXPECT_EQ(tree_->GetAttributes(docs_)->link_count, 0u);
  EXPECT_EQ(tree_->MakeNode({}, docs_, "x", S_IFREG | 0644, 0).error(), ENOENT);
  tree_->Release(docs_);
  EXPECT_EQ(tree_->GetAttributes(docs_).error(), ENOENT);
  EXPECT_EQ(tree_->GetAttributes(kRootNode)->link_count, 2u);
}

TEST_F(StagedTreeTest, Renaming) {
  ErrnoOr<NodeAttributes> made = tree_->MakeDirectory({}, docs_, "sub", 0755);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(tree_->Rename({}, kRootNode, "Docs", made->node, "x", 0), EINVAL);
  EXPECT_EQ(tree_->Rename({}, kRootNode, "big.bin", docs_, "sub", 0), EISDIR);
  EXPECT_EQ(tree_->Rename({}, docs_, "sub", kRootNode, "big.bin", 0), ENOTDIR);
  EXPECT_EQ(tree_->Rename({}, docs_, "sub", kRootNode, "Docs", 0), ENOTEMPTY);
  EXPECT_EQ(tree_->Rename({}, docs_, "none", kRootNode, "x", 0), ENOENT);
  EXPECT_EQ(tree_->Rename({}, docs_, "sub", kRootNode, "BIG.bin", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(tree_->Rename({}, docs_, "sub", kRootNode, "x", RENAME_WHITEOUT), EINVAL);
  EXPECT_EQ(tree_->Rename({}, kRootNode, "big.bin", kRootNode, "BIG.BIN", 0), 0);
  EXPECT_THAT(List(*tree_, kRootNode), ElementsAre("Docs", "BIG.BIN", "Long File Name.txt"));
  EXPECT_EQ(tree_->Rename({}, docs_, "sub", kRootNode, "moved", 0), 0);
  EXPECT_EQ(*tree_->Parent(made->node), kRootNode);
  EXPECT_EQ(tree_->GetAttributes(kRootNode)->link_count, 4u);
  EXPECT_EQ(tree_->GetAttributes(docs_)->link_count, 2u);
  EXPECT_EQ(tree_->Rename({}, docs_, "readme.txt", kRootNode, "big.bin", 0), 0) << "over a name in other case";
  EXPECT_EQ(Find(kRootNode, "big.bin"), readme_);
  EXPECT_EQ(tree_->GetAttributes(big_).error(), ENOENT);
  EXPECT_EQ(tree_->Rename({}, kRootNode, "moved", docs_, "linked", RENAME_EXCHANGE), 0);
  EXPECT_EQ(*tree_->Parent(made->node), docs_);
  EXPECT_EQ(tree_->Rename({}, kRootNode, "Docs", docs_, "linked", RENAME_EXCHANGE), EINVAL);
  Reopen();
  EXPECT_EQ(Find(docs_, "linked"), made->node);
  EXPECT_EQ(*tree_->Parent(made->node), docs_);
}

TEST_F(StagedTreeTest, ReadingADirectoryGoesOnWhileItIsEmptied) {
  const NodeId directory = tree_->MakeDirectory({}, kRootNode, "many", 0755)->node;
  for (int i = 0; i < 100; ++i) Make(directory, "f" + std::to_string(i));
  std::set<std::string> seen;
  uint64_t cookie = 0;
  for (;;) {
    std::vector<std::string> some;
    ASSERT_EQ(tree_->ReadDirectory(directory, cookie,
                                   [&](const DirectoryEntry& entry) {
                                     some.emplace_back(entry.name);
                                     cookie = entry.next_cookie;
                                     return some.size() < 7;
                                   }),
              0);
    if (some.empty()) break;
    for (const std::string& name : some) {
      EXPECT_TRUE(seen.insert(name).second);
      EXPECT_EQ(tree_->Unlink({}, directory, name), 0);
    }
  }
  EXPECT_EQ(seen.size(), 100u);
  EXPECT_EQ(tree_->ReadDirectory(directory, 1000, [](const DirectoryEntry&) { return true; }), EINVAL);
}

TEST_F(StagedTreeTest, NamedStreamsAsFilesAndAsAttributes) {
  ErrnoOr<NodeAttributes> made = tree_->MakeNode({}, docs_, "Readme.txt:extra", S_IFREG | 0644, 0);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(made->stream_of, readme_);
  ASSERT_TRUE(tree_->Write({}, made->node, 0, Bytes("stream")).ok());
  ASSERT_TRUE(tree_->Write({}, stream_, 2, Bytes("NOTE")).ok());
  EXPECT_EQ(tree_->MakeNode({}, docs_, "Readme.txt:EXTRA", S_IFREG | 0644, 0).error(), EEXIST);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(Find(docs_, "readme.txt:extra"), made->node);
    EXPECT_EQ(*tree_->GetXattr(readme_, "user.extra"), "stream");
    EXPECT_EQ(*tree_->GetXattr(readme_, "user.note"), "a NOTE");
    EXPECT_EQ(Content(*tree_, stream_), "a NOTE");
    EXPECT_EQ(Content(*tree_, readme_), "read me first");
    EXPECT_THAT(*tree_->ListXattrs(readme_), Contains("user.extra"));
    Reopen();
  }
  EXPECT_EQ(tree_->SetXattr({}, readme_, "user.extra", "set", XATTR_CREATE), EEXIST);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "user.third", "3", XATTR_REPLACE), ENODATA);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "user.extra", "set", 0), 0);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "user.third", "3", 0), 0);
  EXPECT_EQ(Content(*tree_, made->node), "set");
  EXPECT_EQ(tree_->RemoveXattr({}, readme_, "user.note"), 0);
  EXPECT_EQ(tree_->RemoveXattr({}, readme_, "user.note"), ENODATA);
  EXPECT_EQ(tree_->GetAttributes(stream_).error(), ENOENT);
  EXPECT_EQ(tree_->Unlink({}, docs_, "Readme.txt:third"), 0);
  EXPECT_EQ(Find(docs_, "Readme.txt:third"), 0u);
  EXPECT_NE(Make(docs_, "nofile:stream"), 0u) << "without such a file it is a name like others";
  EXPECT_THAT(List(*tree_, docs_), Contains("nofile:stream"));
}

TEST_F(StagedTreeTest, SymbolicLinksReadBackAsGiven) {
  for (const char* target : {"Readme.txt", "../big.bin", "/abs/olute", "a//b", "dir/", "C:\\x", "with:colon", "/"}) {
    ErrnoOr<NodeAttributes> made = tree_->MakeSymlink({}, docs_, "link", target);
    ASSERT_TRUE(made.ok()) << target;
    EXPECT_TRUE(S_ISLNK(made->mode));
    EXPECT_EQ(made->size, strlen(target));
    Reopen();
    EXPECT_EQ(*tree_->ReadLink(made->node), target);
    ASSERT_EQ(tree_->Unlink({}, docs_, "link"), 0);
  }
  EXPECT_EQ(tree_->MakeSymlink({}, docs_, "link", std::string(5000, 'x')).error(), ENAMETOOLONG);
}

TEST_F(StagedTreeTest, WithoutUnixDataTheModeIsTheReadOnlyAttribute) {
  AttributeChanges changes;
  changes.mode = 0400;
  EXPECT_EQ(tree_->SetAttributes({}, readme_, changes)->mode, uint32_t{S_IFREG | 0444});
  EXPECT_EQ(LoadLe32(tree_->GetXattr(readme_, "system.ntfs_attrib")->data()) & 1, 1u);
  std::string attributes;
  AppendLe(uint32_t{0x22}, attributes);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_attrib", attributes, 0), 0);
  EXPECT_EQ(tree_->GetAttributes(readme_)->mode, uint32_t{S_IFREG | 0644});
  changes = {};
  changes.uid = 7;
  EXPECT_EQ(tree_->SetAttributes({}, readme_, changes).error(), EPERM);
  changes.uid = 0;
  EXPECT_TRUE(tree_->SetAttributes({}, readme_, changes).ok());
  EXPECT_EQ(tree_->MakeNode({}, docs_, "ro", S_IFREG | 0444, 0)->mode, uint32_t{S_IFREG | 0444});
}

TEST_F(StagedTreeTest, UnixDataKeepModeOwnerAndDevice) {
  options_.unix_data = true;
  Reopen();
  Request request;
  request.uid = 1000;
  request.gid = 100;
  const NodeId device = tree_->MakeNode(request, docs_, "null", S_IFCHR | 0620, 0x103)->node;
  AttributeChanges changes;
  changes.mode = 04750;
  changes.uid = 5;
  ASSERT_TRUE(tree_->SetAttributes({}, readme_, changes).ok());
  Reopen();
  EXPECT_EQ(tree_->GetAttributes(device)->mode, uint32_t{S_IFCHR | 0620});
  EXPECT_EQ(tree_->GetAttributes(device)->device, 0x103u);
  EXPECT_EQ(tree_->GetAttributes(device)->uid, 1000u);
  EXPECT_EQ(tree_->GetAttributes(readme_)->mode, uint32_t{S_IFREG | 04750});
  EXPECT_EQ(tree_->GetAttributes(readme_)->uid, 5u);
}

TEST_F(StagedTreeTest, TimesHave100Nanoseconds) {
  AttributeChanges changes;
  changes.access_time = timespec{1'700'000'000, 123'456'789};
  changes.modification_time = timespec{-5, 999'999'999};
  ASSERT_TRUE(tree_->SetAttributes({}, docs_, changes).ok());
  Reopen();
  ErrnoOr<NodeAttributes> attributes = tree_->GetAttributes(docs_);
  EXPECT_EQ(attributes->access_time.tv_nsec, 123'456'700);
  EXPECT_EQ(attributes->modification_time.tv_sec, -5);
  EXPECT_EQ(attributes->modification_time.tv_nsec, 999'999'900);
  std::string times;
  for (uint64_t time : {11, 12, 13}) AppendLe(time, times);
  EXPECT_EQ(tree_->SetXattr({}, docs_, "system.ntfs_times", times, 0), 0);
  const std::string got = *tree_->GetXattr(docs_, "system.ntfs_times");
  EXPECT_EQ(got.substr(0, 24), times);
  EXPECT_EQ(tree_->SetXattr({}, docs_, "system.ntfs_times", "short", 0), EINVAL);
}

TEST_F(StagedTreeTest, ShortNames) {
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_dos_name", "README~1.TXT", 0), 0);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_dos_name", "LINKED", 0), EEXIST);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_dos_name", "TOOLONGNAME", 0), EINVAL);
  Reopen();
  EXPECT_EQ(*tree_->GetXattr(readme_, "system.ntfs_dos_name"), "README~1.TXT");
  EXPECT_EQ(Find(docs_, "readme~1.txt"), readme_);
  ASSERT_TRUE(tree_->MakeLink({}, readme_, kRootNode, "second name").ok());
  EXPECT_EQ(*tree_->GetXattr(readme_, "system.ntfs_dos_name"), "README~1.TXT") << "it is still that of the first name";
  EXPECT_EQ(tree_->Rename({}, docs_, "Readme.txt", docs_, "other", 0), 0);
  EXPECT_EQ(Find(docs_, "readme~1.txt"), 0u) << "it belonged to the name";
  EXPECT_EQ(tree_->GetXattr(readme_, "system.ntfs_dos_name").error(), ENODATA);
}

TEST_F(StagedTreeTest, ReparseObjectIdsAndEas) {
  std::string point;
  AppendLe(uint32_t{0x80000017}, point);
  AppendLe(uint32_t{4}, point);
  point += "data";
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_reparse_data", point, 0), 0);
  EXPECT_EQ(tree_->SetXattr({}, docs_, "system.ntfs_reparse_data", point + "x", 0), EINVAL);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_object_id", "0123456789abcdef", 0), 0);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_object_id", "short", 0), EINVAL);
  const std::string ea(
      "\x10\0\0\0\0\x01\x04\0N\0"
      "data\0\0",
      16);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "system.ntfs_ea", ea, 0), 0);
  EXPECT_EQ(tree_->SetXattr({}, readme_, "security.other", "x", 0), EOPNOTSUPP);
  Reopen();
  EXPECT_EQ(*tree_->GetXattr(readme_, "system.ntfs_reparse_data"), point);
  EXPECT_EQ(*tree_->GetXattr(readme_, "system.ntfs_object_id"), "0123456789abcdef");
  EXPECT_EQ(*tree_->GetXattr(readme_, "system.ntfs_ea"), ea);
  EXPECT_EQ(Content(*tree_, readme_), "read me first");
  EXPECT_EQ(tree_->RemoveXattr({}, readme_, "system.ntfs_reparse_data"), 0);
  EXPECT_EQ(tree_->GetXattr(readme_, "system.ntfs_reparse_data").error(), ENODATA);
}

TEST_F(StagedTreeTest, ARequestThatComesAgainIsAnsweredAsBefore) {
  Request request;
  request.id = 42;
  const NodeId file = tree_->MakeNode(request, docs_, "once", S_IFREG | 0644, 0)->node;
  request.id = 43;
  ASSERT_EQ(tree_->Rename(request, docs_, "once", docs_, "twice", 0), 0);
  request.id = 44;
  ASSERT_EQ(tree_->Unlink(request, docs_, "linked"), 0);
  for (int round = 0; round < 2; ++round) {
    request.id = 42;
    ErrnoOr<NodeAttributes> again = tree_->MakeNode(request, docs_, "once", S_IFREG | 0644, 0);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->node, file);
    request.id = 43;
    EXPECT_EQ(tree_->Rename(request, docs_, "once", docs_, "twice", 0), 0);
    request.id = 44;
    EXPECT_EQ(tree_->Unlink(request, docs_, "linked"), 0);
    EXPECT_EQ(Find(docs_, "once"), 0u);
    Reopen(/*resumed=*/true);
  }
  Reopen(/*resumed=*/false);
  request.id = 44;
  EXPECT_EQ(tree_->Unlink(request, docs_, "linked"), ENOENT) << "a new mount counts anew";
}

TEST_F(StagedTreeTest, ACommitTakesWhatWasThereAndLeavesWhatCameAfter) {
  const NodeId file = Make(docs_, "file", "first content");
  const NodeId other = Make(docs_, "other", "other content");
  absl::StatusOr<std::unique_ptr<ImageContents>> contents = tree_->Snapshot();
  ASSERT_TRUE(contents.ok());
  EXPECT_FALSE(tree_->Snapshot().ok());
  ASSERT_TRUE(tree_->Write({}, file, 0, Bytes("LATER")).ok());
  ASSERT_EQ(tree_->Unlink({}, docs_, "Readme.txt"), 0);
  ASSERT_NE(Make(docs_, "after"), 0u);
  std::vector<std::string> names;
  (*contents)->VisitEntries(docs_, [&](const ImageContents::Entry& entry) { names.emplace_back(entry.name); });
  EXPECT_THAT(names, ElementsAre("Readme.txt", "linked", "file", "other"));
  std::string then(13, '\0');
  ASSERT_TRUE((*contents)->ReadStaged(file, 0, 0, absl::MakeSpan(then)).ok());
  EXPECT_EQ(then, "first content");
  EXPECT_EQ((*contents)->staged_bytes(), 26u);
  const ImageContents::File shown = (*contents)->GetFile(file);
  EXPECT_THAT(shown.staged, ElementsAre(true));
  EXPECT_THAT((*contents)->GetFile(readme_).staged, ElementsAre(false, false));

  const BlobHash first = image_.AddBlob("first content");
  const BlobHash second = image_.AddBlob("other content");
  ASSERT_TRUE(tree_->FinishCommit({{file, {first}, {}}, {other, {second}, {}}}).ok());
  EXPECT_TRUE(tree_->has_changes());
  EXPECT_EQ(tree_->GetStats().staged_bytes, 13u + 5 - 5) << "what was written over since stays staged as a whole";
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(Content(*tree_, file), "LATER content");
    EXPECT_EQ(Content(*tree_, other), "other content");
    EXPECT_EQ(Find(docs_, "Readme.txt"), 0u);
    Reopen();
  }
  contents = tree_->Snapshot();
  ASSERT_TRUE(contents.ok());
  EXPECT_THAT((*contents)->GetFile(other).staged, ElementsAre(false));
  EXPECT_EQ((*contents)->GetFile(other).record.streams[0].hash, second);
  ASSERT_TRUE(tree_->FinishCommit({}).ok());
  EXPECT_FALSE(tree_->has_changes());
  Reopen();
  EXPECT_FALSE(tree_->has_changes());
}

TEST_F(StagedTreeTest, CountsWhatChangedSinceTheLastCommit) {
  const auto changed = [this] { return tree_->GetStats().changed_nodes; };
  // Each state is also what the log says, as it was written and written anew.
  const auto expect = [&](uint64_t count, const char* why) {
    EXPECT_EQ(changed(), count) << why;
    Reopen(/*resumed=*/true);
    EXPECT_EQ(changed(), count) << why << ", from the log";
    ASSERT_TRUE(tree_->PrepareMove().ok());
    EXPECT_EQ(changed(), count) << why << ", after a new log was written";
    Reopen(/*resumed=*/true);
    EXPECT_EQ(changed(), count) << why << ", from the new log";
  };
  const auto commit = [&](const std::vector<StoredFile>& stored) {
    ASSERT_TRUE(tree_->Snapshot().ok());
    ASSERT_TRUE(tree_->FinishCommit(stored).ok());
  };
  EXPECT_EQ(changed(), 0u);
  ASSERT_TRUE(tree_->Lookup(docs_, "readme.TXT").ok());
  EXPECT_EQ(Content(*tree_, readme_), "read me first");
  EXPECT_EQ(changed(), 0u) << "looking changes nothing";

  const NodeId made = Make(docs_, "made", "some data");
  ASSERT_TRUE(tree_->Write({}, made, 4, Bytes("more")).ok());
  expect(2, "a file, and the directory that it is in");
  ASSERT_TRUE(tree_->Write({}, stream_, 0, Bytes("A")).ok());
  expect(3, "a stream is its file's");
  ASSERT_EQ(tree_->Unlink({}, kRootNode, "big.bin"), 0);
  expect(5, "a file that is no more, and the root");
  ASSERT_NE(Make(docs_, "temp", "data"), 0u);
  expect(6, "a file for some time");
  ASSERT_EQ(tree_->Unlink({}, docs_, "temp"), 0);
  Reopen();
  expect(5, "which came and went");

  commit({{made, {image_.AddBlob("somemoreata")}, {}}, {readme_, {{}, image_.AddBlob("A note")}, {}}});
  EXPECT_FALSE(tree_->has_changes());
  expect(0, "all is committed");

  ASSERT_EQ(tree_->Rename({}, docs_, "made", docs_, "renamed", 0), 0);
  expect(2, "a file by another name, and its directory");
  ASSERT_EQ(tree_->Unlink({}, docs_, "renamed"), 0);
  Reopen();
  expect(2, "one that the commit had is no more");

  // What changes while a commit is at work is not in it.
  ASSERT_TRUE(tree_->Snapshot().ok());
  ASSERT_TRUE(tree_->Write({}, readme_, 0, Bytes("R")).ok());
  ASSERT_TRUE(tree_->FinishCommit({}).ok());
  EXPECT_TRUE(tree_->has_changes());
  expect(1, "only what came after");
  ASSERT_TRUE(tree_->Snapshot().ok());
  tree_->AbandonCommit();
  expect(1, "nothing was committed");
  commit({{readme_, {image_.AddBlob("Read me first"), {}}, {}}});
  expect(0, "everything is");
}

// The image as a file written anew has it: without the blobs that no image names any more.
class RebuiltImage final : public TestImage {
 public:
  void Forget(const BlobHash& hash) { forgotten_.insert(hash); }
  // Nor does it know how large they were.
  ErrnoOr<FileRecord> GetFileRecord(NodeId node) const override {
    ErrnoOr<FileRecord> record = TestImage::GetFileRecord(node);
    if (!record.ok()) return record;
    for (StreamRecord& stream : record->streams) stream.size = forgotten_.contains(stream.hash) ? 1 : stream.size;
    return record;
  }
  int ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const override {
    return forgotten_.contains(hash) ? EIO : TestImage::ReadBlob(hash, offset, out);
  }

 private:
  std::set<BlobHash> forgotten_;
};

TEST(StagedMoveTest, EditsGoOnOverTheNewBlob) {
  StagingDirectory directory;
  RebuiltImage image;
  const std::string old(100'000, 'o');
  const NodeId file = image.AddFile(kRootNode, "file", old);
  const NodeId cut = image.AddFile(kRootNode, "cut", old + "cut");
  const NodeId removed = image.AddFile(kRootNode, "removed", "still open");
  const BlobHash old_blob = image.GetFileRecord(file)->streams[0].hash;
  const BlobHash cut_blob = image.GetFileRecord(cut)->streams[0].hash;
  const BlobHash held_blob = image.GetFileRecord(removed)->streams[0].hash;
  std::unique_ptr<StagedTree> tree = OpenStaged(directory, image);
  ASSERT_EQ(tree->Open(removed), 0);
  ASSERT_EQ(tree->Unlink({}, kRootNode, "removed"), 0);
  ASSERT_TRUE(tree->Write({}, file, 50'000, Bytes("then")).ok());
  ASSERT_TRUE(tree->Write({}, cut, 10, Bytes("then")).ok());
  std::string then = old, cut_then = old + "cut";
  then.replace(50'000, 4, "then");
  cut_then.replace(10, 4, "then");

  absl::StatusOr<std::unique_ptr<ImageContents>> contents = tree->Snapshot();
  ASSERT_TRUE(contents.ok());
  std::set<BlobHash> held;
  (*contents)->VisitHeldBlobs([&](const BlobHash& hash) { held.insert(hash); });
  EXPECT_EQ(held, std::set<BlobHash>{held_blob});
  // Meanwhile.
  ASSERT_TRUE(tree->Write({}, file, 7, Bytes("meanwhile")).ok());
  AttributeChanges changes;
  changes.size = 20;
  ASSERT_TRUE(tree->SetAttributes({}, cut, changes).ok());
  changes.size = 60;
  ASSERT_TRUE(tree->SetAttributes({}, cut, changes).ok());
  const BlobHash new_blob = image.AddBlob(then), new_cut = image.AddBlob(cut_then);
  const std::vector<StoredFile> stored = {{file, {new_blob}, {}}, {cut, {new_cut}, {}}};
  const std::vector<StagedTree::MovedBlob> moved = tree->MovedBlobs(stored);
  ASSERT_EQ(moved.size(), 2u);
  ASSERT_TRUE(tree->PrepareMove().ok());
  contents->reset();
  // A process that dies here is followed by one that finds the new file.
  StagingDirectory left(directory, 0);

  std::string now = then;
  now.replace(7, 9, "meanwhile");
  const std::string cut_now = cut_then.substr(0, 20) + std::string(40, '\0');
  image.Forget(old_blob);
  image.Forget(cut_blob);
  ASSERT_TRUE(tree->FinishCommit(stored).ok());
  EXPECT_EQ(Content(*tree, file), now);
  EXPECT_EQ(Content(*tree, cut), cut_now);
  EXPECT_EQ(Content(*tree, removed), "still open");
  EXPECT_TRUE(tree->has_changes());
  tree.reset();
  StagedTreeOptions resumed;
  resumed.resumed = true;
  tree = OpenStaged(directory, image, resumed);
  EXPECT_EQ(Content(*tree, file), now);
  EXPECT_EQ(Content(*tree, cut), cut_now);

  std::unique_ptr<StagedTree> next = OpenStaged(left, image, resumed);
  EXPECT_EQ(Content(*next, file), "error 5");
  for (int time = 0; time < 2; ++time) {  // may be done again
    ASSERT_TRUE(next->TakeMovedBlobs(moved).ok());
    EXPECT_EQ(Content(*next, file), now);
    EXPECT_EQ(Content(*next, cut), cut_now);
  }
  next.reset();
  next = OpenStaged(left, image, resumed);
  EXPECT_EQ(Content(*next, file), now);
  EXPECT_EQ(Content(*next, cut), cut_now);
  EXPECT_EQ(Content(*next, removed), "still open");
}

TEST_F(StagedTreeTest, AnAbandonedCommitChangesNothing) {
  const NodeId file = Make(docs_, "file", "content");
  ASSERT_TRUE(tree_->Snapshot().ok());
  ASSERT_TRUE(tree_->Write({}, file, 0, Bytes("CON")).ok());
  tree_->AbandonCommit();
  EXPECT_TRUE(tree_->has_changes());
  EXPECT_EQ(Content(*tree_, file), "CONtent");
  EXPECT_EQ(tree_->Sync(), 0);
  Reopen();
  EXPECT_EQ(Content(*tree_, file), "CONtent");
}

TEST_F(StagedTreeTest, OnlyOneProcessAndOneImage) {
  StagedTreeOptions options;
  EXPECT_EQ(ReasonOf(TryOpenStaged(directory_, image_, options).status()), Reason::kImageInUse);
  tree_.reset();
  options.identity = "another";
  EXPECT_EQ(ReasonOf(TryOpenStaged(directory_, image_, options).status()), Reason::kBadImageFormat);
}

}  // namespace
}  // namespace libmount
