// SPDX-License-Identifier: GPL-3.0-or-later
//
// Trees over whole WIMs: some made by wimlib of a directory, some by hand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wimlib.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/image_metadata.h"
#include "tests/unit/wim_format_test_util.h"
#include "tests/unit/wim_metadata_builder.h"

namespace libmount {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsSupersetOf;
using testing::Not;

// Content that compresses to about a half, and is different for each seed.
std::string Content(size_t size, uint32_t seed) {
  std::string content;
  content.reserve(size);
  while (content.size() < size) {
    seed = seed * 1664525 + 1013904223;
    content += std::to_string(seed >> 16) + (seed & 0x100 ? " and so on and so forth " : "\n");
  }
  content.resize(size);
  return content;
}

// A directory with files of many sizes, hard links and symbolic links.
void FillDirectory(const std::string& root) {
  std::filesystem::create_directories(root + "/dir/sub/empty");
  WriteFile(root + "/empty file", "");
  const size_t sizes[] = {1, 100, 4096, 32767, 32768, 32769, 100'000, 1'000'000};
  for (size_t size : sizes)
    WriteFile(root + "/dir/" + std::to_string(size), Content(size, static_cast<uint32_t>(size)));
  for (uint32_t i = 0; i < 50; ++i) WriteFile(root + "/dir/sub/small" + std::to_string(i), Content(300 + i, i));
  ASSERT_EQ(link((root + "/dir/4096").c_str(), (root + "/dir/sub/hard link").c_str()), 0);
  ASSERT_EQ(symlink("../4096", (root + "/dir/sub/relative").c_str()), 0);
  ASSERT_EQ(symlink("/dir/sub", (root + "/dir/absolute").c_str()), 0);
  ASSERT_EQ(symlink("../../../../../dir/nowhere", (root + "/dir/beyond").c_str()), 0);
  ASSERT_EQ(symlink("/", (root + "/dir/to root").c_str()), 0);
  ASSERT_EQ(mkfifo((root + "/dir/fifo").c_str(), 0600), 0);
  ASSERT_EQ(chmod((root + "/dir/100").c_str(), 04711), 0);
}

struct Making {
  const char* name;
  WimMaking making;
};

class WimTreeOf : public testing::TestWithParam<Making> {};

TEST_P(WimTreeOf, ACapturedDirectoryIsWhatWimlibSays) {
  TempDirectory directory;
  FillDirectory(directory.Path("root"));
  const std::string wim = directory.Path("test.wim");
  MakeWim(directory.Path("root"), wim, GetParam().making);
  EXPECT_GT(CompareWithWimlib(wim, 1), 60u);
  NullMonitor monitor;
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(wim);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->CheckIntegrity(monitor).ok());
  EXPECT_EQ((*file)->has_integrity_table(), (GetParam().making.write_flags & WIMLIB_WRITE_FLAG_CHECK_INTEGRITY) != 0);
  EXPECT_EQ((*file)->is_pipable(), (GetParam().making.write_flags & WIMLIB_WRITE_FLAG_PIPABLE) != 0);
  EXPECT_EQ((*file)->is_solid(), (GetParam().making.write_flags & WIMLIB_WRITE_FLAG_SOLID) != 0);
}

constexpr int kUnix = WIMLIB_ADD_FLAG_UNIX_DATA;
INSTANTIATE_TEST_SUITE_P(
    All, WimTreeOf,
    testing::Values(Making{"none", {WIMLIB_COMPRESSION_TYPE_NONE}},
                    Making{"xpress", {WIMLIB_COMPRESSION_TYPE_XPRESS, 0, kUnix, WIMLIB_WRITE_FLAG_CHECK_INTEGRITY}},
                    Making{"xpress4k", {WIMLIB_COMPRESSION_TYPE_XPRESS, 4096}},
                    Making{"lzx", {WIMLIB_COMPRESSION_TYPE_LZX, 0, kUnix}},
                    Making{"lzx256k", {WIMLIB_COMPRESSION_TYPE_LZX, 1 << 18}},
                    Making{"lzms", {WIMLIB_COMPRESSION_TYPE_LZMS}},
                    Making{"solid", {WIMLIB_COMPRESSION_TYPE_LZMS, 0, kUnix, WIMLIB_WRITE_FLAG_SOLID}},
                    Making{"pipable", {WIMLIB_COMPRESSION_TYPE_XPRESS, 0, kUnix, WIMLIB_WRITE_FLAG_PIPABLE}}),
    [](const auto& info) { return info.param.name; });

TEST(WimTreeSplit, PartsAreFoundBesideTheFirst) {
  TempDirectory directory;
  FillDirectory(directory.Path("root"));
  MakeWim(directory.Path("root"), directory.Path("test.wim"));
  WIMStruct* wim = nullptr;
  ASSERT_EQ(wimlib_open_wim(directory.Path("test.wim").c_str(), 0, &wim), 0);
  EXPECT_EQ(wimlib_split(wim, directory.Path("set.swm").c_str(), 200'000, WIMLIB_WRITE_FLAG_CHECK_INTEGRITY), 0);
  wimlib_free(wim);
  ASSERT_TRUE(std::filesystem::exists(directory.Path("set3.swm")));
  EXPECT_GT(CompareWithWimlib(directory.Path("set.swm"), 1), 60u);
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(directory.Path("set.swm"));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->is_split());
  NullMonitor monitor;
  EXPECT_TRUE((*file)->CheckIntegrity(monitor).ok());
  // A part whose contents are not the set's any more is found by its own table.
  std::string part = ReadFile(directory.Path("set2.swm"));
  part[300] ^= 1;
  WriteFile(directory.Path("set2.swm"), part);
  file = OpenWimFile(directory.Path("set.swm"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(ReasonOf((*file)->CheckIntegrity(monitor)), Reason::kIntegrityCheckFailed);
}

TEST(WimTreeLinks, LeadToTheSamePlaceInsideTheImage) {
  TempDirectory directory;
  FillDirectory(directory.Path("root"));
  MakeWim(directory.Path("root"), directory.Path("test.wim"));
  absl::StatusOr<std::unique_ptr<WimTree>> opened = OpenWimTree(directory.Path("test.wim"));
  ASSERT_TRUE(opened.ok());
  const WimTree& tree = **opened;
  auto target = [&](const char* path) {
    const NodeId node = FindPath(tree, path);
    ErrnoOr<std::string> link = tree.ReadLink(node);
    EXPECT_TRUE(link.ok()) << path;
    if (!link.ok()) return std::string();
    EXPECT_EQ(tree.GetAttributes(node)->size, link->size());
    return *link;
  };
  EXPECT_EQ(target("dir/sub/relative"), "../4096");
  EXPECT_EQ(target("dir/absolute"), "sub");
  EXPECT_EQ(target("dir/beyond"), "nowhere");
  EXPECT_EQ(target("dir/to root"), "..");
  EXPECT_EQ(tree.ReadLink(FindPath(tree, "dir")).error(), EINVAL);
  char nothing[1];
  EXPECT_EQ(tree.Read(FindPath(tree, "dir"), 0, absl::MakeSpan(nothing)).error(), EISDIR);
}

// A WIM by hand, opened from a file in a directory of its own.
class HandMade {
 public:
  HandMade(const WimBuilder& wim, const MetadataBuilder& metadata, const WimTreeOptions& options = {}) {
    WriteFile(path(), wim.Build(metadata));
    absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(path(), 1, options);
    EXPECT_TRUE(tree.ok()) << tree.status();
    if (tree.ok()) tree_ = *std::move(tree);
  }
  const WimTree& operator*() const { return *tree_; }
  const WimTree* operator->() const { return tree_.get(); }
  std::string path() const { return directory_.Path("hand.wim"); }

 private:
  TempDirectory directory_;
  std::unique_ptr<WimTree> tree_;
};

DentryFields File(std::u16string name, const Sha1Digest& hash = {}) {
  DentryFields fields;
  fields.name = std::move(name);
  fields.hash = hash;
  return fields;
}

std::string Utf16(std::u16string_view units) {
  std::string bytes;
  for (char16_t unit : units) AppendLe(static_cast<uint16_t>(unit), bytes);
  return bytes;
}

DentryFields Junction(std::u16string name, std::u16string_view target, WimBuilder& wim) {
  std::string data;
  for (uint16_t value : {size_t{0}, 2 * target.size(), 2 * target.size(), size_t{0}}) AppendLe(value, data);
  DentryFields fields = File(std::move(name));
  fields.attributes = kAttributeDirectory | kAttributeReparsePoint;
  fields.hard_link_group = kReparseMountPoint;
  fields.streams = {{u"", wim.AddBlob(data + Utf16(target))}};
  return fields;
}

// Enough of them for their blobs to be looked up by two threads.
TEST(WimTreeBlobs, EachOfManyFilesFindsItsOwn) {
  constexpr size_t kFiles = 20'000;
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  auto name_of = [](size_t i) { return "file " + std::to_string(i); };
  for (size_t i = 0; i < kFiles; ++i) {
    const std::string name = name_of(i);
    Sha1Digest hash = {};  // every third is empty, every seventh of a hash that no table lists
    if (i % 7 == 0) {
      memcpy(hash.data(), name.data(), name.size());
    } else if (i % 3 != 0) {
      hash = wim.AddBlob(name);
    }
    metadata.Add(File(std::u16string(name.begin(), name.end()), hash));
  }
  metadata.End();
  HandMade tree(wim, metadata);
  for (size_t i = 0; i < kFiles; ++i) {
    const std::string name = name_of(i);
    const NodeId node = FindPath(*tree, name);
    std::string data(64, '\0');
    ErrnoOr<size_t> size = tree->Read(node, 0, absl::MakeSpan(data));
    if (i % 7 == 0) {
      EXPECT_EQ(size.error(), EIO) << name;
      continue;
    }
    ASSERT_TRUE(size.ok()) << name;
    EXPECT_EQ(data.substr(0, *size), i % 3 == 0 ? "" : name);
  }
}

TEST(WimTreeLinks, JunctionsTakeTheCaseOfTheImage) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  DentryFields directory = File(u"ProgramData");
  directory.attributes = kAttributeDirectory;
  metadata.Add(directory);
  metadata.Add(Junction(u"All Users", u"\\??\\C:\\PROGRAMDATA\\..\\programdata\\missing", wim));
  metadata.Add(Junction(u"volume", u"\\??\\Volume{1234}\\x", wim));
  metadata.Add(Junction(u"self", u"\\??\\C:\\self", wim));
  metadata.End();
  HandMade tree(wim, metadata);
  EXPECT_EQ(*tree->ReadLink(FindPath(*tree, "All Users")), "ProgramData/missing");
  EXPECT_EQ(*tree->ReadLink(FindPath(*tree, "volume")), "\\??\\Volume{1234}\\x");
  EXPECT_EQ(*tree->ReadLink(FindPath(*tree, "self")), "self");
  EXPECT_TRUE(S_ISLNK(tree->GetAttributes(FindPath(*tree, "self"))->mode));
}

TEST(WimTreeLookup, CaseShortNamesAndStreams) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  DentryFields file = File(u"Long File Name.txt");
  file.short_name = u"LONGFI~1.TXT";
  file.streams = {{u"", wim.AddBlob("data")}, {u"Zone.Identifier", wim.AddBlob("zone")}, {u"empty", {}}};
  metadata.Add(file);
  metadata.Add(File(u"with:colon", wim.AddBlob("colon")));
  metadata.End();
  HandMade tree(wim, metadata);
  auto lookup = [&](std::string_view name) { return tree->Lookup(kRootNode, name); };

  ErrnoOr<LookupResult> found = lookup("Long File Name.txt");
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->exact);
  const NodeId node = found->attributes.node;
  EXPECT_EQ(found->attributes.size, 4u);
  for (const char* other : {"LONG file NAME.TXT", "longfi~1.txt", "Long File Name.txt::$DATA"}) {
    found = lookup(other);
    ASSERT_TRUE(found.ok()) << other;
    EXPECT_FALSE(found->exact) << other;
    EXPECT_EQ(found->attributes.node, node) << other;
  }
  found = lookup("Long File Name.txt:Zone.Identifier");
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->exact);
  EXPECT_NE(found->attributes.node, node);
  EXPECT_TRUE(S_ISREG(found->attributes.mode));
  EXPECT_EQ(ReadAll(*tree, found->attributes.node), "zone");
  EXPECT_EQ(tree->GetAttributes(found->attributes.node)->size, 4u);
  const NodeId stream = found->attributes.node;
  for (const char* other : {"long file name.TXT:zone.identifier", "LONGFI~1.TXT:Zone.Identifier:$DATA"}) {
    found = lookup(other);
    ASSERT_TRUE(found.ok()) << other;
    EXPECT_FALSE(found->exact) << other;
    EXPECT_EQ(found->attributes.node, stream) << other;
  }
  EXPECT_EQ(ReadAll(*tree, lookup("with:colon")->attributes.node), "colon");
  for (const char* absent : {"Long File Name.tx", "Long File Name.txt:", "Long File Name.txt:none", ":x", "x:y",
                             "Long File Name.txt:empty:$INDEX"}) {
    EXPECT_EQ(lookup(absent).error(), ENOENT) << absent;
  }
  EXPECT_EQ(lookup(std::string(2000, 'x')).error(), ENAMETOOLONG);
  EXPECT_EQ(tree->Lookup(node, "x").error(), ENOTDIR);
  EXPECT_EQ(tree->Lookup(12345, "x").error(), ENOENT);
  for (NodeId bad : {NodeId{0}, NodeId{12345}, kRootNode | NodeId{1} << 40, node | NodeId{3} << 40, ~NodeId{0}}) {
    EXPECT_EQ(tree->GetAttributes(bad).error(), ENOENT) << bad;
  }
}

