// SPDX-License-Identifier: GPL-3.0-or-later
//
// The disks that others made: each byte of them, and the refusal of those that are damaged.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "libmount/base/reason.h"
#include "tests/unit/block_test_util.h"

namespace libmount {
namespace {

// Where the fixtures are unpacked: DISMD_FIXTURES, or else a directory that this process fills from beside the project.
const std::string& Fixtures() {
  static const std::string* const directory = [] {
    if (const char* unpacked = getenv("DISMD_FIXTURES")) return new std::string(unpacked);
    static DiskDirectory temporary;
    const std::string command = "bash '" DISMD_SOURCE_DIR "/../shared/fixtures/unpack' '" + temporary.path() + "'";
    return new std::string(RunCommand(command) == 0 ? temporary.path() : "");
  }();
  return *directory;
}

std::string Fixture(const char* name) { return Fixtures() + "/" + name; }

struct Disk {
  const char* path;
  uint64_t size;
  const char* sha256;
};

// From shared/fixtures/virtual-disk.sha256.txt: hashes of what other tools read (QEMU, QEMU after it replayed the log,
// 7-Zip for the differencing ones).
constexpr Disk kDisks[] = {
    {"dfvfs/ext2.vhd", 4212736, "870be7ae16c1fa8faab05c6eb9205dc9a7ae35c5f552c5cf8a267c0bc6a5cb99"},
    {"dfvfs/ext2.vhdx", 4194304, "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80"},
    {"dfvfs/fat-parent.vhd", 4194304, "bbdb657bc5aa2fde44e2456149f9257a862cb84f4668e338b90e357b0fbdf118"},
    {"dfvfs/fat-parent.vhdx", 4194304, "2d1954fec68faefe81dd3687282a9b387bf8417f6d2cf0da3825fa1445b64cfb"},
    {"dfvfs/ntfs-fixed.vhd", 4194304, "cd81fade3878f1b2957f1ece168201876bdf4e90c9b30f60c2f232eba5fea76c"},
    {"dfvfs/ntfs-fixed.vhdx", 4194304, "5237dd895f38052344e2ef35a207fe9df08cd18d17b6ea857a1b93cc475e1f2e"},
    {"dfvfs/ntfs-dynamic.vhd", 4194304, "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876"},
    {"dfvfs/ntfs-dynamic.vhdx", 4194304, "b92731f8e4bf3532418444d22a9086823a8122569500acd09cd8d2ce20eb98e9"},
    {"dfvfs/ntfs-parent.vhd", 4194304, "c91d1766dd4b3327f33a082cbf958d3566dd84a3d71c2473a5ae6155e53171de"},
    {"dfvfs/ntfs-parent.vhdx", 4194304, "c5523065bc6ef82267be56c5f8888e2876ead8ba7edba2a65a3da8b076231b68"},
    {"qemu/d2v-zerofilled.vhd", 263454720, "1ba076be94a8a64541c25aae8d5a5f8b0da758c3797af597e03acb431ff8d143"},
    {"qemu/iotest-dynamic-1G.vhdx", 1073741824, "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478"},
    {"qemu/test-disk2vhd.vhdx", 268435456, "96d964042be9b58dda1725567abfb0cf9fd8380e2118754afa979c2ad445938a"},
    {"discutils/btrfs.vhdx", 1073741824, "0b959f9cb4e18348ad8b646f152178282542c8304f02fddf765e3fd1a1de6864"},
    {"qemu/iotest-dirtylog-10G-4M.vhdx", 10737418240,
     "179cefe8b0587f123393eedf2aa7aa8d25798591178e6bc3950a09762f38f96f"},
    {"discutils/vhdx-log-replay.vhdx", 1073741824, "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e"},
    {"dfvfs/ntfs-differential.vhd", 4194304, "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144"},
    {"dfvfs/ntfs-differential.vhdx", 4194304, "1ef1fb5360247aa7d36a38415bc7bf6e1e52f62af5e6bd1283815e82584c7efc"},
    {"dfvfs/fat-differential.vhd", 4194304, "f4b61a33ee2f7e8c19f737792a4107e46340026a9a829e4169b751901cc3ef02"},
    {"dfvfs/fat-differential.vhdx", 4194304, "a538161f34bc44c12bf9a542ce9218741c62728723ea18d0e4f6ea92e9f32e93"},
};

class BlockFixtures : public testing::TestWithParam<Disk> {};

TEST_P(BlockFixtures, HoldWhatOthersRead) {
  absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(Fixture(GetParam().path));
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->device().size(), GetParam().size);
  EXPECT_EQ(HashOf((*disk)->device()), GetParam().sha256);
  EXPECT_TRUE((*disk)->CheckUnchanged().ok());
}

std::string NameOf(const testing::TestParamInfo<Disk>& info) {
  std::string name = info.param.path;
  for (char& c : name) {
    if (isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, BlockFixtures, testing::ValuesIn(kDisks), NameOf);

TEST(BlockFixturesFacts, DirtyLogsAreReplayedAndNothingIsWritten) {
  for (const char* name : {"qemu/iotest-dirtylog-10G-4M.vhdx", "discutils/vhdx-log-replay.vhdx"}) {
    const auto before = std::filesystem::last_write_time(Fixture(name));
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(Fixture(name));
    ASSERT_TRUE(disk.ok()) << disk.status();
    EXPECT_TRUE((*disk)->chain()[0].log_replayed) << name;
    EXPECT_EQ(std::filesystem::last_write_time(Fixture(name)), before);
  }
}

TEST(BlockFixturesFacts, ChainsAreDescribed) {
  for (const char* extension : {"vhd", "vhdx"}) {
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(Fixture("dfvfs/ntfs-differential.") + extension);
    ASSERT_TRUE(disk.ok()) << disk.status();
    const std::vector<DiskFileInfo>& chain = (*disk)->chain();
    ASSERT_EQ(chain.size(), 2u);
    EXPECT_EQ(chain[0].type, DiskType::kDifferencing);
    EXPECT_EQ(chain[1].name, std::string("ntfs-parent.") + extension);
    EXPECT_EQ(chain[1].type, DiskType::kFixed);
    const bool vhdx = chain[0].format == DiskFormat::kVhdx;
    EXPECT_EQ(chain[0].parent_identifier, vhdx ? chain[1].data_write_identifier : chain[1].identifier);
    EXPECT_FALSE(chain[0].parent_locators.empty());
  }
}

TEST(BlockFixturesFacts, LibvhdiTellsTheSame) {
  for (const Disk& disk : kDisks) CompareWithLibvhdi(Fixture(disk.path));
  CompareWithLibvhdi(Fixture("qemu/hyperv2012r2-dynamic.vhd"));
  CompareWithLibvhdi(Fixture("qemu/virtualpc-dynamic.vhd"));
}

TEST(BlockFixturesFacts, VirtualPcSizeIsCurrentSize) {
  absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(Fixture("qemu/virtualpc-dynamic.vhd"));
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->device().size(), 136365211648u);
  std::string piece(1 << 20, 'x');
  ASSERT_EQ((*disk)->device().Read((*disk)->device().size() - piece.size(), absl::MakeSpan(piece)), 0);
  EXPECT_EQ(piece, std::string(piece.size(), '\0'));
  EXPECT_EQ((*disk)->device().Read((*disk)->device().size() - 1, absl::MakeSpan(piece)), EINVAL);
}

TEST(BlockFixturesRefused, DamagedChecksums) {
  for (const char* name : {"dfvfs/image.vhd", "dfvfs/image-differential.vhd"}) {
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(Fixture(name));
    EXPECT_EQ(ReasonOf(disk.status()), Reason::kBadImageFormat) << name << ": " << disk.status();
    EXPECT_NE(disk.status().message().find("checksum"), absl::string_view::npos) << disk.status();
  }
}

TEST(BlockFixturesRefused, ChildWithoutItsParent) {
  DiskDirectory directory;
  for (const char* name : {"ntfs-differential.vhd", "ntfs-differential.vhdx"}) {
    std::filesystem::copy(Fixture("dfvfs/") + name, directory.Path(name));
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(directory.Path(name));
    EXPECT_EQ(ReasonOf(disk.status()), Reason::kPartMissing) << disk.status();
    EXPECT_NE(disk.status().message().find("ntfs-parent."), absl::string_view::npos) << disk.status();
  }
}

TEST(BlockFixturesRefused, AnotherParent) {
  DiskDirectory directory;
  for (const std::string extension : {"vhd", "vhdx"}) {
    std::filesystem::copy(Fixture("dfvfs/ntfs-differential.") + extension, directory.Path("child." + extension));
    std::filesystem::copy(Fixture("dfvfs/fat-parent.") + extension, directory.Path("ntfs-parent." + extension));
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(directory.Path("child." + extension));
    EXPECT_EQ(ReasonOf(disk.status()), Reason::kBadImageFormat) << disk.status();
    EXPECT_NE(disk.status().message().find("identifier"), absl::string_view::npos) << disk.status();
  }
}

TEST(BlockFixturesRefused, AChainThatComesBack) {
  DiskDirectory directory;
  for (const std::string extension : {"vhd", "vhdx"}) {
    std::filesystem::copy(Fixture("dfvfs/ntfs-differential.") + extension, directory.Path("ntfs-parent." + extension));
    absl::StatusOr<std::unique_ptr<DiskImage>> disk = OpenDisk(directory.Path("ntfs-parent." + extension));
    EXPECT_EQ(ReasonOf(disk.status()), Reason::kBadImageFormat) << disk.status();
    EXPECT_NE(disk.status().message().find("comes back"), absl::string_view::npos) << disk.status();
  }
}

}  // namespace
}  // namespace libmount
