// SPDX-License-Identifier: GPL-3.0-or-later
//
// Writing into disk images: right to the last byte, valid at every moment, finished after a crash.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/block/container_writer.h"
#include "tests/unit/block_builder.h"
#include "tests/unit/block_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kMiB = 1 << 20;

// One change of a file.
struct Change {
  enum class Kind { kWrite, kResize, kSync };
  Kind kind;
  uint64_t offset = 0;  // kResize: the size
  std::string bytes;
};

// Does what it is told, and keeps a list of it; fails from a certain change on.
class RecordingFile final : public ContainerFile {
 public:
  RecordingFile(UniqueFd fd, std::vector<Change>* changes, size_t allowed = SIZE_MAX)
      : fd_(fd.get()), file_(MakeContainerFile(std::move(fd))), changes_(*changes), allowed_(allowed) {}

  int Write(uint64_t offset, absl::Span<const char> data) override {
    if (changes_.size() >= allowed_) {
      // A full disk takes a part, in whole sectors: what lies inside one sector is there or not.
      const uint64_t behind = (offset + data.size() / 2) / 512 * 512;
      if (behind > offset) (void)file_->Write(offset, data.first(behind - offset));
      return ENOSPC;
    }
    changes_.push_back({Change::Kind::kWrite, offset, std::string(data.data(), data.size())});
    return file_->Write(offset, data);
  }
  int Resize(uint64_t size) override {
    changes_.push_back({Change::Kind::kResize, size, {}});
    return file_->Resize(size);
  }
  int Sync() override {
    changes_.push_back({Change::Kind::kSync, 0, {}});
    return 0;
  }
  int descriptor() const override { return fd_; }

 private:
  const int fd_;
  const std::unique_ptr<ContainerFile> file_;
  std::vector<Change>& changes_;
  const size_t allowed_;
};

void Apply(const Change& change, std::string& file) {
  if (change.kind == Change::Kind::kResize) file.resize(change.offset);
  if (change.kind != Change::Kind::kWrite) return;
  if (file.size() < change.offset + change.bytes.size()) file.resize(change.offset + change.bytes.size());
  file.replace(change.offset, change.bytes.size(), change.bytes);
}

// Of what was not synced, any part may be there: of a write any of its sectors' pages.
void ApplySome(const Change& change, std::mt19937& random, std::string& file) {
  if (change.kind != Change::Kind::kWrite) {
    if (random() % 2 == 0) Apply(change, file);
    return;
  }
  for (size_t at = 0; at < change.bytes.size();) {
    const size_t piece = std::min<size_t>(change.bytes.size() - at, kCluster - (change.offset + at) % kCluster);
    if (random() % 2 == 0) Apply({change.kind, change.offset + at, change.bytes.substr(at, piece)}, file);
    at += piece;
  }
}

// The file after `count` changes: all of them (a killed process), or what a power loss may leave.
std::string AfterCrash(std::string file, const std::vector<Change>& changes, size_t count, std::mt19937* random) {
  size_t synced = 0;
  for (size_t i = 0; i < count; ++i) {
    if (changes[i].kind == Change::Kind::kSync) synced = i;
  }
  for (size_t i = 0; i < count; ++i) {
    if (random == nullptr || i < synced) {
      Apply(changes[i], file);
    } else {
      ApplySome(changes[i], *random, file);
    }
  }
  return file;
}

using Clusters = std::map<uint64_t, std::string>;  // by offset

std::string RandomBytes(std::mt19937& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

Clusters RandomClusters(uint64_t size, int count, uint32_t seed) {
  std::mt19937 random(seed);
  Clusters clusters;
  for (int i = 0; i < count; ++i) {
    const uint64_t offset = random() % (size / kCluster) * kCluster;
    clusters[offset] = RandomBytes(random, std::min(kCluster, size - offset));
  }
  return clusters;
}

absl::Status WriteClusters(const std::string& path, const Clusters& clusters, std::vector<Change>* changes = nullptr,
                           size_t allowed = SIZE_MAX) {
  absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path);
  if (!image.ok()) return image.status();
  absl::StatusOr<UniqueFd> fd = OpenFile(path, true);
  if (!fd.ok()) return fd.status();
  NullMonitor monitor;
  std::vector<Change> unused;
  auto file = std::make_unique<RecordingFile>(*std::move(fd), changes == nullptr ? &unused : changes, allowed);
  (*image)->SuspendWatch();
  auto writer = ContainerWriter::Open(**image, std::move(file), monitor);
  if (!writer.ok()) return writer.status();
  for (const auto& [offset, bytes] : clusters) {
    if (absl::Status status = (*writer)->Write(offset, bytes); !status.ok()) return status;
  }
  if (absl::Status status = (*writer)->Finish(); !status.ok()) return status;
  (*image)->RenewWatch();
  // The image that was open all the while reads it, too.
  for (const auto& [offset, bytes] : clusters) {
    std::string now(bytes.size(), '\0');
    EXPECT_EQ((*image)->device().Read(offset, absl::MakeSpan(now)), 0);
    EXPECT_TRUE(now == bytes) << "at " << offset;
  }
  return absl::OkStatus();
}

