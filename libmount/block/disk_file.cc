// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/disk_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint64_t kMaxOffset = std::numeric_limits<off_t>::max();

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

}  // namespace

DiskFile::State::State(const struct stat& facts)
    // Access time is left out: our own reads change it.
    : size(facts.st_size), modification_time(Nanoseconds(facts.st_mtim)), change_time(Nanoseconds(facts.st_ctim)) {}

DiskFile::DiskFile(UniqueFd fd, std::string name, const struct stat& facts)
    : fd_(std::move(fd)),
      name_(std::move(name)),
      device_(facts.st_dev),
      inode_(facts.st_ino),
      size_(static_cast<uint64_t>(facts.st_size)) {
  Expect(State(facts));
}

absl::StatusOr<std::unique_ptr<DiskFile>> DiskFile::Open(UniqueFd fd, std::string name) {
  struct stat facts;
  if (fstat(fd.get(), &facts) != 0) {
    return MakeErrnoError(Reason::kBadImageFormat, errno, absl::StrFormat("%s cannot be examined", name));
  }
  if (!S_ISREG(facts.st_mode)) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is not a regular file", name));
  }
  return std::unique_ptr<DiskFile>(new DiskFile(std::move(fd), std::move(name), facts));
}

int DiskFile::ReadRaw(uint64_t offset, absl::Span<char> out, size_t* done) const {
  *done = 0;
  while (*done < out.size()) {
    const ssize_t count = pread(fd_.get(), out.data() + *done, out.size() - *done, static_cast<off_t>(offset + *done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    if (count == 0) return 0;  // the end of the file
    *done += static_cast<size_t>(count);
  }
  return 0;
}

int DiskFile::Read(uint64_t offset, absl::Span<char> out) const {
  if (changed()) return EIO;
  if (offset > kMaxOffset || out.size() > kMaxOffset - offset) return EIO;
  const FilePatches* patches = this->patches();
  size_t done;
  if (ReadRaw(offset, out, &done) != 0) return EIO;
  if (patches != nullptr) {
    if (done < out.size() && offset + out.size() <= patches->file_size()) {
      memset(out.data() + done, 0, out.size() - done);
      done = out.size();
    }
    patches->Apply(offset, out);
  }
  return Unchanged() && done == out.size() ? 0 : EIO;
}

absl::Status DiskFile::ReadPart(uint64_t offset, absl::Span<char> out, const char* what) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: the %s, %d bytes at offset %d, lies beyond the end",
                                                              name_, what, out.size(), offset));
  }
  if (Read(offset, out) == 0) return absl::OkStatus();
  if (changed()) return ChangedError();
  return MakeError(Reason::kUnspecified,
                   absl::StrFormat("%s: reading the %s, %d bytes at offset %d, failed; check the disk", name_, what,
                                   out.size(), offset));
}

absl::Status DiskFile::ChangedError() const {
  return MakeError(Reason::kImageChanged,
                   absl::StrFormat("%s was changed, truncated or replaced after it was opened; open it again", name_));
}

bool DiskFile::Unchanged() const {
  auto as_expected = [this] {
    if (suspended_.load(std::memory_order_acquire) > 0) return true;
    struct stat facts;
    if (fstat(fd_.get(), &facts) != 0) return false;
    const State now(facts);
    return now.size == expected_size_.load(std::memory_order_relaxed) &&
           now.modification_time == expected_modification_time_.load(std::memory_order_relaxed) &&
           now.change_time == expected_change_time_.load(std::memory_order_relaxed);
  };
  if (as_expected()) return true;
  // It may have been examined before RenewWatch and compared behind it: once more, with nobody renewing.
  absl::MutexLock lock(&mutex_);
  if (as_expected()) return true;
  changed_.store(true, std::memory_order_relaxed);
  return false;
}

absl::Status DiskFile::CheckUnchanged() const { return !changed() && Unchanged() ? absl::OkStatus() : ChangedError(); }

void DiskFile::Expect(const State& state) const {
  expected_size_.store(state.size, std::memory_order_relaxed);
  expected_modification_time_.store(state.modification_time, std::memory_order_relaxed);
  expected_change_time_.store(state.change_time, std::memory_order_relaxed);
}

void DiskFile::SuspendWatch() const {
  absl::MutexLock lock(&mutex_);
  suspended_.fetch_add(1, std::memory_order_acq_rel);
}

void DiskFile::RenewWatch() const {
  absl::MutexLock lock(&mutex_);
  struct stat facts;
  if (fstat(fd_.get(), &facts) == 0) Expect(State(facts));
  if (suspended_.load(std::memory_order_relaxed) > 0) suspended_.fetch_sub(1, std::memory_order_acq_rel);
}

void DiskFile::SetPatches(std::unique_ptr<FilePatches> patches) {
  size_ = std::max(size_, patches->file_size());
  owned_patches_ = std::move(patches);
  patches_.store(owned_patches_.get(), std::memory_order_release);
}

}  // namespace libmount
