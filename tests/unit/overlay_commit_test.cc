// SPDX-License-Identifier: GPL-3.0-or-later
//
// Commits of overlays into raw files, VHDs and VHDXs: right to the last byte, while writing goes on, and after a death
// at every step; qemu-img is the oracle.

#include "libmount/block/overlay_commit.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>

#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/block/disk_image.h"
#include "tests/unit/block_test_util.h"
#include "tests/unit/overlay_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kDiskSize = uint64_t{24} << 20;

struct Format {
  const char* name;  // as qemu-img has it
  const char* options;
};

// Calls `before` ahead of each change; from the change number `allowed` on does half of a write, and then nothing more.
class WatchedFile final : public ContainerFile {
 public:
  WatchedFile(UniqueFd fd, std::function<void(int)> before, int allowed = INT_MAX)
      : file_(MakeContainerFile(std::move(fd))), before_(std::move(before)), allowed_(allowed) {}

  int Write(uint64_t offset, absl::Span<const char> data) override {
    if (Count()) return file_->Write(offset, data);
    if (changes_ == allowed_ + 1) file_->Write(offset, data.first(data.size() / 2));
    return EIO;
  }
  int Resize(uint64_t size) override { return Count() ? file_->Resize(size) : EIO; }
  int Sync() override { return Count() ? file_->Sync() : EIO; }
  int descriptor() const override { return file_->descriptor(); }

 private:
  bool Count() {
    if (before_) before_(changes_);
    return changes_++ < allowed_;
  }

  const std::unique_ptr<ContainerFile> file_;
  const std::function<void(int)> before_;
  const int allowed_;
  int changes_ = 0;
};

class Monitor final : public OperationMonitor {
 public:
  void Report(const ProgressUpdate& update) override {
    EXPECT_EQ(update.phase, Phase::kCommitting);
    EXPECT_GE(update.bytes_done, last_.bytes_done);
    last_ = update;
  }
  bool cancelled() const override { return cancelled_; }
  void Cancel() { cancelled_ = true; }
  void Begin() { last_ = {}; }
  const ProgressUpdate& last() const { return last_; }

 private:
  ProgressUpdate last_;
  bool cancelled_ = false;
};

// An image with the overlay of a staging directory over it.
struct Mount {
  std::unique_ptr<DiskImage> image;
  std::unique_ptr<OverlayDevice> overlay;
};

// For the names of tests: the bytes of pointers would be others in each run.
void PrintTo(const Format& format, std::ostream* out) { *out << format.name << " " << format.options; }

class OverlayCommitTest : public ::testing::TestWithParam<Format> {
 protected:
  OverlayCommitTest() : path_(directory_.Path("disk")), staging_(std::make_shared<MemoryDisk>()) {
    InitLogging("overlay_test", Severity::kError);
    const std::string raw = directory_.Path("from.raw");
    MakeRawDisk(raw, kDiskSize, 3);
    model_ = ReadWholeFile(raw);
    std::string said;
    EXPECT_EQ(RunCommand(std::string("qemu-img convert -f raw -O ") + GetParam().name + " " + GetParam().options + " " +
                             raw + " " + path_,
                         &said),
              0)
        << said;
  }

  absl::StatusOr<Mount> TryOpen() {
    Mount mount;
    auto image = OpenDisk(path_, /*may_be_raw=*/true);
    if (!image.ok()) return image.status();
    mount.image = *std::move(image);
    OverlayOptions options;
    options.base_identity = *DiskIdentity(*mount.image, OpenFile(path_)->get());
    auto overlay = TryOpenOverlay(staging_, mount.image->device(), options);
    if (!overlay.ok()) return overlay.status();
    mount.overlay = *std::move(overlay);
    return mount;
  }
  Mount Open() {
    auto mount = TryOpen();
    EXPECT_TRUE(mount.ok()) << mount.status();
    return *std::move(mount);
  }

  void WriteGroups(Mount& mount, uint32_t first, int count) {
    for (uint32_t seed = first; seed < first + count; ++seed) {
      const RandomGroup group(kDiskSize, seed);
      ASSERT_EQ(group.Run(*mount.overlay, seed), 0);
      group.Apply(model_);
    }
  }