TEST(WimTreeXattrs, FormsAreThoseOfNtfs3g) {
  WimBuilder wim;
  MetadataBuilder metadata({"a security descriptor"});
  metadata.BeginRoot();
  DentryFields file = File(u"file");
  file.security = 0;
  file.attributes = 0x21;
  std::string attributes;
  // [ value size ][ name size ][ flags ][ name ][ 0 ][ value ]
  attributes += std::string(
      "\x02\0\x03\x80"
      "EA1\0"
      "v1",
      10);
  attributes += std::string(
      "\x05\0\x09\0"
      "user.note\0"
      "linux",
      19);
  attributes += std::string(
      "\0\0\x03\0"
      "EA2\0",
      8);
  file.tagged_items = TaggedItem(kTagObjectId, std::string(64, 'o')) + TaggedItem(kTagExtendedAttributes, attributes);
  file.streams = {{u"stream", wim.AddBlob("stream data")}, {u"big", wim.AddBlob(std::string(65537, 'b'))}};
  metadata.Add(file);
  metadata.Add(File(u"plain"));
  metadata.End();
  HandMade tree(wim, metadata);
  const NodeId node = FindPath(*tree, "file");
  auto xattr = [&](std::string_view name) { return *tree->GetXattr(node, name); };

  EXPECT_EQ(xattr("system.ntfs_attrib"), std::string("\x21\0\0\0", 4));
  EXPECT_EQ(xattr("system.ntfs_attrib_be"), std::string("\0\0\0\x21", 4));
  EXPECT_EQ(xattr("system.ntfs_acl"), "a security descriptor");
  EXPECT_EQ(xattr("system.ntfs_object_id"), std::string(64, 'o'));
  const std::string times = xattr("system.ntfs_times");
  const std::string times_be = xattr("system.ntfs_times_be");
  ASSERT_EQ(times.size(), 32u);
  EXPECT_EQ(std::string(times_be.rbegin(), times_be.rend()),
            times.substr(24, 8) + times.substr(16, 8) + times.substr(8, 8) + times.substr(0, 8));
  EXPECT_EQ(xattr("system.ntfs_crtime"), times.substr(0, 8));
  EXPECT_EQ(xattr("system.ntfs_crtime_be"), times_be.substr(0, 8));
  // [ u32 size of the entry ][ flags ][ name size ][ u16 value size ][ name ][ 0 ][ value ], to a multiple of 4
  EXPECT_EQ(xattr("system.ntfs_ea"), std::string("\x10\0\0\0\x80\x03\x02\0EA1\0v1\0\0"
                                                 "\x0c\0\0\0\0\x03\0\0EA2\0",
                                                 28));
  EXPECT_EQ(xattr("user.stream"), "stream data");
  EXPECT_EQ(xattr("user.note"), "linux");
  EXPECT_EQ(tree->GetXattr(node, "user.big").error(), E2BIG);
  for (const char* absent : {"user.none", "system.ntfs_dos_name", "system.ntfs_reparse_data", "system.ntfs_none",
                             "security.capability", "user.", "", "EA1"}) {
    EXPECT_EQ(tree->GetXattr(node, absent).error(), ENODATA) << absent;
    EXPECT_EQ(tree->GetXattr(FindPath(*tree, "plain"), absent).error(), ENODATA) << absent;
  }
  const std::vector<std::string> names = *tree->ListXattrs(node);
  EXPECT_THAT(names, IsSupersetOf({"system.ntfs_attrib", "system.ntfs_times", "system.ntfs_crtime", "system.ntfs_acl",
                                   "system.ntfs_object_id", "system.ntfs_ea", "user.stream", "user.note"}));
  EXPECT_THAT(names, Not(Contains("system.ntfs_dos_name")));
  EXPECT_THAT(names, Not(Contains("user.big")));
  for (const std::string& name : names) EXPECT_TRUE(tree->GetXattr(node, name).ok()) << name;
  EXPECT_TRUE(tree->ListXattrs(FindPath(*tree, "file:stream"))->empty());
  EXPECT_EQ(tree->GetXattr(FindPath(*tree, "file:stream"), "system.ntfs_attrib").error(), ENODATA);
}

