// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: what only Windows knows of a file, changed through extended attributes and streams.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "libmount/base/little_endian.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/tree/windows.h"
#include "tests/unit/ntfs_write_fixture.h"

namespace libmount {
namespace {

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

}  // namespace
}  // namespace libmount
