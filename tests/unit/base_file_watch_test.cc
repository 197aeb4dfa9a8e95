// SPDX-License-Identifier: GPL-3.0-or-later
//
// FileWatch: what is told from a file that others changed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "libmount/base/file_watch.h"
#include "libmount/base/unique_fd.h"

namespace libmount {
namespace {

class FileWatchTest : public testing::Test {
 protected:
  static constexpr size_t kSize = 1 << 20;

  void SetUp() override {
    directory_ = testing::TempDir() + "/watchXXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
    path_ = directory_ + "/file";
    fd_.reset(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    const std::string content(kSize, 'a');
    ASSERT_EQ(pwrite(fd_.get(), content.data(), content.size(), 0), static_cast<ssize_t>(kSize));
    // In the past, so that each change below gives other times, however coarse the clock.
    const timespec times[2] = {{1'000'000, 0}, {1'000'000, 0}};
    ASSERT_EQ(futimens(fd_.get(), times), 0);
    before_ = Facts();
    watch_ = std::make_unique<FileWatch>(fd_.get(), before_);
  }
  void TearDown() override {
    for (const char* name : {"/file", "/other"}) unlink((directory_ + name).c_str());
    rmdir(directory_.c_str());
  }

  struct stat Facts() {
    struct stat facts;
    EXPECT_EQ(fstat(fd_.get(), &facts), 0);
    return facts;
  }

  // Until the clock that files have has gone on since the last change.
  void AwaitClock() {
    const std::string probe = directory_ + "/other";
    const struct stat last = Facts();
    struct stat now;
    do {
      UniqueFd file(open(probe.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      ASSERT_EQ(fstat(file.get(), &now), 0);
      unlink(probe.c_str());
    } while (now.st_ctim.tv_sec == last.st_ctim.tv_sec && now.st_ctim.tv_nsec == last.st_ctim.tv_nsec);
  }

  void Read(uint64_t offset, size_t size) {
    const uint64_t epoch = watch_->Epoch();
    std::vector<char> bytes(size);
    ASSERT_EQ(pread(fd_.get(), bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    watch_->Note(epoch, offset, bytes);
  }

  void WriteAndPutTimeBack(uint64_t offset) {
    ASSERT_EQ(pwrite(fd_.get(), "b", 1, static_cast<off_t>(offset)), 1);
    const timespec times[2] = {before_.st_atim, before_.st_mtim};
    ASSERT_EQ(futimens(fd_.get(), times), 0);
  }

  std::string directory_, path_;
  UniqueFd fd_;
  struct stat before_ = {};
  std::unique_ptr<FileWatch> watch_;
};

TEST_F(FileWatchTest, AttributesAndNamesAreNoChange) {
  Read(0, 4096);
  Read(kSize - 512, 512);
  auto still_unchanged = [&](const char* what) {
    SCOPED_TRACE(what);
    EXPECT_TRUE(watch_->Unchanged());
    AwaitClock();
  };
  AwaitClock();
  ASSERT_EQ(fchmod(fd_.get(), 0600), 0);
  still_unchanged("chmod");
  ASSERT_EQ(fchown(fd_.get(), geteuid(), getegid()), 0);
  still_unchanged("chown");
  ASSERT_EQ(link(path_.c_str(), (directory_ + "/other").c_str()), 0);
  EXPECT_TRUE(watch_->Unchanged()) << "link";
  ASSERT_EQ(unlink(path_.c_str()), 0);
  EXPECT_TRUE(watch_->Unchanged()) << "unlink of one of two names";
  ASSERT_EQ(rename((directory_ + "/other").c_str(), path_.c_str()), 0);
  still_unchanged("rename");
  ASSERT_TRUE(fsetxattr(fd_.get(), "user.a", "b", 1, 0) == 0 || errno == EOPNOTSUPP);
  still_unchanged("setxattr");
  // And what is a change is still found.
  ASSERT_EQ(pwrite(fd_.get(), "b", 1, kSize / 2), 1);
  EXPECT_FALSE(watch_->Unchanged());
}

TEST_F(FileWatchTest, ThousandsOfReadersAndChangesOfModeAgree) {
  Read(0, 65536);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  std::atomic<int> false_alarms = 0;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!done) false_alarms += watch_->Unchanged() ? 0 : 1;
    });
  }
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(fchmod(fd_.get(), i % 2 == 0 ? 0600 : 0644), 0);
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(false_alarms, 0);
}

TEST_F(FileWatchTest, WhatWasReadAndIsAnotherNowIsAChangeWhateverItsTimeSays) {
  Read(0, 4096);
  AwaitClock();
  WriteAndPutTimeBack(17);
  EXPECT_FALSE(watch_->Unchanged());
  EXPECT_TRUE(watch_->changed());
  ASSERT_EQ(pwrite(fd_.get(), "a", 1, 17), 1);
  WriteAndPutTimeBack(kSize / 2);
  EXPECT_FALSE(watch_->Unchanged()) << "for good";
}

TEST_F(FileWatchTest, AFileWithoutANameIsAnotherOnesPlaceholder) {
  Read(0, 4096);
  AwaitClock();
  ASSERT_EQ(unlink(path_.c_str()), 0);
  EXPECT_FALSE(watch_->Unchanged());
}

TEST_F(FileWatchTest, SizeAndTimeAreChanges) {
  AwaitClock();
  ASSERT_EQ(ftruncate(fd_.get(), kSize - 1), 0);
  EXPECT_FALSE(watch_->Unchanged());
  FileWatch second(fd_.get(), Facts());
  EXPECT_TRUE(second.Unchanged());
  const timespec times[2] = {{2'000'000, 0}, {2'000'000, 0}};
  ASSERT_EQ(futimens(fd_.get(), times), 0);
  EXPECT_FALSE(second.Unchanged());
}

TEST_F(FileWatchTest, OwnChangesAreWhatIsExpectedAfterwards) {
  Read(0, 4096);
  Read(kSize - 4096, 4096);
  watch_->Suspend();
  watch_->Suspend();
  ASSERT_EQ(pwrite(fd_.get(), "b", 1, 17), 1);
  EXPECT_TRUE(watch_->Unchanged());
  Read(0, 100);  // is not noted: it may be half of what was written
  watch_->Renew();
  ASSERT_EQ(pwrite(fd_.get(), "c", 1, 17), 1);
  ASSERT_EQ(ftruncate(fd_.get(), kSize - 2048), 0);
  EXPECT_TRUE(watch_->Unchanged());
  watch_->Renew();
  EXPECT_TRUE(watch_->Unchanged());
  AwaitClock();
  ASSERT_EQ(fchmod(fd_.get(), 0600), 0);
  EXPECT_TRUE(watch_->Unchanged());
  before_ = Facts();
  AwaitClock();
  WriteAndPutTimeBack(17);
  EXPECT_FALSE(watch_->Unchanged());
}

TEST_F(FileWatchTest, AReadThatBeganBeforeAnOwnChangeIsNotNoted) {
  const uint64_t epoch = watch_->Epoch();
  const std::vector<char> old(4096, 'a');
  watch_->Suspend();
  ASSERT_EQ(pwrite(fd_.get(), "b", 1, 17), 1);
  watch_->Renew();
  watch_->Note(epoch, 0, old);
  AwaitClock();
  ASSERT_EQ(fchmod(fd_.get(), 0600), 0);
  EXPECT_TRUE(watch_->Unchanged());
}

TEST_F(FileWatchTest, NotesHaveAnEnd) {
  for (size_t i = 0; i <= FileWatch::kMaxNotes; ++i) Read(i * 512, 512);
  AwaitClock();
  WriteAndPutTimeBack(FileWatch::kMaxNotes * 512);
  EXPECT_TRUE(watch_->Unchanged());
  AwaitClock();
  WriteAndPutTimeBack((FileWatch::kMaxNotes - 1) * 512);
  EXPECT_FALSE(watch_->Unchanged());
}

}  // namespace
}  // namespace libmount