// The kernel gives user.* of nothing but files and directories, and trusted.* to nobody but root.
TEST(WimTreeXattrs, NothingIsListedThatTheKernelWouldNotRead) {
  WimBuilder wim;
  MetadataBuilder metadata({std::string(65537, 'a')});
  metadata.BeginRoot();
  const std::string linux_attributes(
      "\x01\0\x09\0trusted.x\0v"
      "\x01\0\x0d\0security.test\0v"
      "\x01\0\x06\0user.x\0v"
      "\x01\0\x0f\0system.ntfs_acl\0v",
      15 + 19 + 12 + 21);
  DentryFields file = File(u"file");
  file.security = 0;
  file.tagged_items = TaggedItem(kTagExtendedAttributes, linux_attributes);
  metadata.Add(file);
  DentryFields link = Junction(u"link", u"\\??\\C:\\file", wim);
  link.streams.push_back({u"stream", wim.AddBlob("data")});
  link.tagged_items = TaggedItem(kTagExtendedAttributes, linux_attributes);
  metadata.Add(link);
  DentryFields many = File(u"many");
  for (int i = 0; i < 1000; ++i) many.streams.push_back({std::u16string(200, u'0') + char16_t(u'0' + i)});
  metadata.Add(many);
  metadata.End();
  WimTreeOptions options;
  options.uid = 1000;
  HandMade tree(wim, metadata, options);
  auto listed = [&](const char* path) {
    std::vector<std::string> names = *tree->ListXattrs(FindPath(*tree, path));
    std::erase_if(names, [](const std::string& name) {
      return name.find("attrib") != name.npos || name.find("time") != name.npos;
    });
    return names;
  };
  EXPECT_THAT(listed("file"), ElementsAre("security.test", "user.x"));
  EXPECT_THAT(listed("link"), ElementsAre("system.ntfs_reparse_data", "security.test"));
  size_t list_size = 0;
  for (const std::string& name : listed("many")) list_size += name.size() + 1;
  EXPECT_GT(list_size, 60'000u);
  EXPECT_LT(list_size, 65'536u);
  options.uid = 0;
  HandMade of_root(wim, metadata, options);
  EXPECT_THAT(*of_root->ListXattrs(FindPath(*of_root, "file")), Contains("trusted.x"));
}

TEST(WimTreeXattrs, OtherReparsePointsAreFiles) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  DentryFields file = File(u"compressed");
  file.attributes = kAttributeReparsePoint;
  file.hard_link_group = 0x80000017 | uint64_t{0xabcd} << 32;
  file.streams = {{u"", wim.AddBlob("reparse data")}, {u"", wim.AddBlob("content")}};
  metadata.Add(file);
  metadata.End();
  HandMade tree(wim, metadata);
  const NodeId node = FindPath(*tree, "compressed");
  EXPECT_TRUE(S_ISREG(tree->GetAttributes(node)->mode));
  EXPECT_EQ(ReadAll(*tree, node), "content");
  EXPECT_EQ(*tree->GetXattr(node, "system.ntfs_reparse_data"),
            std::string("\x17\0\0\x80\x0c\0\xcd\xab", 8) + "reparse data");
}

TEST(WimTreeAttributes, ModesOwnersAndTimes) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.Add(File(u"file", wim.AddBlob(std::string(513, 'x'))));
  DentryFields read_only = File(u"read only");
  read_only.attributes = kAttributeReadOnly;
  metadata.Add(read_only);
  DentryFields directory = File(u"directory");
  directory.attributes = kAttributeDirectory | kAttributeReadOnly;
  metadata.Add(directory);
  DentryFields device = File(u"device");
  std::string unix_data;
  for (uint32_t value : {7u, 8u, static_cast<uint32_t>(S_IFBLK | 0640), 0x801u}) AppendLe(value, unix_data);
  device.tagged_items = TaggedItem(kTagUnixData, unix_data);
  metadata.Add(device);
  metadata.End();
  WimTreeOptions options;
  options.uid = 1234;
  options.gid = 5678;
  HandMade tree(wim, metadata, options);
  auto attributes = [&](const char* path) { return *tree->GetAttributes(FindPath(*tree, path)); };
  EXPECT_EQ(attributes("file").mode, static_cast<uint32_t>(S_IFREG | 0644));
  EXPECT_EQ(attributes("file").uid, 1234u);
  EXPECT_EQ(attributes("file").gid, 5678u);
  EXPECT_EQ(attributes("file").allocated, 1024u);
  EXPECT_EQ(attributes("file").access_time.tv_sec, 2);
  EXPECT_EQ(attributes("file").modification_time.tv_sec, 3);
  EXPECT_EQ(attributes("read only").mode, static_cast<uint32_t>(S_IFREG | 0444));
  EXPECT_EQ(attributes("directory").mode, static_cast<uint32_t>(S_IFDIR | 0755));
  EXPECT_EQ(attributes("device").mode, static_cast<uint32_t>(S_IFBLK | 0640));
  EXPECT_EQ(attributes("device").device, 0x801u);
  EXPECT_EQ(attributes("device").uid, 7u);
  const struct statvfs stats = tree->FileSystemStats();
  EXPECT_EQ(stats.f_files, 5u);
  EXPECT_EQ(stats.f_blocks, 1u);
  EXPECT_EQ(stats.f_namemax, 765u);  // bytes, of names of 255 units
  EXPECT_EQ(*tree->Parent(FindPath(*tree, "directory")), kRootNode);
  EXPECT_EQ(*tree->Parent(kRootNode), kRootNode);
  EXPECT_EQ(tree->Parent(FindPath(*tree, "file")).error(), ENOTDIR);
}

