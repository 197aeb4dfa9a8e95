// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/base/file_watch.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>
#include <optional>

#include "libmount/base/crc32c.h"

namespace libmount {
namespace {

constexpr size_t kPiece = size_t{256} << 10;

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// Of bytes of a file as they are now. None: they cannot be read.
std::optional<uint32_t> CrcOf(int fd, uint64_t offset, uint64_t size) {
  const size_t room = std::min<uint64_t>(size, kPiece);
  const std::unique_ptr<char[]> buffer(new char[room]);
  uint32_t crc = 0;
  while (size > 0) {
    const ssize_t count = pread(fd, buffer.get(), std::min<uint64_t>(size, room), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    crc = Crc32c({buffer.get(), static_cast<size_t>(count)}, crc);
    offset += static_cast<uint64_t>(count);
    size -= static_cast<uint64_t>(count);
  }
  return crc;
}

}  // namespace

FileWatch::FileWatch(int fd, const struct stat& facts) : fd_(fd) { Expect(StateOf(facts)); }

FileWatch::State FileWatch::StateOf(const struct stat& facts) {
  return {facts.st_size, Nanoseconds(facts.st_mtim), Nanoseconds(facts.st_ctim), facts.st_nlink != 0};
}

void FileWatch::Expect(const State& state) {
  expected_size_.store(state.size, std::memory_order_relaxed);
  expected_modification_time_.store(state.modification_time, std::memory_order_relaxed);
  expected_change_time_.store(state.change_time, std::memory_order_relaxed);
  expected_name_.store(state.has_name, std::memory_order_relaxed);
}

FileWatch::Difference FileWatch::Compare(State* now) const {
  if (suspended_.load(std::memory_order_acquire) > 0) return Difference::kNone;
  struct stat facts;
  if (fstat(fd_, &facts) != 0) return Difference::kMore;
  *now = StateOf(facts);
  if (now->size != expected_size_.load(std::memory_order_relaxed) ||
      now->modification_time != expected_modification_time_.load(std::memory_order_relaxed) ||
      now->has_name != expected_name_.load(std::memory_order_relaxed)) {
    return Difference::kMore;
  }
  return now->change_time == expected_change_time_.load(std::memory_order_relaxed) ? Difference::kNone
                                                                                   : Difference::kChangeTimeOnly;
}

bool FileWatch::Unchanged() {
  if (changed()) return false;
  State now;
  if (Compare(&now) == Difference::kNone) return true;
  // It may have been examined before Renew and compared behind it: once more, with nobody renewing.
  absl::MutexLock lock(&mutex_);
  if (OnlyAttributesChanged()) return true;
  changed_.store(true, std::memory_order_relaxed);
  return false;
}

bool FileWatch::OnlyAttributesChanged() {
  State now;
  switch (Compare(&now)) {
    case Difference::kNone: return true;
    case Difference::kMore: return false;
    case Difference::kChangeTimeOnly: break;
  }
  if (!ReadsTheSame()) return false;
  Expect(now);  // as it was before it was read again: what has changed since then is found the next time
  return true;
}

bool FileWatch::ReadsTheSame() const {
  return std::all_of(noted_.begin(), noted_.end(),
                     [this](const NotedRead& read) { return CrcOf(fd_, read.offset, read.size) == read.crc; });
}

void FileWatch::Note(uint64_t epoch, uint64_t offset, absl::Span<const char> bytes) {
  if (!noting_.load(std::memory_order_relaxed) || bytes.empty()) return;
  if (bytes.size() > std::numeric_limits<uint32_t>::max()) return;
  const uint32_t crc = Crc32c(bytes);
  absl::MutexLock lock(&mutex_);
  if (epoch != Epoch() || suspended_.load(std::memory_order_relaxed) > 0) return;
  if (noted_.size() >= kMaxNotes || noted_bytes_ + bytes.size() > kMaxNotedBytes) {
    noting_.store(false, std::memory_order_relaxed);
    return;
  }
  noted_.push_back({offset, static_cast<uint32_t>(bytes.size()), crc});
  noted_bytes_ += bytes.size();
}

void FileWatch::Suspend() {
  absl::MutexLock lock(&mutex_);
  suspended_.fetch_add(1, std::memory_order_acq_rel);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
}

void FileWatch::Renew() {
  absl::MutexLock lock(&mutex_);
  struct stat facts;
  if (fstat(fd_, &facts) == 0) Expect(StateOf(facts));
  // What was noted is what was there before the change; it need not be there any more.
  std::erase_if(noted_, [this](NotedRead& read) {
    const std::optional<uint32_t> crc = CrcOf(fd_, read.offset, read.size);
    read.crc = crc.value_or(0);
    return !crc.has_value();
  });
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  if (suspended_.load(std::memory_order_relaxed) > 0) suspended_.fetch_sub(1, std::memory_order_acq_rel);
}

}  // namespace libmount
