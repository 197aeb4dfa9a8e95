// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: reading what the library wrote.

#include "libmount/ntfs/ntfs_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <wimlib.h>

#include <thread>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/boot_sector.h"
#include "libmount/ntfs/wof.h"
#include "libmount/tree/windows.h"
#include "tests/unit/ntfs_test_util.h"

namespace libmount {
namespace {

using testing::Contains;
using testing::IsSupersetOf;
using testing::UnorderedElementsAre;

constexpr uint64_t kMiB = 1 << 20;

class NtfsTreeTest : public testing::Test {
 protected:
  void Make(uint64_t size = 16 * kMiB, uint32_t sector_size = 512, uint32_t cluster_size = 4096) {
    MakeVolume(path(), size, sector_size, cluster_size);
    filler_ = std::make_unique<VolumeFiller>(path());
  }
  // Ends the filling.
  const NtfsTree& Tree() {
    filler_.reset();
    device_ = std::make_unique<FileDevice>(path());
    absl::StatusOr<std::unique_ptr<NtfsTree>> tree = NtfsTree::Open(device_.get(), {});
    EXPECT_TRUE(tree.ok()) << tree.status();
    if (!tree.ok()) abort();
    tree_ = *std::move(tree);
    return *tree_;
  }
  std::string path() const { return directory_.Path("volume"); }