TEST(WimTreeDirectories, CookiesGoOnWhereTheVisitEnded) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  const std::vector<std::string> wanted = {"d", "b", "a", "c"};
  for (const char16_t* name : {u"d", u"b", u"a", u"c"}) metadata.Add(File(name, wim.AddBlob("same")));
  metadata.End();
  HandMade tree(wim, metadata);
  std::vector<std::string> names;
  uint64_t cookie = 0;
  for (size_t before = 1; names.size() != before;) {
    before = names.size();
    EXPECT_EQ(tree->ReadDirectory(kRootNode, cookie,
                                  [&](const DirectoryEntry& entry) {
                                    if (names.size() > before) return false;
                                    names.emplace_back(entry.name);
                                    cookie = entry.next_cookie;
                                    return true;
                                  }),
              0);
  }
  EXPECT_EQ(names, wanted);
  EXPECT_EQ(tree->ReadDirectory(kRootNode, 5, [](const DirectoryEntry&) { return true; }), EINVAL);
  std::vector<NodeId> ahead;
  tree->VisitReadAheadCandidates(FindPath(*tree, "b"), 4, [&](NodeId node, uint64_t size) {
    EXPECT_EQ(size, 4u);
    ahead.push_back(node);
    return true;
  });
  EXPECT_THAT(ahead, ElementsAre(FindPath(*tree, "a"), FindPath(*tree, "c")));
  tree->VisitReadAheadCandidates(FindPath(*tree, "b"), 3, [&](NodeId, uint64_t) {
    ADD_FAILURE() << "larger than asked for";
    return true;
  });
}