  absl::Status Commit(Mount& mount, std::function<void(int)> before = nullptr, int allowed = INT_MAX) {
    monitor_.Begin();
    auto file = std::make_unique<WatchedFile>(*OpenFile(path_, /*writable=*/true), std::move(before), allowed);
    return CommitOverlay(*mount.overlay, *mount.image, std::move(file), monitor_);
  }

  void ExpectImageHas(const std::string& content, const std::string& when = "") {
    WriteWholeFile(directory_.Path("twin.raw"), content);
    std::string said;
    if (GetParam().name != std::string("raw")) {
      const int checked = RunCommand(std::string("qemu-img check -f ") + GetParam().name + " " + path_, &said);
      EXPECT_TRUE(checked == 0 || checked == 63) << when << ": " << said;  // 63: the format knows no checks
    }
    EXPECT_EQ(RunCommand(std::string("qemu-img compare -f ") + GetParam().name + " -F raw " + path_ + " " +
                             directory_.Path("twin.raw"),
                         &said),
              0)
        << when << ": " << said;
  }

  DiskDirectory directory_;
  const std::string path_;
  std::shared_ptr<MemoryDisk> staging_;
  std::string model_;
  Monitor monitor_;
};

TEST_P(OverlayCommitTest, WhatIsCommittedIsInTheImageAndNoMoreInTheOverlay) {
  Mount mount = Open();
  EXPECT_TRUE(Commit(mount).ok()) << "nothing to do";
  for (uint32_t round = 0; round < 3; ++round) {
    WriteGroups(mount, 1 + round * 100, 60);
    const absl::Status committed = Commit(mount);
    ASSERT_TRUE(committed.ok()) << committed;
    EXPECT_EQ(monitor_.last().bytes_done, monitor_.last().bytes_total);
    EXPECT_FALSE(mount.overlay->has_changes());
    ASSERT_TRUE(Content(*mount.overlay) == model_);
    ExpectImageHas(model_);
    if (round == 1) mount = {}, mount = Open();
  }
}

TEST_P(OverlayCommitTest, WhatIsWrittenMeanwhileStaysInTheOverlay) {
  Mount mount = Open();
  WriteGroups(mount, 1, 30);
  const std::string then = model_;
  const absl::Status committed = Commit(mount, [&](int change) {
    if (change % 5 == 0 && change < 100) WriteGroups(mount, 1000 + change, 1);
    if (change % 10 == 0) {
      ASSERT_TRUE(Content(*mount.overlay) == model_) << "change " << change;
    }
  });
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_TRUE(mount.overlay->has_changes());
  EXPECT_FALSE(mount.overlay->commit_pending());
  ExpectImageHas(then);
  mount = {};
  mount = Open();
  ASSERT_TRUE(Content(*mount.overlay) == model_);
  ASSERT_TRUE(Commit(mount).ok());
  ExpectImageHas(model_);
}

TEST_P(OverlayCommitTest, ACancelledOneLeavesTheFileAsItWas) {
  Mount mount = Open();
  WriteGroups(mount, 1, 20);
  const std::string before = ReadWholeFile(path_);
  monitor_.Cancel();
  EXPECT_EQ(ReasonOf(Commit(mount)), Reason::kCancelled);
  EXPECT_FALSE(mount.overlay->commit_pending());
  EXPECT_TRUE(ReadWholeFile(path_) == before);
  EXPECT_TRUE(Content(*mount.overlay) == model_);
  monitor_ = Monitor();
  ASSERT_TRUE(Commit(mount).ok());
  ExpectImageHas(model_);
}

TEST_P(OverlayCommitTest, AFileChangedByOthersIsLeftAlone) {
  Mount mount = Open();
  WriteGroups(mount, 1, 5);
  std::string changed = ReadWholeFile(path_);
  changed[changed.size() - 5000] ^= 1;
  WriteWholeFile(path_, changed);
  EXPECT_EQ(ReasonOf(Commit(mount)), Reason::kImageChanged);
  EXPECT_TRUE(ReadWholeFile(path_) == changed);
  mount = {};
  EXPECT_EQ(ReasonOf(TryOpen().status()), Reason::kImageChanged);
}

