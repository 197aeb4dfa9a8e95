// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/wim_source.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

bool SameTime(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

absl::Status ChangedError(const std::string& name) {
  return MakeError(Reason::kImageChanged,
                   absl::StrFormat("%s was changed, truncated or replaced after it was opened; open it again", name));
}

}  // namespace

absl::Status WimSource::AddPart(UniqueFd fd, std::string name) {
  struct stat facts;
  if (fstat(fd.get(), &facts) != 0) {
    return MakeErrnoError(Reason::kBadImageFormat, errno, absl::StrFormat("%s cannot be examined", name));
  }
  if (!S_ISREG(facts.st_mode)) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is not a regular file", name));
  }
  Part part;
  part.fd = std::move(fd);
  part.name = std::move(name);
  part.size = static_cast<uint64_t>(facts.st_size);
  parts_.push_back(std::move(part));
  absl::MutexLock lock(&mutex_);
  expected_.push_back(StateOf(facts));
  return absl::OkStatus();
}

absl::Status WimSource::Read(uint16_t part_number, uint64_t offset, absl::Span<char> out) const {
  const Part& part = parts_[part_number - 1];
  if (changed()) return ChangedError(part.name);
  if (offset > part.size || out.size() > part.size - offset) {
    return MakeError(
        Reason::kBadImageFormat,
        absl::StrFormat("%s: %d bytes at offset %d lie beyond the end of the file", part.name, out.size(), offset));
  }
  size_t done = 0;
  int read_error = 0;
  while (done < out.size()) {
    ssize_t count = pread(part.fd.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      // 0: the file is shorter than it was. An error comes after the comparison too: a replaced file explains more.
      read_error = count < 0 ? errno : 0;
      break;
    }
    done += static_cast<size_t>(count);
  }
  absl::Status unchanged = CheckUnchanged(part_number - 1u);
  if (!unchanged.ok()) return unchanged;
  if (done == out.size()) return absl::OkStatus();
  if (read_error == 0) {
    changed_.store(true, std::memory_order_relaxed);
    return ChangedError(part.name);
  }
  return MakeErrnoError(
      Reason::kUnspecified, read_error,
      absl::StrFormat("%s: reading %d bytes at offset %d failed; check the disk", part.name, out.size(), offset));
}

void WimSource::WillNeed(uint16_t part_number, uint64_t offset, uint64_t size) const {
  (void)posix_fadvise(parts_[part_number - 1].fd.get(), static_cast<off_t>(offset), static_cast<off_t>(size),
                      POSIX_FADV_WILLNEED);
}

WimSource::State WimSource::StateOf(const struct stat& facts) {
  // Access time is left out: our own reads change it.
  return {static_cast<uint64_t>(facts.st_size), facts.st_mtim, facts.st_ctim};
}

absl::Status WimSource::CheckUnchanged(size_t part_index) const {
  const Part& part = parts_[part_index];
  struct stat facts;
  {
    // The file is examined under the lock, so that a state from before RenewWatch is not compared with one from after.
    absl::ReaderMutexLock lock(&mutex_);
    if (suspended_ > 0) return absl::OkStatus();
    if (fstat(part.fd.get(), &facts) == 0) {
      const State now = StateOf(facts);
      const State& expected = expected_[part_index];
      if (now.size == expected.size && SameTime(now.modification_time, expected.modification_time) &&
          SameTime(now.change_time, expected.change_time)) {
        return absl::OkStatus();
      }
    }
  }
  changed_.store(true, std::memory_order_relaxed);
  return ChangedError(part.name);
}

absl::Status WimSource::CheckUnchanged() const {
  if (changed()) return ChangedError(parts_.front().name);
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (absl::Status status = CheckUnchanged(i); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void WimSource::SuspendWatch() const {
  absl::MutexLock lock(&mutex_);
  ++suspended_;
}

void WimSource::RenewWatch() const {
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < parts_.size(); ++i) {
    struct stat facts;
    if (fstat(parts_[i].fd.get(), &facts) == 0) expected_[i] = StateOf(facts);
  }
  if (suspended_ > 0) --suspended_;
}

}  // namespace libmount