TEST(WimTreeDirectories, LookingAheadEndsInADirectoryOfOtherFiles) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  const Sha1Digest small = wim.AddBlob("x");
  const Sha1Digest large = wim.AddBlob("large");
  metadata.Add(File(u"first", small));
  for (int i = 0; i < 2000; ++i) {
    metadata.Add(File(u"large" + std::u16string{char16_t(u'a' + i % 20), char16_t(u'a' + i / 20)}, large));
  }
  metadata.Add(File(u"last", small));
  metadata.End();
  HandMade tree(wim, metadata);
  tree->VisitReadAheadCandidates(FindPath(*tree, "first"), 1, [](NodeId, uint64_t) {
    ADD_FAILURE() << "a walk through the whole directory for each small file";
    return true;
  });
}

TEST(WimTreeDamage, IsReportedOnceAndWithAPath) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  DentryFields file = File(u"damaged", wim.AddBlob("the right data"));
  metadata.Add(file);
  DentryFields missing = File(u"missing");
  missing.streams = {{u"stream", Sha1::Of(absl::MakeConstSpan("nowhere", 7))}};
  metadata.Add(missing);
  metadata.End();
  RecordingObserver observer;
  WimTreeOptions options;
  options.observer = &observer;
  TempDirectory directory;
  std::string bytes = wim.Build(metadata);
  bytes[bytes.find("the right data")] ^= 1;
  WriteFile(directory.Path("damaged.wim"), bytes);
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(directory.Path("damaged.wim"), 1, options);
  ASSERT_TRUE(tree.ok()) << tree.status();
  std::string data(14, '\0');
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ((*tree)->Read(FindPath(**tree, "damaged"), 0, absl::MakeSpan(data)).error(), EIO);
    EXPECT_EQ((*tree)->Read(FindPath(**tree, "missing:stream"), 0, absl::MakeSpan(data)).error(), EIO);
  }
  EXPECT_THAT(observer.damaged(), ElementsAre("damaged", "missing:stream"));
  EXPECT_EQ((*tree)->GetStats().damaged_blobs, 2u);
  EXPECT_EQ(observer.changes(), 0);
}

