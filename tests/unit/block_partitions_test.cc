// SPDX-License-Identifier: GPL-3.0-or-later
//
// Partition tables as sfdisk writes them, and as nobody should.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libmount/block/partitions.h"
#include "tests/unit/memory_disk.h"

namespace libmount {
namespace {

using testing::ElementsAre;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kDiskBytes = 64 * kMiB;

// A disk that sfdisk has partitioned by `script`.
std::string Partitioned(const std::string& script) {
  const std::string path = testing::TempDir() + "partitions." + std::to_string(getpid());
  std::ofstream(path).close();
  EXPECT_EQ(truncate(path.c_str(), kDiskBytes), 0);
  FILE* sfdisk = popen(("sfdisk --quiet " + path).c_str(), "w");
  EXPECT_NE(sfdisk, nullptr);
  fwrite(script.data(), 1, script.size(), sfdisk);
  EXPECT_EQ(pclose(sfdisk), 0) << script;
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  unlink(path.c_str());
  return bytes.str();
}

using Row = std::tuple<uint32_t, uint64_t, uint64_t, std::string>;  // number, MiB of the start, MiB, type
std::vector<Row> RowsOf(const Partitions& found) {
  std::vector<Row> rows;
  for (const PartitionInfo& p : found.partitions) rows.emplace_back(p.number, p.offset / kMiB, p.size / kMiB, p.type);
  return rows;
}

Partitions Read(std::string bytes, uint32_t sector_size = 512) {
  MemoryDisk disk(std::move(bytes), sector_size);
  absl::StatusOr<Partitions> found = ReadPartitions(disk);
  EXPECT_TRUE(found.ok()) << found.status();
  return found.ok() ? *std::move(found) : Partitions();
}

constexpr char kGptScript[] =
    "label: gpt\n"
    "1: start=1MiB, size=4MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
    "2: start=5MiB, size=16MiB, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\n"
    "4: start=21MiB, size=32MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n";

TEST(Partitions, Gpt) {
  const std::string bytes = Partitioned(kGptScript);
  const auto expected =
      ElementsAre(Row(1, 1, 4, "EFI system"), Row(2, 5, 16, "Microsoft reserved"), Row(4, 21, 32, "basic data"));
  Partitions found = Read(bytes);
  EXPECT_EQ(found.table, PartitionTable::kGpt);
  EXPECT_THAT(RowsOf(found), expected);
  EXPECT_FALSE(found.is_dynamic_disk);

  std::string without_first = bytes;
  without_first.replace(512, 512, 512, '\0');
  EXPECT_THAT(RowsOf(Read(without_first)), expected) << "the backup at the end of the disk";
  EXPECT_THAT(found.further_tables, ElementsAre(kDiskBytes - uint64_t{33 * 512}));
  EXPECT_THAT(Read(without_first).further_tables, ElementsAre(kDiskBytes - uint64_t{33 * 512}));
  std::string spoiled = bytes;
  spoiled[1024 + 40] ^= 1;  // of the first table's entries, whose checksum is in the header
  EXPECT_THAT(RowsOf(Read(spoiled)), expected);
}

TEST(Partitions, MbrWithLogicalOnes) {
  Partitions found =
      Read(Partitioned("label: dos\n"
                       "1: start=1MiB, size=4MiB, type=7, bootable\n"
                       "2: start=8MiB, size=40MiB, type=f\n"
                       "5: start=9MiB, size=4MiB, type=7\n"
                       "6: start=20MiB, size=8MiB, type=c\n"));
  EXPECT_EQ(found.table, PartitionTable::kMbr);
  EXPECT_THAT(RowsOf(found), ElementsAre(Row(1, 1, 4, "0x07"), Row(5, 9, 4, "0x07"), Row(6, 20, 8, "0x0c")));
  ASSERT_EQ(found.further_tables.size(), 2u);
  EXPECT_EQ(found.further_tables[0], 8 * kMiB);
  EXPECT_TRUE(found.further_tables[1] >= 13 * kMiB && found.further_tables[1] < 20 * kMiB);
}

TEST(Partitions, DynamicDisks) {
  EXPECT_TRUE(Read(Partitioned("label: dos\n1: start=1MiB, size=4MiB, type=42\n")).is_dynamic_disk);
  EXPECT_TRUE(Read(Partitioned("label: gpt\n1: start=1MiB, size=4MiB, type=5808C8AA-7E8F-42E0-85D2-E1E90434CFB3\n"))
                  .is_dynamic_disk);
}

TEST(Partitions, AVolumeWithoutATable) {
  std::string volume(kMiB, '\0');
  volume.replace(3, 8, "NTFS    ");
  volume.replace(510, 2, "\x55\xaa");
  // What code lies there can look like entries.
  volume.replace(446, 64, 64, '\x07');
  Partitions found = Read(volume);
  EXPECT_EQ(found.table, PartitionTable::kNone);
  EXPECT_THAT(RowsOf(found), ElementsAre(Row(1, 0, 1, "")));
  EXPECT_EQ(Read(std::string(kMiB, '\0')).table, PartitionTable::kNone) << "an empty disk";
}

TEST(Partitions, OfSectorsOf4096Bytes) {
  // The table of sfdisk for 512, with sectors 8 times as large: the MBR counts sectors.
  std::string disk(kDiskBytes, '\0');
  const unsigned char entry[] = {0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0};  // from sector 256, 1024 of them
  disk.replace(446, sizeof(entry), reinterpret_cast<const char*>(entry), sizeof(entry));
  disk.replace(510, 2, "\x55\xaa");
  EXPECT_THAT(RowsOf(Read(disk, 4096)), ElementsAre(Row(1, 1, 4, "0x07")));
}

TEST(Partitions, WhatDoesNotLieOnTheDiskIsLeftOut) {
  std::string bytes = Partitioned("label: dos\n1: start=1MiB, size=4MiB, type=7\n2: start=8MiB, size=16MiB, type=7\n");
  EXPECT_THAT(RowsOf(Read(bytes.substr(0, 12 * kMiB))), ElementsAre(Row(1, 1, 4, "0x07")));
}

TEST(Partitions, LogicalOnesThatGoRoundEnd) {
  std::string bytes = Partitioned(
      "label: dos\n1: start=8MiB, size=40MiB, type=f\n5: start=9MiB, size=4MiB, type=7\n6: start=20MiB, size=4MiB, "
      "type=7\n");
  // The table of the second leads to the first.
  Partitions whole = Read(bytes);
  ASSERT_EQ(whole.partitions.size(), 2u);
  for (size_t at = 8 * kMiB; at + 512 <= bytes.size(); at += 512) {
    if (bytes.compare(at + 510, 2, "\x55\xaa") != 0 || at < 13 * kMiB) continue;
    const unsigned char link[] = {0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0};
    bytes.replace(at + 446 + 16, sizeof(link), reinterpret_cast<const char*>(link), sizeof(link));
  }
  EXPECT_THAT(RowsOf(Read(bytes)), ElementsAre(Row(5, 9, 4, "0x07"), Row(6, 20, 4, "0x07")));
}

TEST(Partitions, NonsenseIsSurvived) {
  const std::string whole = Partitioned(kGptScript);
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    std::string bytes = whole.substr(0, 64 * 512);
    for (int i = 0; i < 6; ++i) bytes[random() % 2048] = static_cast<char>(random());
    MemoryDisk disk(bytes);
    absl::StatusOr<Partitions> found = ReadPartitions(disk);
    ASSERT_TRUE(found.ok());
    for (const PartitionInfo& p : found->partitions) {
      EXPECT_LE(p.offset, disk.size());
      EXPECT_LE(p.size, disk.size() - p.offset);
    }
  }
  MemoryDisk empty("");
  EXPECT_FALSE(ReadPartitions(empty).ok());
}

TEST(PartitionDevice, StaysWithinItsPart) {
  MemoryDisk disk("0123456789abcdef");
  PartitionDevice part(&disk, 4, 8);
  char bytes[8];
  ASSERT_EQ(part.Read(0, absl::MakeSpan(bytes)), 0);
  EXPECT_EQ(std::string(bytes, 8), "456789ab");
  EXPECT_EQ(part.Read(1, absl::MakeSpan(bytes)), EINVAL);
  EXPECT_EQ(part.Read(UINT64_MAX, absl::MakeSpan(bytes)), EINVAL);
  EXPECT_EQ(part.Read(8, absl::MakeSpan(bytes, 0)), 0);
}

class WritableMemoryDisk final : public WritableBlockDevice {
 public:
  explicit WritableMemoryDisk(std::string bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }
  uint32_t sector_size() const override { return 512; }
  int Read(uint64_t offset, absl::Span<char> out) const override { return MemoryDisk(bytes_).Read(offset, out); }
  int Write(uint64_t offset, absl::Span<const char> data) override {
    bytes_.replace(offset, data.size(), data.data(), data.size());
    return 0;
  }
  int Sync() override { return 0; }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

TEST(PartitionDevice, IsWrittenToInItsWritablePart) {
  WritableMemoryDisk disk("0123456789abcdef");
  WritablePartitionDevice part(&disk, 4, 8, 6);
  EXPECT_EQ(part.Write(3, {"xyz", 3}), 0);
  EXPECT_EQ(part.Write(4, {"xyz", 3}), ENOSPC);
  EXPECT_EQ(part.Write(6, {"x", 1}), ENOSPC);
  EXPECT_EQ(part.Write(7, {"xy", 2}), EINVAL);
  EXPECT_EQ(disk.bytes(), "0123456xyzabcdef");
  char bytes[2];
  ASSERT_EQ(part.Read(6, absl::MakeSpan(bytes)), 0);
  EXPECT_EQ(std::string(bytes, 2), "ab");
}

}  // namespace
}  // namespace libmount