std::string WithClusters(std::string disk, const Clusters& clusters) {
  for (const auto& [offset, bytes] : clusters) disk.replace(offset, bytes.size(), bytes);
  return disk;
}

std::string DiskOf(const std::string& path) {
  absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path);
  EXPECT_TRUE(image.ok()) << path << ": " << image.status();
  return image.ok() ? Contents((*image)->device()) : std::string();
}

// A disk to write into: made in a directory, with its parents.
struct Subject {
  const char* name;
  std::function<void(const std::string& directory)> make;  // disk.vhd(x)
  const char* file;
  bool qemu_checks;  // qemu-img can read it
};

void QemuCreate(const std::string& directory, const char* file, const std::string& options) {
  std::string output;
  ASSERT_EQ(RunCommand("qemu-img create -q " + options + " " + directory + "/" + file + " 6M", &output), 0) << output;
}

std::vector<bool> EveryThird(size_t count) {
  std::vector<bool> bits(count);
  for (size_t i = 0; i < count; ++i) bits[i] = i % 3 == 0 || i / 100 % 2 == 0;
  return bits;
}

VhdxPlan VhdxParent(uint32_t sector_size) {
  std::mt19937 random(1);
  VhdxPlan plan;
  plan.virtual_size = 9 * kMiB + 3 * kCluster;
  plan.sector_size = sector_size;
  plan.block_size = kMiB;
  plan.data_write_byte = 'p';
  for (uint64_t block : {0, 2, 3, 7, 9}) plan.blocks[block].data = RandomBytes(random, kMiB);
  return plan;
}

void MakeVhdxChain(const std::string& directory, uint32_t sector_size) {
  WriteWholeFile(directory + "/parent.vhdx", BuildVhdx(VhdxParent(sector_size)));
  std::mt19937 random(2);
  VhdxPlan plan = VhdxParent(sector_size);
  plan.blocks.clear();
  plan.data_write_byte = 'c';
  plan.has_parent = true;
  plan.parent = {"{70707070-7070-7070-7070-707070707070}", ".\\parent.vhdx", ""};
  plan.blocks[2] = {RandomBytes(random, kMiB), EveryThird(kMiB / sector_size)};
  plan.blocks[3] = {RandomBytes(random, kMiB), {}};
  plan.blocks[4] = {RandomBytes(random, kMiB), EveryThird(kMiB / sector_size)};
  plan.raw_entries[7] = 2;  // zeros, which hide the parent
  WriteWholeFile(directory + "/disk.vhdx", BuildVhdx(plan));
}

void MakeVhdChain(const std::string& directory) {
  std::mt19937 random(3);
  VhdPlan parent;
  parent.virtual_size = 9 * kMiB + 5 * kCluster;
  parent.block_size = 512 << 10;
  for (uint64_t block : {0, 1, 5, 18}) parent.blocks[block].data = RandomBytes(random, parent.block_size);
  WriteWholeFile(directory + "/parent.vhd", BuildVhd(parent));
  VhdPlan child = parent;
  child.has_parent = true;
  child.parent = {parent.unique_id, "", "D:\\disks\\parent.vhd"};
  child.unique_id = std::string(16, 'c');
  child.blocks.clear();
  child.blocks[1] = {RandomBytes(random, parent.block_size), EveryThird(parent.block_size / 512)};
  child.blocks[6] = {RandomBytes(random, parent.block_size), EveryThird(parent.block_size / 512)};
  WriteWholeFile(directory + "/disk.vhd", BuildVhd(child));
}