// With a size of 0 the kernel would not ask for the data, and the file would pass for an empty one.
TEST(WimTreeDamage, AFileWhoseDataIsInNoTableIsNotEmpty) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.Add(File(u"file", Sha1::Of(absl::MakeConstSpan("nowhere", 7))));
  metadata.End();
  HandMade tree(wim, metadata);
  const NodeId node = FindPath(*tree, "file");
  EXPECT_GT(tree->GetAttributes(node)->size, 0u);
  std::string data(100, '\0');
  EXPECT_EQ(tree->Read(node, 0, absl::MakeSpan(data)).error(), EIO);
}

TEST(WimTreeDamage, AChangedImageFileIsReportedOnce) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.Add(File(u"file", wim.AddBlob("data")));
  metadata.End();
  RecordingObserver observer;
  WimTreeOptions options;
  options.observer = &observer;
  HandMade tree(wim, metadata, options);
  ASSERT_EQ(truncate(tree.path().c_str(), 100), 0);
  std::string data(4, '\0');
  for (int i = 0; i < 3; ++i) EXPECT_EQ(tree->Read(FindPath(*tree, "file"), 0, absl::MakeSpan(data)).error(), EIO);
  EXPECT_EQ(observer.changes(), 1);
  EXPECT_TRUE(observer.damaged().empty());
}

