// SPDX-License-Identifier: GPL-3.0-or-later
//
// The images that others made: read as wimlib reads them, or refused for the right reason.

#include <gtest/gtest.h>
#include <wimlib.h>

#include <cstdlib>
#include <string>

#include "libmount/base/reason.h"
#include "tests/unit/wim_format_test_util.h"

namespace libmount {
namespace {

// Where the fixtures are unpacked: DISMD_FIXTURES, or else a directory that this process fills from beside the project.
const std::string& Fixtures() {
  static const std::string* const directory = [] {
    if (const char* unpacked = getenv("DISMD_FIXTURES")) return new std::string(unpacked);
    static TempDirectory temporary;
    const std::string command = "bash '" DISMD_SOURCE_DIR "/../shared/fixtures/unpack' '" + temporary.path() + "'";
    if (system(command.c_str()) != 0) return new std::string();
    return new std::string(temporary.path());
  }();
  return *directory;
}

std::string Fixture(const char* name) { return Fixtures() + "/" + name; }

struct Case {
  const char* file;
  uint32_t images;
};

class WimFixtures : public testing::TestWithParam<Case> {};

TEST_P(WimFixtures, ReadAsWimlibReadsThem) {
  const std::string path = Fixture(GetParam().file);
  absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(path);
  ASSERT_TRUE(wim.ok()) << wim.status();
  ASSERT_EQ((*wim)->images().size(), GetParam().images);
  for (uint32_t index = 1; index <= GetParam().images; ++index) EXPECT_GT(CompareWithWimlib(path, index), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, WimFixtures,
                         testing::Values(Case{"managedwimlib/XPRESS.wim", 1}, Case{"managedwimlib/LZX.wim", 1},
                                         Case{"managedwimlib/LZMS.wim", 1}, Case{"managedwimlib/BootLZX.wim", 1},
                                         Case{"managedwimlib/BootXPRESS.wim", 1},
                                         Case{"managedwimlib/MultiImage.wim", 3}, Case{"managedwimlib/Split.swm", 1},
                                         Case{"managedwimlib/VerifySuccess.wim", 1}, Case{"wimlib/dotdot.wim", 1},
                                         Case{"wimlib/duplicate_names.wim", 1}, Case{"wimlib/empty_dacl.wim", 1},
                                         Case{"wimlib/linux_xattrs_old.wim", 1}, Case{"wimlib/longpaths.wim", 1},
                                         Case{"discutils/TestData.wim", 1}));

TEST(WimFixturesRefused, NotAWim) {
  EXPECT_EQ(ReasonOf(OpenWimFile(Fixture("wimlib/fuzz-wim-0.wim")).status()), Reason::kBadImageFormat);
}

TEST(WimFixturesRefused, DirectoryLoop) {
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(Fixture("wimlib/cyclic.wim"));
  EXPECT_EQ(ReasonOf(tree.status()), Reason::kBadImageFormat) << tree.status();
}

TEST(WimFixturesRefused, SecondPartAlone) {
  absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(Fixture("managedwimlib/Split2.swm"));
  EXPECT_EQ(ReasonOf(wim.status()), Reason::kBadImageFormat);
}

TEST(WimFixturesRefused, FirstPartAlone) {
  TempDirectory directory;
  WriteFile(directory.Path("Alone.swm"), ReadFile(Fixture("managedwimlib/Split.swm")));
  absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(directory.Path("Alone.swm"));
  EXPECT_EQ(ReasonOf(wim.status()), Reason::kPartMissing);
  EXPECT_NE(wim.status().message().find("Alone2.swm"), absl::string_view::npos) << wim.status();
}

TEST(WimFixturesRefused, PartOfAnotherSet) {
  TempDirectory directory;
  WriteFile(directory.Path("Mixed.swm"), ReadFile(Fixture("managedwimlib/Split.swm")));
  std::string second = ReadFile(Fixture("managedwimlib/Split2.swm"));
  second[0x18] ^= 1;  // the GUID
  WriteFile(directory.Path("Mixed2.swm"), second);
  EXPECT_EQ(ReasonOf(OpenWimFile(directory.Path("Mixed.swm")).status()), Reason::kPartMissing);
}

class WimFixturesDamaged : public testing::TestWithParam<const char*> {};

// The tree opens; the damaged file gives EIO, and is reported once.
TEST_P(WimFixturesDamaged, ReadsFailAndAreReported) {
  RecordingObserver observer;
  WimTreeOptions options;
  options.observer = &observer;
  absl::StatusOr<std::unique_ptr<WimTree>> tree = OpenWimTree(Fixture(GetParam()), 1, options);
  ASSERT_TRUE(tree.ok()) << tree.status();
  int failed = 0;
  std::vector<NodeId> directories = {kRootNode};
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < directories.size(); ++i) {
      (*tree)->ReadDirectory(directories[i], 0, [&](const DirectoryEntry& entry) {
        if (S_ISDIR(entry.attributes.mode) && round == 0) directories.push_back(entry.attributes.node);
        if (!S_ISREG(entry.attributes.mode)) return true;
        std::string data(entry.attributes.size, '\0');
        ErrnoOr<size_t> size = (*tree)->Read(entry.attributes.node, 0, absl::MakeSpan(data));
        if (!size.ok()) {
          EXPECT_EQ(size.error(), EIO);
          ++failed;
        }
        return true;
      });
    }
  }
  EXPECT_EQ(failed, 2);
  EXPECT_EQ(observer.damaged().size(), 1u);
  EXPECT_EQ((*tree)->GetStats().damaged_blobs, 1u);
}

INSTANTIATE_TEST_SUITE_P(All, WimFixturesDamaged,
                         testing::Values("wimlib/corrupted_file_1.wim", "wimlib/corrupted_file_2.wim"));

TEST(WimFixturesIntegrity, MatchAndMismatch) {
  NullMonitor monitor;
  for (const char* name :
       {"managedwimlib/VerifySuccess.wim", "managedwimlib/MultiImage.wim", "managedwimlib/LZX.wim"}) {
    absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(Fixture(name));
    ASSERT_TRUE(wim.ok()) << wim.status();
    EXPECT_TRUE((*wim)->CheckIntegrity(monitor).ok()) << name;
  }
  absl::StatusOr<std::unique_ptr<WimFile>> wim = OpenWimFile(Fixture("managedwimlib/VerifyFail.wim"));
  ASSERT_TRUE(wim.ok()) << wim.status();
  EXPECT_TRUE((*wim)->has_integrity_table());
  absl::Status status = (*wim)->CheckIntegrity(monitor);
  EXPECT_EQ(ReasonOf(status), Reason::kIntegrityCheckFailed);
  EXPECT_NE(status.message().find("bytes 208 to "), absl::string_view::npos) << status;
}

TEST(WimFixturesFacts, BootIndexImagesAndXattrs) {
  absl::StatusOr<std::unique_ptr<WimFile>> boot = OpenWimFile(Fixture("managedwimlib/BootLZX.wim"));
  ASSERT_TRUE(boot.ok());
  EXPECT_EQ((*boot)->images()[0].bootable, true);
  absl::StatusOr<std::unique_ptr<WimFile>> multi = OpenWimFile(Fixture("managedwimlib/MultiImage.wim"));
  ASSERT_TRUE(multi.ok());
  EXPECT_EQ((*multi)->images()[0].bootable, false);
  for (const ImageInfo& image : (*multi)->images()) {
    EXPECT_EQ(*(*multi)->FindImage(image.name), image.index);
    EXPECT_GT(image.creation_time, 0u);
    EXPECT_GT(image.file_count, 0u);
  }
  NullMonitor monitor;
  EXPECT_EQ(ReasonOf((*multi)->OpenTree(0, {}, monitor).status()), Reason::kInvalidImageIndex);
  EXPECT_EQ(ReasonOf((*multi)->OpenTree(4, {}, monitor).status()), Reason::kInvalidImageIndex);
  EXPECT_EQ(ReasonOf((*multi)->FindImage("no such image").status()), Reason::kInvalidImageName);
  EXPECT_EQ(ReasonOf((*multi)->FindImage("").status()), Reason::kInvalidImageName);

  absl::StatusOr<std::unique_ptr<WimTree>> old_xattrs = OpenWimTree(Fixture("wimlib/linux_xattrs_old.wim"));
  ASSERT_TRUE(old_xattrs.ok());
  size_t found = 0;
  std::vector<NodeId> nodes = {kRootNode};
  (*old_xattrs)->ReadDirectory(kRootNode, 0, [&](const DirectoryEntry& entry) {
    nodes.push_back(entry.attributes.node);
    return true;
  });
  for (NodeId node : nodes) {
    ErrnoOr<std::vector<std::string>> names = (*old_xattrs)->ListXattrs(node);
    ASSERT_TRUE(names.ok());
    for (const std::string& name : *names) {
      if (name.rfind("system.ntfs_", 0) == 0) continue;
      EXPECT_TRUE((*old_xattrs)->GetXattr(node, name).ok()) << name;
      ++found;
    }
  }
  EXPECT_GT(found, 0u);
}

}  // namespace
}  // namespace libmount

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  wimlib_global_init(0);
  return RUN_ALL_TESTS();
}