  TestDirectory directory_;
  std::unique_ptr<VolumeFiller> filler_;
  std::unique_ptr<FileDevice> device_;
  std::unique_ptr<NtfsTree> tree_;
};

TEST_F(NtfsTreeTest, AnEmptyVolumeHasNothingInItsRoot) {
  Make();
  const NtfsTree& tree = Tree();
  EXPECT_THAT(List(tree, kRootNode), testing::IsEmpty());
  ErrnoOr<NodeAttributes> root = tree.GetAttributes(kRootNode);
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(root->node, kRootNode);
  EXPECT_TRUE(S_ISDIR(root->mode));
  EXPECT_EQ(*tree.Parent(kRootNode), kRootNode);
  // The volume's own files are no nodes, by no name and by no id.
  for (const char* name : {"$MFT", "$mft", "$Bitmap", "$Extend", ".", "$Secure:$SDS"}) {
    EXPECT_EQ(tree.Lookup(kRootNode, name).error(), ENOENT) << name;
  }
  for (NodeId node : {NodeId{0}, NodeId{2}, NodeId{5}, NodeId{1} << 32, (NodeId{5} << 32) | 5, NodeId{1} << 40}) {
    EXPECT_EQ(tree.GetAttributes(node).error(), ENOENT) << node;
  }
  EXPECT_GT(tree.FileSystemStats().f_bfree, 0u);
}

TEST_F(NtfsTreeTest, ReadsFilesOfAllSizes) {
  Make();
  std::map<std::string, std::string> contents;
  for (size_t size : {0, 1, 100, 700, 1023, 4095, 4096, 4097, 65536, 100'000, 3'000'000}) {
    const std::string name = "/file" + std::to_string(size);
    contents[name] = RandomBytes(size, static_cast<uint32_t>(size));
    filler_->MakeFile(name, contents[name]);
  }
  const NtfsTree& tree = Tree();
  for (const auto& [name, content] : contents) {
    const NodeId node = Find(tree, name);
    ASSERT_NE(node, 0u) << name;
    EXPECT_EQ(tree.GetAttributes(node)->size, content.size());
    EXPECT_TRUE(ReadAll(tree, node) == content) << name;
    EXPECT_TRUE(ReadAll(tree, node, 1000) == content) << name;
    EXPECT_TRUE(RunCommand("ntfscat -f '" + path() + "' '" + name + "'") == content) << name;
  }
  std::string past(10, '\0');
  EXPECT_EQ(*tree.Read(Find(tree, "/file100"), 100, absl::MakeSpan(past)), 0u);
  EXPECT_EQ(tree.Read(kRootNode, 0, absl::MakeSpan(past)).error(), EISDIR);
}

TEST_F(NtfsTreeTest, AllSectorAndClusterSizes) {
  for (uint32_t sector : {512u, 1024u, 2048u, 4096u}) {
    for (uint32_t cluster : {512u, 1024u, 2048u, 4096u, 16384u, 65536u}) {
      if (cluster < sector) continue;
      SCOPED_TRACE(testing::Message() << sector << " " << cluster);
      Make(16 * kMiB, sector, cluster);
      const std::string content = RandomBytes(200'001, cluster);
      filler_->MakeDirectory("/directory");
      for (int i = 0; i < 60; ++i) filler_->MakeFile("/directory/file with a long name " + std::to_string(i), "x");
      filler_->MakeFile("/directory/large", content);
      const NtfsTree& tree = Tree();
      EXPECT_TRUE(ReadAll(tree, Find(tree, "/directory/large")) == content);
      EXPECT_EQ(List(tree, Find(tree, "/directory")).size(), 61u);
      for (int i = 0; i < 60; ++i) {
        EXPECT_NE(Find(tree, "/directory/file with a long name " + std::to_string(i)), 0u) << i;
      }
    }
  }
}

TEST_F(NtfsTreeTest, LargeDirectoriesAreListedInPiecesAndSearched) {
  Make(32 * kMiB);
  constexpr int kFiles = 3000;
  filler_->MakeDirectory("/many");
  for (int i = 0; i < kFiles; ++i) filler_->MakeFile("/many/Name" + std::to_string(i * 7919 % kFiles));
  const NtfsTree& tree = Tree();
  const NodeId many = Find(tree, "/many");
  std::map<std::string, NodeId> seen;
  uint64_t cookie = 0;
  for (bool more = true; more;) {
    more = false;
    ASSERT_EQ(tree.ReadDirectory(many, cookie,
                                 [&](const DirectoryEntry& entry) {
                                   EXPECT_TRUE(seen.emplace(std::string(entry.name), entry.attributes.node).second);
                                   EXPECT_GT(entry.next_cookie, cookie);
                                   cookie = entry.next_cookie;
                                   more = seen.size() % 100 == 0;
                                   return !more;
                                 }),
              0);
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kFiles));
  for (const auto& [name, node] : seen) {
    ErrnoOr<LookupResult> exact = tree.Lookup(many, name);
    ASSERT_TRUE(exact.ok()) << name;
    EXPECT_TRUE(exact->exact);
    EXPECT_EQ(exact->attributes.node, node);
    ErrnoOr<LookupResult> folded = tree.Lookup(many, "nAME" + name.substr(4));
    ASSERT_TRUE(folded.ok()) << name;
    EXPECT_FALSE(folded->exact);
    EXPECT_EQ(folded->attributes.node, node);
  }
  EXPECT_EQ(tree.Lookup(many, "Name3000").error(), ENOENT);
  EXPECT_EQ(*tree.Parent(many), kRootNode);
}

TEST_F(NtfsTreeTest, NamesAreFoundExactlyThenByCaseThenByTheirShortForm) {
  Make();
  filler_->MakeFile("/Readme.txt", "upper");
  filler_->MakeFile("/readme.txt", "lower");
  filler_->MakeFile("/A long name.text", "long");
  filler_->MakeFile("/\xc3\x84rger \xf0\x9f\x98\x80", "wide");
  filler_->MakeFile("/\xed\xa0\x80lone", "lone");
  filler_->SetShortName("/A long name.text", "ALONGN~1.TEX");
  const NtfsTree& tree = Tree();
  EXPECT_EQ(ReadAll(tree, Find(tree, "/Readme.txt")), "upper");
  EXPECT_EQ(ReadAll(tree, Find(tree, "/readme.txt")), "lower");
  EXPECT_NE(Find(tree, "/README.TXT"), 0u);
  EXPECT_EQ(ReadAll(tree, Find(tree, "/ALONGN~1.TEX")), "long");
  EXPECT_FALSE(tree.Lookup(kRootNode, "ALONGN~1.TEX")->exact);
  EXPECT_EQ(*tree.GetXattr(Find(tree, "/A long name.text"), "system.ntfs_dos_name"), "ALONGN~1.TEX");
  EXPECT_EQ(tree.GetAttributes(Find(tree, "/A long name.text"))->link_count, 1u);
  EXPECT_THAT(List(tree, kRootNode), testing::Not(Contains("ALONGN~1.TEX")));
  EXPECT_EQ(ReadAll(tree, Find(tree, "/\xc3\xa4RGER \xf0\x9f\x98\x80")), "wide");
  EXPECT_EQ(ReadAll(tree, Find(tree, "/\xed\xa0\x80lone")), "lone");
  EXPECT_THAT(List(tree, kRootNode), IsSupersetOf({"\xed\xa0\x80lone", "\xc3\x84rger \xf0\x9f\x98\x80"}));
  EXPECT_EQ(tree.Lookup(kRootNode, std::string(2000, 'a')).error(), ENAMETOOLONG);
  EXPECT_EQ(tree.Lookup(kRootNode, std::string(256, 'a')).error(), ENAMETOOLONG);
  EXPECT_EQ(tree.Lookup(kRootNode, std::string(255, 'a')).error(), ENOENT);
  EXPECT_EQ(tree.Lookup(Find(tree, "/readme.txt"), "x").error(), ENOTDIR);
}

TEST_F(NtfsTreeTest, HardLinksAreOneNode) {
  Make();
  filler_->MakeDirectory("/d");
  filler_->MakeFile("/one", "content");
  filler_->MakeLink("/one", "/d/two");
  const NtfsTree& tree = Tree();
  EXPECT_EQ(Find(tree, "/one"), Find(tree, "/d/two"));
  EXPECT_EQ(tree.GetAttributes(Find(tree, "/one"))->link_count, 2u);
}

TEST_F(NtfsTreeTest, NamedStreamsAreNodesAndAttributes) {
  Make();
  filler_->MakeFile("/file", "main");
  filler_->WriteStream("/file", "first", "1st");
  const std::string large = RandomBytes(100'000, 7);
  filler_->WriteStream("/file", "Large", large);
  filler_->MakeDirectory("/d");
  filler_->WriteStream("/d", "of directory", "x");
  const NtfsTree& tree = Tree();
  const NodeId file = Find(tree, "/file");
  const NodeId stream = Find(tree, "/file:first");
  ASSERT_NE(stream, 0u);
  EXPECT_NE(stream, file);
  EXPECT_EQ(tree.GetAttributes(stream)->stream_of, file);
  EXPECT_EQ(ReadAll(tree, stream), "1st");
  EXPECT_TRUE(ReadAll(tree, Find(tree, "/file:LARGE:$data")) == large);
  EXPECT_EQ(Find(tree, "/file::$DATA"), file);
  EXPECT_EQ(ReadAll(tree, file), "main");
  EXPECT_EQ(*tree.GetXattr(file, "user.first"), "1st");
  EXPECT_EQ(tree.GetXattr(file, "user.Large").error(), E2BIG);
  EXPECT_EQ(tree.GetXattr(file, "user.none").error(), ENODATA);
  EXPECT_EQ(*tree.GetXattr(Find(tree, "/d"), "user.of directory"), "x");
  EXPECT_THAT(*tree.ListXattrs(file), Contains("user.first"));
  EXPECT_THAT(*tree.ListXattrs(file), testing::Not(Contains("user.Large")));
  EXPECT_EQ(ReadAll(tree, Find(tree, "/d:of directory")), "x");
  std::string out(1, '\0');
  EXPECT_EQ(tree.Read(Find(tree, "/d"), 0, absl::MakeSpan(out)).error(), EISDIR);
}

TEST_F(NtfsTreeTest, SparseAndCompressedFiles) {
  Make(32 * kMiB);
  filler_->MakeFile("/sparse");
  filler_->WriteStream("/sparse", "", "begin");
  filler_->WriteStream("/sparse", "", "end", 10 * kMiB);
  std::string text;
  for (int i = 0; text.size() < 1'000'000; ++i) text += "line " + std::to_string(i % 97) + "\n";
  // The library compresses what is made in a directory that says so.
  filler_->MakeDirectory("/packed");
  filler_->Change("/packed", [](ntfs_inode* inode, ntfs_inode*) {
    const uint32_t attributes = kAttributeCompressed;
    ASSERT_EQ(ntfs_set_ntfs_attrib(inode, reinterpret_cast<const char*>(&attributes), sizeof(attributes), 0), 0);
  });
  filler_->MakeFile("/packed/file", text);
  const NtfsTree& tree = Tree();
  const NodeId sparse = Find(tree, "/sparse");
  std::string expected = "begin" + std::string(10 * kMiB - 5, '\0') + "end";
  EXPECT_TRUE(ReadAll(tree, sparse) == expected);
  EXPECT_LT(tree.GetAttributes(sparse)->allocated, kMiB);
  const NodeId compressed = Find(tree, "/packed/file");
  EXPECT_TRUE(ReadAll(tree, compressed) == text);
  EXPECT_LT(tree.GetAttributes(compressed)->allocated, text.size());
  std::string some(1000, '\0');
  EXPECT_EQ(*tree.Read(compressed, 777'777, absl::MakeSpan(some)), 1000u);
  EXPECT_EQ(some, text.substr(777'777, 1000));
}

// What lies behind the initialized size is not the file's.
TEST_F(NtfsTreeTest, BytesBehindTheInitializedSizeAreZero) {
  Make();
  filler_->MakeFile("/file", std::string(100'000, 'x'));
  filler_->Change("/file", [](ntfs_inode* inode, ntfs_inode*) {
    ntfs_attr_search_ctx* context = ntfs_attr_get_search_ctx(inode, nullptr);
    ASSERT_EQ(ntfs_attr_lookup(AT_DATA, AT_UNNAMED, 0, CASE_SENSITIVE, 0, nullptr, 0, context), 0);
    context->attr->initialized_size = cpu_to_sle64(50'000);
    ntfs_inode_mark_dirty(context->ntfs_ino);
    ntfs_attr_put_search_ctx(context);
  });
  const NtfsTree& tree = Tree();
  EXPECT_TRUE(ReadAll(tree, Find(tree, "/file")) == std::string(50'000, 'x') + std::string(50'000, '\0'));
}

TEST_F(NtfsTreeTest, LinksStayInTheVolume) {
  Make();
  filler_->MakeDirectory("/Dir");
  filler_->MakeDirectory("/Dir/Sub");
  filler_->MakeFile("/Dir/Target.txt", "target");
  struct Link {
    const char* path;
    uint32_t tag;
    std::string data;
    const char* text;
    bool directory = false;
  };
  const Link links[] = {
      {"/Dir/Sub/up", kReparseSymlink, SymlinkData("..\\TARGET.TXT", true), "../Target.txt"},
      {"/Dir/Sub/absolute", kReparseSymlink, SymlinkData("\\??\\C:\\dir\\target.txt", false), "../Target.txt"},
      {"/escape", kReparseSymlink, SymlinkData("..\\..\\..\\Dir", true), "Dir"},
      {"/share", kReparseSymlink, SymlinkData("\\??\\UNC\\server\\share", false), "\\??\\UNC\\server\\share"},
      {"/junction", kReparseMountPoint, JunctionData("\\??\\C:\\Dir\\Sub"), "Dir/Sub", true},
      {"/wsl", kReparseLxSymlink, std::string("\2\0\0\0/Dir/nothing", 16), "Dir/nothing"},
  };
  for (const Link& link : links) {
    link.directory ? filler_->MakeDirectory(link.path) : filler_->MakeFile(link.path);
    filler_->SetReparsePoint(link.path, link.tag, link.data);
  }
  const NtfsTree& tree = Tree();
  for (const Link& link : links) {
    const NodeId node = Find(tree, link.path);
    ASSERT_NE(node, 0u) << link.path;
    ErrnoOr<std::string> target = tree.ReadLink(node);
    ASSERT_TRUE(target.ok()) << link.path;
    EXPECT_EQ(*target, link.text);
    const NodeAttributes attributes = *tree.GetAttributes(node);
    EXPECT_TRUE(S_ISLNK(attributes.mode));
    EXPECT_EQ(attributes.size, target->size());
    EXPECT_EQ(LoadLe32(tree.GetXattr(node, "system.ntfs_reparse_data")->data()), link.tag);
  }
  EXPECT_EQ(tree.ReadLink(kRootNode).error(), EINVAL);
}

TEST_F(NtfsTreeTest, ExtendedAttributesOfNtfs) {
  Make();
  filler_->MakeFile("/file", "x");
  filler_->Change("/file", [&](ntfs_inode* inode, ntfs_inode*) {
    const uint32_t attributes = kAttributeReadOnly | kAttributeArchive | 2;
    ASSERT_EQ(ntfs_set_ntfs_attrib(inode, reinterpret_cast<const char*>(&attributes), sizeof(attributes), 0), 0);
    const uint64_t times[] = {130000000000000001, 130000000000000002, 130000000000000003};
    ASSERT_EQ(ntfs_inode_set_times(inode, reinterpret_cast<const char*>(times), sizeof(times), 0), 0);
    const std::string ea("\x10\0\0\0\0\3\4\0NAM\0VALU", 16);
    ASSERT_EQ(ntfs_set_ntfs_ea(inode, ea.data(), ea.size(), 0), 0) << strerror(errno);
    ASSERT_EQ(ntfs_set_ntfs_object_id(inode, "0123456789abcdef", 16, 0), 0) << strerror(errno);
  });
  const NtfsTree& tree = Tree();
  const NodeId file = Find(tree, "/file");
  EXPECT_EQ(LoadLe32(tree.GetXattr(file, "system.ntfs_attrib")->data()), kAttributeReadOnly | kAttributeArchive | 2);
  EXPECT_EQ(tree.GetAttributes(file)->mode & 0777, 0444u);
  const std::string times = *tree.GetXattr(file, "system.ntfs_times");
  ASSERT_EQ(times.size(), 32u);
  EXPECT_EQ(LoadLe64(&times[0]), 130000000000000001u);
  EXPECT_EQ(LoadLe64(&times[8]), 130000000000000002u);
  EXPECT_EQ(LoadLe64(&times[16]), 130000000000000003u);
  EXPECT_EQ(*tree.GetXattr(file, "system.ntfs_crtime"), times.substr(0, 8));
  EXPECT_EQ(tree.GetAttributes(file)->modification_time.tv_nsec % 1000, 200);
  EXPECT_EQ(tree.GetXattr(file, "system.ntfs_ea")->substr(8, 8), std::string("NAM\0VALU", 8));
  EXPECT_EQ(tree.GetXattr(file, "system.ntfs_object_id")->substr(0, 16), "0123456789abcdef");
  const std::vector<std::string> names = *tree.ListXattrs(file);
  EXPECT_THAT(names, IsSupersetOf({"system.ntfs_attrib", "system.ntfs_times", "system.ntfs_crtime", "system.ntfs_ea",
                                   "system.ntfs_object_id"}));
  for (const std::string& name : names) EXPECT_TRUE(tree.GetXattr(file, name).ok()) << name;
  EXPECT_FALSE(tree.GetXattr(kRootNode, "system.ntfs_acl")->empty());
  EXPECT_EQ(tree.GetXattr(file, "security.selinux").error(), ENODATA);
}

// As the format is described: a table of places, then chunks, compressed where that makes them smaller.
std::string WofStream(const std::string& content, wimlib_compression_type type, uint32_t chunk_size) {
  wimlib_compressor* compressor = nullptr;
  EXPECT_EQ(wimlib_create_compressor(type, chunk_size, 0, &compressor), 0);
  std::string table;
  std::string chunks;
  std::string buffer(chunk_size, '\0');
  for (size_t at = 0; at < content.size(); at += chunk_size) {
    if (at > 0) AppendLe(static_cast<uint32_t>(chunks.size()), table);
    const size_t size = std::min<size_t>(chunk_size, content.size() - at);
    const size_t packed = wimlib_compress(content.data() + at, size, buffer.data(), size - 1, compressor);
    chunks += packed == 0 ? content.substr(at, size) : buffer.substr(0, packed);
  }
  wimlib_free_compressor(compressor);
  return table + chunks;
}

TEST_F(NtfsTreeTest, FilesOfTheWindowsOverlayFilter) {
  Make(32 * kMiB);
  struct Kind {
    uint32_t algorithm;
    wimlib_compression_type type;
    uint32_t chunk_size;
  };
  const Kind kinds[] = {{kWofXpress4k, WIMLIB_COMPRESSION_TYPE_XPRESS, 4096},
                        {kWofLzx, WIMLIB_COMPRESSION_TYPE_LZX, 32768},
                        {kWofXpress8k, WIMLIB_COMPRESSION_TYPE_XPRESS, 8192},
                        {kWofXpress16k, WIMLIB_COMPRESSION_TYPE_XPRESS, 16384}};
  std::map<std::string, std::string> contents;
  for (const Kind& kind : kinds) {
    for (size_t size : {1u, kind.chunk_size - 1, kind.chunk_size, kind.chunk_size + 1, 500'000u}) {
      std::string text;
      for (uint64_t i = 0; text.size() < size; ++i) text += "word" + std::to_string(i * i % 1013) + " ";
      text.resize(size);
      // A stretch that does not become smaller.
      if (size > 200'000) text.replace(100'000, 70'000, RandomBytes(70'000, 3));
      const std::string name = "/wof" + std::to_string(kind.algorithm) + "-" + std::to_string(size);
      contents[name] = text;
      filler_->MakeFile(name);
      filler_->Resize(name, size);
      filler_->WriteStream(name, std::string(kWofStreamName), WofStream(text, kind.type, kind.chunk_size));
      std::string data;
      for (uint32_t value : {1u, 2u, 1u, kind.algorithm}) AppendLe(value, data);
      filler_->SetReparsePoint(name, kReparseWof, data);
    }
  }
  const NtfsTree& tree = Tree();
  for (const auto& [name, content] : contents) {
    SCOPED_TRACE(name);
    const NodeId node = Find(tree, name);
    const NodeAttributes attributes = *tree.GetAttributes(node);
    EXPECT_TRUE(S_ISREG(attributes.mode));
    EXPECT_EQ(attributes.size, content.size());
    EXPECT_TRUE(ReadAll(tree, node) == content);
    EXPECT_TRUE(ReadAll(tree, node, 3001) == content);
    // As Windows shows it: nothing of how it is kept.
    EXPECT_EQ(Find(tree, name + ":WofCompressedData"), 0u);
    EXPECT_EQ(tree.GetXattr(node, "system.ntfs_reparse_data").error(), ENODATA);
    EXPECT_EQ(LoadLe32(tree.GetXattr(node, "system.ntfs_attrib")->data()) & kAttributeReparsePoint, 0u);
    EXPECT_THAT(*tree.ListXattrs(node), testing::Not(Contains("user.WofCompressedData")));
  }
}

TEST_F(NtfsTreeTest, DamagedWofDataIsReportedOnceAndGivesEio) {
  Make();
  class Observer : public TreeObserver {
   public:
    void OnDamage(std::string_view path, std::string_view) override { paths.emplace_back(path); }
    void OnImageChanged(std::string_view) override {}
    std::vector<std::string> paths;
  } observer;
  filler_->MakeDirectory("/d");
  filler_->MakeFile("/d/file");
  filler_->Resize("/d/file", 100'000);
  filler_->WriteStream("/d/file", std::string(kWofStreamName), RandomBytes(500, 1));
  std::string data;
  for (uint32_t value : {1u, 2u, 1u, kWofLzx}) AppendLe(value, data);
  filler_->SetReparsePoint("/d/file", kReparseWof, data);
  filler_.reset();
  FileDevice device(path());
  NtfsTreeOptions options;
  options.observer = &observer;
  absl::StatusOr<std::unique_ptr<NtfsTree>> tree = NtfsTree::Open(&device, options);
  ASSERT_TRUE(tree.ok());
  const NodeId node = Find(**tree, "/d/file");
  std::string out(1000, '\0');
  EXPECT_EQ((*tree)->Read(node, 0, absl::MakeSpan(out)).error(), EIO);
  EXPECT_EQ((*tree)->Read(node, 50'000, absl::MakeSpan(out)).error(), EIO);
  EXPECT_THAT(observer.paths, UnorderedElementsAre("/d/file"));
  EXPECT_EQ((*tree)->GetStats().damaged_files, 1u);
}

TEST_F(NtfsTreeTest, ManyThreadsReadAtOnce) {
  Make(64 * kMiB);
  std::vector<std::string> contents;
  for (int i = 0; i < 20; ++i) {
    contents.push_back(RandomBytes(50'000 * (i % 5) + 300, static_cast<uint32_t>(i)));
    filler_->MakeFile("/f" + std::to_string(i), contents.back());
  }
  const NtfsTree& tree = Tree();
  tree_->SetCacheBudget(4096);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const int file = (i * 7 + t) % 20;
        if (ReadAll(tree, Find(tree, "/f" + std::to_string(file)), 30'000) != contents[static_cast<size_t>(file)])
          ++wrong;
        if (List(tree, kRootNode).size() != 20) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(NtfsTreeTest, NothingCanBeChangedAndNothingIsWritten) {
  Make();
  filler_->MakeFile("/file", "x");
  filler_.reset();
  const std::string before = Sha1(RunCommand("cat '" + path() + "'"));
  {
    NtfsTree& tree = const_cast<NtfsTree&>(Tree());
    EXPECT_TRUE(tree.read_only());
    EXPECT_EQ(tree.MakeDirectory({}, kRootNode, "d", 0755).error(), EROFS);
    EXPECT_EQ(tree.Unlink({}, kRootNode, "file"), EROFS);
    EXPECT_EQ(tree.Write({}, Find(tree, "/file"), 0, "y").error(), EROFS);
    EXPECT_EQ(tree.SetXattr({}, Find(tree, "/file"), "user.x", "y", 0), EROFS);
    Walk(tree);
    tree_.reset();
  }
  EXPECT_EQ(Sha1(RunCommand("cat '" + path() + "'")), before);
}

TEST_F(NtfsTreeTest, OtherVolumesAreRefusedForTheirReason) {
  struct Case {
    size_t at;
    std::string_view bytes;
    Reason reason;
    const char* text;
  };
  const Case cases[] = {
      {3, "-FVE-FS-", Reason::kEncryptedVolume, "BitLocker"},
      {3, std::string_view("ReFS\0\0\0\0", 8), Reason::kRefsVolume, "ReFS"},
      {3, "EXFAT   ", Reason::kUnsupportedVolume, "exFAT"},
      {0x52, "FAT32   ", Reason::kUnsupportedVolume, "FAT"},
      {3, "ANYTHING", Reason::kUnsupportedVolume, "no NTFS"},
  };
  for (const Case& test : cases) {
    std::string disk(kMiB, '\0');
    disk.replace(test.at, test.bytes.size(), test.bytes);
    UniqueFd fd(open(path().c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    ASSERT_EQ(write(fd.get(), disk.data(), disk.size()), static_cast<ssize_t>(disk.size()));
    FileDevice device(path());
    const absl::Status status = NtfsTree::Open(&device, {}).status();
    EXPECT_EQ(ReasonOf(status), test.reason) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(test.text));
  }
}

TEST_F(NtfsTreeTest, ABootSectorWithWrongNumbersIsRefused) {
  Make();
  filler_.reset();
  std::string boot = RunCommand("head -c 512 '" + path() + "'");
  ASSERT_TRUE(ParseBootSector(boot, 16 * kMiB).ok());
  EXPECT_FALSE(ParseBootSector(boot, 8 * kMiB).ok());
  for (const auto& [at, byte] : std::vector<std::pair<size_t, int>>{
           {0xc, 0x80}, {0xc, 0x00}, {0xd, 3}, {0xd, 0xc0}, {0x34, 1}, {0x40, 0}, {0x40, 0x80}, {0x44, 0x81}}) {
    std::string changed = boot;
    changed[at] = static_cast<char>(byte);
    EXPECT_EQ(ReasonOf(ParseBootSector(changed, 16 * kMiB).status()), Reason::kBadImageFormat) << at << " " << byte;
  }
}

}  // namespace
}  // namespace libmount