// A file of a few bytes must not take memory for what its compressed tables claim to be.
TEST(WimFileHostile, TablesThatClaimToBeLarge) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.End();
  TempDirectory directory;
  constexpr size_t kFlagsAt = 0x10, kBlobTableAt = 0x30, kXmlAt = 0x48;
  for (size_t table : {kBlobTableAt, kXmlAt}) {
    std::string bytes = wim.Build(metadata);
    auto poke = [&bytes](size_t at, auto value) { memcpy(&bytes[at], &value, sizeof(value)); };
    poke(kFlagsAt, uint32_t{0x80002});      // compressed with LZMS
    poke(kFlagsAt + 4, uint32_t{1} << 30);  // chunk size
    poke(table + 7, uint8_t{4});            // the table is compressed
    poke(table + 16, uint64_t{16 << 20});   // its size
    WriteFile(directory.Path("large.wim"), bytes);
    const absl::Status status = OpenWimFile(directory.Path("large.wim")).status();
    EXPECT_EQ(ReasonOf(status), Reason::kBadImageFormat);
    EXPECT_THAT(status.ToString(), testing::HasSubstr("are allowed"));
  }
}

// Not compressed, its chunks would lie elsewhere than a raw resource's data; no tool writes that, and wimlib reads
// none. With chunks of one byte a single read would have a million of them to decode.
TEST(WimFileHostile, SolidResourcesOfUnknownKinds) {
  TempDirectory directory;
  std::filesystem::create_directory(directory.Path("source"));
  WriteFile(directory.Path("source/file"), Content(1000, 1));
  MakeWim(directory.Path("source"), directory.Path("solid.esd"),
          {.compression = WIMLIB_COMPRESSION_TYPE_LZMS, .write_flags = WIMLIB_WRITE_FLAG_SOLID});
  const std::string bytes = ReadFile(directory.Path("solid.esd"));
  constexpr size_t kChunkSizeAt = 208 + 8;  // the solid resource comes first
  constexpr size_t kCompressionAt = 208 + 12;
  ASSERT_EQ(bytes[kCompressionAt], 3);
  auto open_with = [&](size_t at, uint32_t value) {
    std::string changed = bytes;
    memcpy(&changed[at], &value, sizeof(value));
    WriteFile(directory.Path("changed.esd"), changed);
    return ReasonOf(OpenWimFile(directory.Path("changed.esd")).status());
  };
  EXPECT_EQ(open_with(kCompressionAt, 0), Reason::kBadImageFormat);
  EXPECT_EQ(open_with(kCompressionAt, 4), Reason::kBadImageFormat);
  // Of the 1000 bytes so many chunks that their sizes still fit into the resource.
  EXPECT_EQ(open_with(kChunkSizeAt, 64), Reason::kBadImageFormat);
  EXPECT_EQ(open_with(kChunkSizeAt, 1u << 31), Reason::kBadImageFormat);
}