void MakeDirtyVhdx(const std::string& directory) {
  std::string file = BuildVhdx(VhdxParent(512));
  std::string bat = file.substr(kBuiltBat, 4096);
  // Block 0 moves to where block 2 is, and block 2 becomes zeros.
  const VhdxGeometry geometry = {VhdxParent(512).virtual_size, 1 << 20, 512, false};
  memcpy(bat.data(), file.data() + kBuiltBat + geometry.payload_entry(2) * 8, 8);
  const uint64_t zero = 2;
  memcpy(bat.data() + geometry.payload_entry(2) * 8, &zero, sizeof zero);
  AddLog(file, {{5, 4096, 4096, {{kBuiltBat, bat}}}});
  WriteWholeFile(directory + "/disk.vhdx", file);
}

const Subject kSubjects[] = {
    {"FixedVhd", [](const std::string& d) { QemuCreate(d, "disk.vhd", "-f vpc -o subformat=fixed,force_size=on"); },
     "disk.vhd", true},
    {"DynamicVhd", [](const std::string& d) { QemuCreate(d, "disk.vhd", "-f vpc -o subformat=dynamic,force_size=on"); },
     "disk.vhd", true},
    {"DifferencingVhd", [](const std::string& d) { MakeVhdChain(d); }, "disk.vhd", false},
    {"DynamicVhdx", [](const std::string& d) { QemuCreate(d, "disk.vhdx", "-f vhdx -o block_size=1M"); }, "disk.vhdx",
     true},
    {"FixedVhdx", [](const std::string& d) { QemuCreate(d, "disk.vhdx", "-f vhdx -o block_size=2M,subformat=fixed"); },
     "disk.vhdx", true},
    {"DifferencingVhdx", [](const std::string& d) { MakeVhdxChain(d, 512); }, "disk.vhdx", false},
    {"DifferencingVhdxOf4096", [](const std::string& d) { MakeVhdxChain(d, 4096); }, "disk.vhdx", false},
    {"VhdxWithLog", [](const std::string& d) { MakeDirtyVhdx(d); }, "disk.vhdx", true},
};

class BlockWriter : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    GetParam().make(directory_.path());
    path_ = directory_.Path(GetParam().file);
    original_file_ = ReadWholeFile(path_);
    before_ = DiskOf(path_);
    ASSERT_GT(before_.size(), 0u);
    clusters_ = RandomClusters(before_.size(), 24, 4);
    after_ = WithClusters(before_, clusters_);
  }

  // What qemu says of the file as it is.
  void CheckWithQemu(const std::string& disk) {
    if (!GetParam().qemu_checks) return;
    std::string output;
    const bool vhdx = path_.ends_with("x");
    const std::string format = vhdx ? "vhdx" : "vpc";
    if (vhdx) {
      EXPECT_EQ(RunCommand("qemu-img check -f vhdx " + path_, &output), 0) << output;
    }
    WriteWholeFile(directory_.Path("twin.raw"), disk);
    EXPECT_EQ(
        RunCommand("qemu-img compare -f " + format + " -F raw " + path_ + " " + directory_.Path("twin.raw"), &output),
        0)
        << output;
  }

  bool DirtyLog() const { return OpenDisk(path_).value()->chain()[0].log_replayed; }

  // Each cluster is what it was or what it is to be.
  void ExpectBetween(const std::string& disk) const {
    ASSERT_EQ(disk.size(), before_.size());
    for (uint64_t at = 0; at < disk.size(); at += kCluster) {
      if (disk.compare(at, kCluster, before_, at, kCluster) == 0) continue;
      // A cluster that was being written in place may hold pieces of both; no other one.
      ASSERT_TRUE(clusters_.count(at) != 0) << "cluster at " << at;
    }
  }

  DiskDirectory directory_;
  std::string path_;
  std::string original_file_;
  std::string before_;
  std::string after_;
  Clusters clusters_;
};

TEST_P(BlockWriter, WritesWhatItIsTold) {
  ASSERT_TRUE(WriteClusters(path_, clusters_).ok());
  EXPECT_TRUE(DiskOf(path_) == after_);
  CheckWithQemu(after_);
  // Again, into what is there now: nothing grows.
  const auto size = std::filesystem::file_size(path_);
  ASSERT_TRUE(WriteClusters(path_, clusters_).ok());
  EXPECT_EQ(std::filesystem::file_size(path_), size);
  EXPECT_TRUE(DiskOf(path_) == after_);
}

