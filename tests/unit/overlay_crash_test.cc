// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random groups of writes to an overlay and to a model of it, with deaths of the process at every step, power losses
// and damaged logs between.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "tests/unit/overlay_test_util.h"
#include "tests/unit/staging_test_util.h"

namespace libmount {
namespace {

constexpr uint64_t kDiskSize = 64 * OverlayDevice::kClusterSize + 512;

class OverlayCrashTest : public ::testing::TestWithParam<int> {
 protected:
  OverlayCrashTest()
      : random_(GetParam()), base_(RandomBytes(random_, kDiskSize)), disk_(std::make_shared<MemoryDisk>()) {
    InitLogging("overlay_test", Severity::kError);  // each cut is worth a warning
    options_.resumed = true;
    options_.rewrite_log_at = 3000;
  }
  std::unique_ptr<OverlayDevice> Open(std::shared_ptr<MemoryDisk> disk) { return OpenOverlay(disk, base_, options_); }

  std::mt19937 random_;
  MemoryDevice base_;
  OverlayOptions options_;
  std::shared_ptr<MemoryDisk> disk_;
};

// All that would be written from some call on fails, that call having done half of it: the files are then as a kill
// within that call leaves them.
TEST_P(OverlayCrashTest, ADeathAtAnyStepLeavesWholeGroups) {
  std::unique_ptr<OverlayDevice> device = Open(disk_);
  std::string model = base_.content();
  uint64_t request = 0;
  for (int round = 0; round < 25; ++round) {
    const uint32_t seed = random_();
    const RandomGroup group(kDiskSize, seed);
    const bool syncs = random_() % 3 == 0;
    ++request;
    std::string after = model;
    group.Apply(after);
    // Until it comes through.
    for (int step = 0;; ++step) {
      disk_->FailAfter(step, EIO);
      int error = group.Run(*device, request);
      const bool ended = error == 0;
      if (error == 0 && syncs) error = device->Sync();
      std::shared_ptr<MemoryDisk> left = disk_->Copy();
      disk_->Heal();
      device = Open(left);
      ASSERT_NE(device, nullptr);
      const std::string now = Content(*device);
      ASSERT_TRUE(now == (ended ? after : model)) << "round " << round << " step " << step;
      ASSERT_EQ(device->FindReply(request).has_value(), ended && !group.given_up);
      disk_ = left;
      if (ended) model = after;
      if (ended && error == 0) break;
      if (ended) ++request;
    }
  }
}

TEST_P(OverlayCrashTest, APowerLossLeavesAllThatWasSyncedAndWholeGroups) {
  std::unique_ptr<OverlayDevice> device = Open(disk_);
  std::string model = base_.content();
  ASSERT_EQ(device->Sync(), 0);
  uint64_t request = 0;
  int lost = 0;
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> models = {model};
    const int groups = static_cast<int>(random_() % 8);
    for (int i = 0; i < groups; ++i) {
      const RandomGroup group(kDiskSize, random_());
      ASSERT_EQ(group.Run(*device, ++request), 0);
      group.Apply(model);
      models.push_back(model);
    }
    if (random_() % 4 == 0) {  // a replacement goes on
      device = nullptr;
      device = Open(disk_);
      ASSERT_NE(device, nullptr);
      ASSERT_TRUE(Content(*device) == model) << "round " << round;
    }
    if (random_() % 4 == 0) {  // a sync that fails in the middle leaves what was there
      disk_->FailAfter(static_cast<int>(random_() % 4), EIO);
      device->Sync();
      std::shared_ptr<MemoryDisk> copy = disk_->Copy();
      disk_->Heal();
      device = Open(disk_ = copy->LosePower(random_));
    } else {
      device = nullptr;
      device = Open(disk_->LosePower(random_));
    }
    ASSERT_NE(device, nullptr);
    const std::string left = Content(*device);
    const auto found = std::find(models.rbegin(), models.rend(), left);
    ASSERT_NE(found, models.rend()) << "round " << round;
    lost += found != models.rbegin();
    // Either life goes on on what is left, or, as if the power had not been lost, on the other.
    device = nullptr;
    device = Open(disk_);
    model = Content(*device);
    ASSERT_NE(std::find(models.begin(), models.end(), model), models.end());
    if (random_() % 2 == 0) {
      ASSERT_EQ(device->Sync(), 0);
      auto whole = Open(disk_->LosePower(random_));
      ASSERT_NE(whole, nullptr);
      ASSERT_TRUE(Content(*whole) == model) << "round " << round;
    } else {
      std::shared_ptr<MemoryDisk> next = disk_->LosePower(random_);
      device = nullptr;
      device = Open(next);
      ASSERT_NE(device, nullptr);
      disk_ = next;
      model = Content(*device);
      ASSERT_NE(std::find(models.begin(), models.end(), model), models.end());
    }
  }
  EXPECT_GT(lost, 5) << "the test loses too little";
}

TEST_P(OverlayCrashTest, KilledProcessesLoseNothingAcknowledged) {
  StagingDirectory directory;
  std::string model = base_.content();
  uint32_t group_number = 0;
  for (int round = 0; round < 12; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto device = OverlayDevice::Open(directory.Open(), &base_, options_);
      if (!device.ok()) _exit(1);
      for (uint32_t number = group_number + 1;; ++number) {
        if (RandomGroup(kDiskSize, number).Run(**device, number) != 0) _exit(1);
        if (number % 16 == 0 && (*device)->Sync() != 0) _exit(1);
        if (write(pipe_ends[1], &number, sizeof number) != sizeof number) _exit(1);
      }
    }
    close(pipe_ends[1]);
    uint32_t acknowledged = group_number;
    const int wanted = static_cast<int>(random_() % 60);
    for (int i = 0; i <= wanted; ++i) ASSERT_EQ(read(pipe_ends[0], &acknowledged, sizeof acknowledged), 4);
    kill(child, SIGKILL);
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    for (uint32_t number; read(pipe_ends[0], &number, sizeof number) == sizeof number;) acknowledged = number;
    close(pipe_ends[0]);
    while (group_number < acknowledged) RandomGroup(kDiskSize, ++group_number).Apply(model);
    auto device = OverlayDevice::Open(directory.Open(), &base_, options_);
    ASSERT_TRUE(device.ok()) << device.status();
    const std::string left = Content(**device);
    std::string next = model;
    RandomGroup(kDiskSize, group_number + 1).Apply(next);
    ASSERT_TRUE(left == model || left == next) << "round " << round;
    if (left == next) {
      ++group_number;
      model = next;
    }
  }
}

TEST_P(OverlayCrashTest, DamagedLogsAreRefusedOrCutOff) {
  options_.rewrite_log_at = 1 << 20;
  std::unique_ptr<OverlayDevice> device = Open(disk_);
  std::vector<std::string> models = {base_.content()};
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const RandomGroup group(kDiskSize, seed);
    ASSERT_EQ(group.Run(*device, seed), 0);
    models.push_back(models.back());
    group.Apply(models.back());
  }
  device = nullptr;
  for (int i = 0; i < 60; ++i) {
    std::shared_ptr<MemoryDisk> damaged = disk_->Copy();
    std::string& content = damaged->Content(i % 2 ? "log" : "data");
    char& byte = content[random_() % content.size()];
    byte = static_cast<char>(byte ^ (1 << random_() % 8));
    auto left = TryOpenOverlay(damaged, base_, options_);
    if (!left.ok()) {
      EXPECT_EQ(ReasonOf(left.status()), Reason::kBadImageFormat);
      continue;
    }
    EXPECT_NE(std::find(models.begin(), models.end(), Content(**left)), models.end());
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, OverlayCrashTest, ::testing::Range(1, 7));

}  // namespace
}  // namespace libmount