// Cut at any length, or with any byte of its header and tables changed, a file is refused or read, and nothing worse.
TEST(WimFileHostile, CutOrChangedAnywhere) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.Add(File(u"file", wim.AddBlob("some data")));
  metadata.End();
  const std::string whole = wim.Build(metadata);
  TempDirectory directory;
  const std::string path = directory.Path("hostile.wim");
  for (size_t size = 0; size < whole.size(); size += 7) {
    WriteFile(path, std::string_view(whole).substr(0, size));
    EXPECT_EQ(ReasonOf(OpenWimTree(path).status()), Reason::kBadImageFormat) << size;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    for (char value : {'\x01', '\xff'}) {
      std::string changed = whole;
      changed[at] = value;
      WriteFile(path, changed);
      absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(path);
      if (!tree.ok()) {
        const Reason reason = ReasonOf(tree.status());
        EXPECT_TRUE(reason == Reason::kBadImageFormat || reason == Reason::kPartMissing ||
                    reason == Reason::kInvalidImageIndex)
            << at << ": " << tree.status();
        continue;
      }
      std::string data(9, '\0');
      ErrnoOr<LookupResult> file = (*tree)->Lookup(kRootNode, "file");
      if (!file.ok()) continue;
      ErrnoOr<size_t> size = (*tree)->Read(file->attributes.node, 0, absl::MakeSpan(data));
      if (!size.ok() || *size != 9) continue;
      EXPECT_EQ(data, "some data") << at;
    }
  }
}

TEST(WimFileNames, CaseMattersOnlyWhereItMust) {
  WimBuilder wim;
  MetadataBuilder metadata;
  metadata.BeginRoot();
  metadata.End();
  TempDirectory directory;
  const std::string path = directory.Path("names.wim");
  WriteFile(path, wim.Build(metadata, "<WIM><IMAGE INDEX=\"1\"><NAME>Windows Pro</NAME></IMAGE></WIM>"));
  absl::StatusOr<std::unique_ptr<WimFile>> file = OpenWimFile(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*(*file)->FindImage("Windows Pro"), 1u);
  EXPECT_EQ(*(*file)->FindImage("WINDOWS pro"), 1u);
  EXPECT_EQ(ReasonOf((*file)->FindImage("Windows").status()), Reason::kInvalidImageName);
}

}  // namespace
}  // namespace libmount

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  wimlib_global_init(0);
  return RUN_ALL_TESTS();
}
