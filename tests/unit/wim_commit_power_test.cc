// SPDX-License-Identifier: GPL-3.0-or-later
//
// A commit that a loss of power ends: whatever the disk had written of what was not synced, the file is the old one or
// the new one.
//
// The calls of a commit that write are recorded (this program's own pwrite, ftruncate and fdatasync stand before the C
// library's). From the record files are made as a disk could have them: all that had been synced, and of the rest any
// sectors.

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wimlib.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/wim_commit_test_util.h"
#include "tests/unit/wim_format_test_util.h"

namespace libmount {
namespace {

constexpr size_t kSector = 512;

struct Call {
  enum class Kind { kWrite, kTruncate, kSync } kind;
  uint64_t offset = 0;  // kTruncate: the size
  std::string bytes;
};

class Recorder {
 public:
  void Watch(const std::string& path) {
    struct stat file = {};
    ASSERT_EQ(stat(path.c_str(), &file), 0);
    std::lock_guard lock(mutex_);
    inode_ = file.st_ino;
    calls_.clear();
  }
  std::vector<Call> Take() {
    std::lock_guard lock(mutex_);
    inode_ = 0;
    return std::move(calls_);
  }
  void Note(int fd, Call call) {
    std::lock_guard lock(mutex_);
    struct stat file = {};
    if (inode_ == 0 || fstat(fd, &file) != 0 || file.st_ino != inode_) return;
    calls_.push_back(std::move(call));
  }

 private:
  std::mutex mutex_;
  ino_t inode_ = 0;
  std::vector<Call> calls_;
};

Recorder& TheRecorder() {
  static Recorder recorder;
  return recorder;
}

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace
}  // namespace libmount

extern "C" ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static auto* const next = libmount::Next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  const ssize_t written = next(fd, bytes, size, offset);
  if (written > 0) {
    libmount::TheRecorder().Note(fd, {libmount::Call::Kind::kWrite, static_cast<uint64_t>(offset),
                                      std::string(static_cast<const char*>(bytes), static_cast<size_t>(written))});
  }
  return written;
}

extern "C" int ftruncate(int fd, off_t size) noexcept {
  static auto* const next = libmount::Next<int(int, off_t)>("ftruncate");
  const int result = next(fd, size);
  if (result == 0) {
    libmount::TheRecorder().Note(fd, {libmount::Call::Kind::kTruncate, static_cast<uint64_t>(size), {}});
  }
  return result;
}

extern "C" int fdatasync(int fd) {
  static auto* const next = libmount::Next<int(int)>("fdatasync");
  const int result = next(fd);
  if (result == 0) libmount::TheRecorder().Note(fd, {libmount::Call::Kind::kSync, 0, {}});
  return result;
}

namespace libmount {
namespace {

void Apply(const Call& call, std::string* file) {
  if (call.kind == Call::Kind::kTruncate) file->resize(call.offset, '\0');
  if (call.kind != Call::Kind::kWrite) return;
  if (file->size() < call.offset + call.bytes.size()) file->resize(call.offset + call.bytes.size(), '\0');
  file->replace(call.offset, call.bytes.size(), call.bytes);
}

// The file as it may be when the power goes after `count` calls: each sector that was not synced as it was before, or
// as any call since has left it; a sector is written whole or not at all. Its size is that after any of these calls.
std::string LosePower(const std::string& before, const std::vector<Call>& calls, size_t count, std::mt19937& random) {
  size_t synced = 0;
  for (size_t i = 0; i < count; ++i) synced = calls[i].kind == Call::Kind::kSync ? i + 1 : synced;
  std::string file = before;
  for (size_t i = 0; i < synced; ++i) Apply(calls[i], &file);
  std::string latest = file;
  uint64_t size = file.size();
  std::map<uint64_t, std::string> sectors;
  for (size_t i = synced; i < count; ++i) {
    Apply(calls[i], &latest);
    if (random() % 2 == 0) size = latest.size();
    if (calls[i].kind != Call::Kind::kWrite) continue;
    const uint64_t end = calls[i].offset + calls[i].bytes.size();
    for (uint64_t sector = calls[i].offset / kSector; sector * kSector < end; ++sector) {
      if (random() % 2 == 0) sectors[sector] = latest.substr(sector * kSector, kSector);
    }
  }
  file.resize(size, '\0');
  for (const auto& [sector, bytes] : sectors) {
    const uint64_t offset = sector * kSector;
    if (offset < size) file.replace(offset, std::min<uint64_t>(bytes.size(), size - offset), bytes);
  }
  return file;
}

TEST(WimCommitPower, TheFileIsTheOldOrTheNewOne) {
  TempDirectory directory;
  const std::string wim = directory.Path("test.wim");
  ASSERT_NO_FATAL_FAILURE(MakeThreeImages(directory, wim, {.write_flags = WIMLIB_WRITE_FLAG_CHECK_INTEGRITY}));
  const std::string before = ReadFile(wim);
  const auto old_image = Describe(wim, 2);
  const auto other_image = Describe(wim, 1);
  EditedImage image = ImageOf(wim, 2);
  Edit(image);
  TheRecorder().Watch(wim);
  absl::StatusOr<WimCommitResult> result = CommitTo(wim, 2, image);
  const std::vector<Call> calls = TheRecorder().Take();
  ASSERT_TRUE(result.ok()) << result.status();
  image.Apply(result->stored);
  const auto new_image = Describe(image);
  const std::string after = ReadFile(wim);
  std::string replayed = before;
  for (const Call& call : calls) Apply(call, &replayed);
  ASSERT_TRUE(replayed == after) << "not all calls were recorded";

  std::mt19937 random(20261129);
  const std::string cut = directory.Path("cut.wim");
  int as_old = 0;
  int as_new = 0;
  for (size_t count = 0; count <= calls.size(); ++count) {
    for (int round = 0; round < 3; ++round) {
      const std::string left = LosePower(before, calls, count, random);
      const bool is_new = left.substr(0, 208) != before.substr(0, 208);
      WriteFile(cut, left);
      EXPECT_EQ(Describe(cut, 2) == new_image, is_new) << "after " << count << " of " << calls.size() << " calls";
      EXPECT_EQ(Describe(cut, 2) == old_image, !is_new);
      EXPECT_EQ(Describe(cut, 1), other_image);
      // The oracles for what is whole: every blob, the tables, the integrity table.
      if (round == 0 && (count == 0 || calls[count - 1].kind != Call::Kind::kWrite)) CheckWim(cut);
      // Once it is synced it can be nothing but the new one.
      if (count == calls.size()) {
        EXPECT_TRUE(left == after);
      }
      ++(is_new ? as_new : as_old);
    }
  }
  EXPECT_GT(as_old, 10);
  EXPECT_GE(as_new, 3);
}

}  // namespace
}  // namespace libmount