TEST_P(BlockWriter, OddPieces) {
  Clusters pieces;
  std::mt19937 random(6);
  for (uint64_t at = 700; at < before_.size() - 5000; at += 777'777)
    pieces[at] = RandomBytes(random, 1 + random() % 4999);
  pieces[before_.size() - 3] = "end";
  absl::Status status = WriteClusters(path_, pieces);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(DiskOf(path_) == WithClusters(before_, pieces));
  CheckWithQemu(WithClusters(before_, pieces));
  EXPECT_FALSE(WriteClusters(path_, {{before_.size() - 1, "xy"}}).ok());
}

TEST_P(BlockWriter, AKillAtAnyStepLeavesAValidDiskAndIsFinished) {
  std::vector<Change> changes;
  ASSERT_TRUE(WriteClusters(path_, clusters_, &changes).ok());
  const std::string finished = ReadWholeFile(path_);
  ASSERT_GT(changes.size(), clusters_.size());
  for (size_t count = 0; count <= changes.size(); ++count) {
    SCOPED_TRACE(count);
    WriteWholeFile(path_, AfterCrash(original_file_, changes, count, nullptr));
    ExpectBetween(DiskOf(path_));
    if (count % 16 == 5 && GetParam().qemu_checks && path_.ends_with("x") && !DirtyLog()) {
      std::string output;
      EXPECT_EQ(RunCommand("qemu-img check -f vhdx " + path_, &output), 0) << output;
    }
    if (HasFatalFailure() || count % 3 != 0) continue;
    absl::Status status = WriteClusters(path_, clusters_);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(DiskOf(path_) == after_);
    EXPECT_EQ(std::filesystem::file_size(path_), finished.size());
  }
  CheckWithQemu(after_);
}

TEST_P(BlockWriter, APowerLossAtAnyStepLeavesAValidDiskAndIsFinished) {
  std::vector<Change> changes;
  ASSERT_TRUE(WriteClusters(path_, clusters_, &changes).ok());
  std::mt19937 random(7);
  for (size_t count = 0; count <= changes.size(); ++count) {
    SCOPED_TRACE(count);
    WriteWholeFile(path_, AfterCrash(original_file_, changes, count, &random));
    ExpectBetween(DiskOf(path_));
    if (HasFatalFailure() || count % 3 != 1) continue;
    absl::Status status = WriteClusters(path_, clusters_);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(DiskOf(path_) == after_);
  }
  CheckWithQemu(after_);
}

TEST_P(BlockWriter, AFullDiskIsSaidAndTheContainerIsValid) {
  std::vector<Change> all;
  ASSERT_TRUE(WriteClusters(path_, clusters_, &all).ok());
  for (size_t allowed = 0; allowed < all.size(); allowed += 5) {
    SCOPED_TRACE(allowed);
    WriteWholeFile(path_, original_file_);
    std::vector<Change> changes;
    absl::Status status = WriteClusters(path_, clusters_, &changes, allowed);
    if (status.ok()) continue;  // it was done but for a sync
    EXPECT_EQ(ReasonOf(status), Reason::kDiskFull) << status;
    ExpectBetween(DiskOf(path_));
    status = WriteClusters(path_, clusters_);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(DiskOf(path_) == after_);
  }
}

TEST_P(BlockWriter, AnotherFileIsRefused) {
  absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path_);
  ASSERT_TRUE(image.ok());
  std::filesystem::copy(path_, path_ + ".copy");
  NullMonitor monitor;
  EXPECT_EQ(
      ReasonOf(ContainerWriter::Open(**image, MakeContainerFile(*OpenFile(path_ + ".copy", true)), monitor).status()),
      Reason::kImageChanged);
  std::filesystem::last_write_time(path_, std::filesystem::file_time_type::clock::now() + std::chrono::seconds(3));
  EXPECT_EQ(ReasonOf(ContainerWriter::Open(**image, MakeContainerFile(*OpenFile(path_, true)), monitor).status()),
            Reason::kImageChanged);
}

INSTANTIATE_TEST_SUITE_P(All, BlockWriter, testing::ValuesIn(kSubjects),
                         [](const testing::TestParamInfo<Subject>& info) { return std::string(info.param.name); });