TEST_P(OverlayCommitTest, ADeathAtAnyStepIsMadeGoodByTheNextCommit) {
  std::mt19937 random(5);
  {
    Mount mount = Open();
    WriteGroups(mount, 1, 6);
    ASSERT_EQ(mount.overlay->Sync(), 0);
  }
  const std::string file_before = ReadWholeFile(path_);
  const std::shared_ptr<MemoryDisk> staging_before = staging_;
  const struct stat times = [this] {
    struct stat facts = {};
    stat(path_.c_str(), &facts);
    return facts;
  }();
  bool done = false;
  int begun = 0;
  for (int step = 0; !done; ++step) {
    // Either the file's changes end at some time, or those of the staging directory.
    const bool in_staging = step % 2 == 0 && step < 30;
    WriteWholeFile(path_, file_before);
    const timespec mtime[2] = {times.st_atim, times.st_mtim};
    ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), mtime, 0), 0);
    staging_ = staging_before->Copy();
    Mount mount = Open();
    if (in_staging) staging_->FailAfter(step / 2, EIO);
    done = Commit(mount, nullptr, in_staging ? INT_MAX : step).ok() && !in_staging;
    if (step % 3 == 0 && !done && !in_staging) {  // the process has not died, and tries again
      const absl::Status again = Commit(mount);
      ASSERT_TRUE(again.ok()) << step << ": " << again;
    }
    // Without power, sometimes: what was begun is known to have been.
    std::shared_ptr<MemoryDisk> left = staging_->Copy();
    if (random() % 2 == 0) left = left->LosePower(random);
    mount = {};
    staging_ = left;
    if (!done) {
      mount = Open();
      ASSERT_NE(mount.overlay, nullptr) << step;
      begun += mount.overlay->commit_pending();
      ASSERT_TRUE(Content(*mount.overlay) == model_) << step;
      const absl::Status again = Commit(mount);
      ASSERT_TRUE(again.ok()) << step << ": " << again;
      EXPECT_FALSE(mount.overlay->has_changes());
      ASSERT_TRUE(Content(*mount.overlay) == model_) << step;
    }
    if (step % 8 == 0 || done) {
      ExpectImageHas(model_, "step " + std::to_string(step));
    } else {
      ASSERT_TRUE(Content((*OpenDisk(path_, true))->device()) == model_) << step;
    }
  }
  EXPECT_GT(begun, 5);
}

std::string FormatName(const ::testing::TestParamInfo<Format>& info) {
  constexpr const char* kNames[] = {"Raw", "FixedVhd", "DynamicVhd", "DynamicVhdx"};
  return kNames[info.index];
}

INSTANTIATE_TEST_SUITE_P(Formats, OverlayCommitTest,
                         ::testing::Values(Format{"raw", ""}, Format{"vpc", "-o subformat=fixed,force_size=on"},
                                           Format{"vpc", "-o subformat=dynamic,force_size=on"},
                                           Format{"vhdx", "-o subformat=dynamic,block_size=1M"}),
                         FormatName);

TEST(OverlayCommitRoom, ADiskThatWouldGrowTooLargeIsNotBegun) {
  DiskDirectory directory;
  const std::string path = directory.Path("large.vhdx");
  ASSERT_EQ(RunCommand("qemu-img create -f vhdx -o subformat=dynamic,block_size=256M " + path + " 8T"), 0);
  const std::string before = ReadWholeFile(path);
  auto image = *OpenDisk(path);
  auto staging = std::make_shared<MemoryDisk>();
  auto overlay = OpenOverlay(staging, image->device());
  for (uint64_t block = 0; block < 32 * 1024; ++block) {
    if (block % 64 == 0) overlay->Begin(0);
    ASSERT_EQ(overlay->Write(block << 28, "x"), 0);
    if (block % 64 == 63) {
      ASSERT_EQ(overlay->End({}), 0);
    }
  }
  NullMonitor monitor;
  const absl::Status status =
      CommitOverlay(*overlay, *image, MakeContainerFile(*OpenFile(path, /*writable=*/true)), monitor);
  ASSERT_EQ(ReasonOf(status), Reason::kDiskFull) << status;
  EXPECT_FALSE(overlay->commit_pending());
  EXPECT_TRUE(ReadWholeFile(path) == before);
}

}  // namespace
}  // namespace libmount