// Ten thousand clusters at random places of an empty disk, with the disk closed and opened again on the way.
void WriteTenThousand(const std::string& format, const std::string& options) {
  DiskDirectory directory;
  const std::string path = directory.Path("disk");
  const std::string twin = directory.Path("twin.raw");
  constexpr uint64_t kSize = 128 * kMiB;
  std::string output;
  ASSERT_EQ(RunCommand("qemu-img create -q -f " + format + " -o " + options + " " + path + " 128M", &output), 0)
      << output;
  UniqueFd raw(open(twin.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(raw.get(), kSize), 0);
  std::mt19937 random(8);
  for (int round = 0; round < 10; ++round) {
    absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path);
    ASSERT_TRUE(image.ok()) << image.status();
    NullMonitor monitor;
    (*image)->SuspendWatch();
    auto writer = ContainerWriter::Open(**image, MakeContainerFile(*OpenFile(path, true)), monitor);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int i = 0; i < 1000; ++i) {
      const uint64_t offset = random() % (kSize / kCluster) * kCluster;
      const std::string bytes = RandomBytes(random, kCluster);
      ASSERT_TRUE((*writer)->Write(offset, bytes).ok());
      ASSERT_EQ(pwrite(raw.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
                static_cast<ssize_t>(bytes.size()));
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }
  if (format == "vhdx") {
    EXPECT_EQ(RunCommand("qemu-img check -f vhdx " + path, &output), 0) << output;
    EXPECT_NE(output.find("No errors"), std::string::npos) << output;
  }
  EXPECT_EQ(RunCommand("qemu-img compare -s -f " + format + " -F raw " + path + " " + twin, &output) & ~1, 0) << output;
  EXPECT_EQ(RunCommand("qemu-img compare -f " + format + " -F raw " + path + " " + twin, &output), 0) << output;
  absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path);
  absl::StatusOr<std::unique_ptr<DiskImage>> expected = OpenDisk(twin, true);
  ASSERT_TRUE(image.ok() && expected.ok());
  EXPECT_EQ(HashOf((*image)->device()), HashOf((*expected)->device()));
}

TEST(BlockWriterTenThousand, Vhd) { WriteTenThousand("vpc", "subformat=dynamic,force_size=on"); }
TEST(BlockWriterTenThousand, Vhdx) { WriteTenThousand("vhdx", "block_size=1M"); }
TEST(BlockWriterTenThousand, VhdxOfLargeBlocks) { WriteTenThousand("vhdx", "block_size=32M"); }

TEST(BlockWriterVhdx, GuidsChangeAndTheLogIsClosed) {
  DiskDirectory directory;
  MakeDirtyVhdx(directory.path());
  const std::string path = directory.Path("disk.vhdx");
  const std::string before = OpenDisk(path).value()->chain()[0].data_write_identifier;
  ASSERT_TRUE(OpenDisk(path).value()->chain()[0].log_replayed);
  ASSERT_TRUE(WriteClusters(path, {{0, "x"}}).ok());
  absl::StatusOr<std::unique_ptr<DiskImage>> image = OpenDisk(path);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_FALSE((*image)->chain()[0].log_replayed);
  EXPECT_NE((*image)->chain()[0].data_write_identifier, before);
}

TEST(BlockWriterVhdx, NothingWrittenNothingChanged) {
  DiskDirectory directory;
  MakeDirtyVhdx(directory.path());
  const std::string before = ReadWholeFile(directory.Path("disk.vhdx"));
  ASSERT_TRUE(WriteClusters(directory.Path("disk.vhdx"), {}).ok());
  EXPECT_TRUE(ReadWholeFile(directory.Path("disk.vhdx")) == before);
}

TEST(BlockWriterVhdx, BlocksThatOverlapAreReadAndNotWritten) {
  DiskDirectory directory;
  std::string file = BuildVhdx(VhdxParent(512));
  const VhdxGeometry geometry = {VhdxParent(512).virtual_size, 1 << 20, 512, false};
  memcpy(file.data() + kBuiltBat + geometry.payload_entry(0) * 8,
         file.data() + kBuiltBat + geometry.payload_entry(2) * 8, 8);
  WriteWholeFile(directory.Path("disk.vhdx"), file);
  const std::string disk = DiskOf(directory.Path("disk.vhdx"));
  EXPECT_TRUE(disk.substr(0, kMiB) == disk.substr(2 * kMiB, kMiB));
  EXPECT_EQ(ReasonOf(WriteClusters(directory.Path("disk.vhdx"), {{0, "x"}})), Reason::kBadImageFormat);
  EXPECT_TRUE(ReadWholeFile(directory.Path("disk.vhdx")) == file);
}

}  // namespace
}  // namespace libmount
