// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/arena.h"

#include <algorithm>
#include <cstring>

namespace libmount {
namespace {

constexpr uint64_t kMaxAhead = uint64_t{64} << 20;
constexpr uint64_t kMinReserved = uint64_t{1} << 20;

constexpr uint64_t RoundUp(uint64_t value) {
  return (value + Arena::kBlockSize - 1) / Arena::kBlockSize * Arena::kBlockSize;
}
constexpr uint64_t RoundDown(uint64_t value) { return value / Arena::kBlockSize * Arena::kBlockSize; }

}  // namespace

ArenaRange WholeBlocks(const ArenaRange& range) {
  const uint64_t begin = RoundDown(range.offset);
  return {begin, RoundUp(range.offset + range.length) - begin};
}

ArenaRange Arena::Allocate(NodeId stream, uint64_t follows, uint64_t bytes, uint64_t size) {
  absl::MutexLock lock(&mutex_);
  Ahead& slot = ahead_[stream % kAheadSlots];
  const bool grows = follows != Extent::kZeros;
  if (!grows || slot.stream != stream || slot.at != follows || slot.left == 0) {
    const uint64_t ahead = grows ? std::min(RoundUp(size), kMaxAhead) : 0;
    const uint64_t needed = RoundUp(bytes) + ahead;
    if (needed > kMaxSize - end_) return {};
    GiveBack(slot);
    slot = {stream, end_, needed};
    end_ += needed;
    if (ahead >= kMinReserved) {
      slot.reserved = true;
      if (file_->Reserve(slot.at, slot.left) != 0) GiveBack(slot);  // a part of it may be
    }
  }
  const ArenaRange range{slot.at, std::min(bytes, slot.left)};
  slot.at += range.length;
  slot.left -= range.length;
  return range;
}

void Arena::GiveBack(Ahead& slot) {
  if (slot.reserved) Punch({{slot.at, slot.left}});
  slot.reserved = false;
}

void Arena::GiveBackAhead(NodeId stream) {
  absl::MutexLock lock(&mutex_);
  Ahead& slot = ahead_[stream % kAheadSlots];
  if (slot.stream == stream) GiveBack(slot);
}

void Arena::GiveBackAllAhead() {
  absl::MutexLock lock(&mutex_);
  for (Ahead& slot : ahead_) GiveBack(slot);
}

int Arena::Read(uint64_t offset, absl::Span<char> out) const {
  ErrnoOr<size_t> got = file_->Read(offset, out);
  if (!got.ok()) return got.error();
  if (*got < out.size()) memset(out.data() + *got, 0, out.size() - *got);
  return 0;
}

void Arena::Punch(std::vector<ArenaRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const ArenaRange& a, const ArenaRange& b) { return a.offset < b.offset; });
  uint64_t begin = 0;
  uint64_t end = 0;
  auto punch = [&] {
    const uint64_t first = RoundUp(begin);
    const uint64_t last = RoundDown(end);
    if (first < last) file_->PunchHole(first, last - first);
  };
  for (const ArenaRange& range : ranges) {
    if (range.offset > end) {
      punch();
      begin = range.offset;
    }
    end = std::max(end, range.offset + range.length);
  }
  punch();
}

std::vector<ArenaRange> Arena::TakeOver(std::vector<ArenaRange> used) {
  uint64_t size = 0;
  if (ErrnoOr<uint64_t> got = file_->Size(); got.ok()) size = *got;
  std::sort(used.begin(), used.end(), [](const ArenaRange& a, const ArenaRange& b) { return a.offset < b.offset; });
  std::vector<ArenaRange> unused;
  uint64_t at = 0;
  for (const ArenaRange& range : used) {
    const ArenaRange blocks = WholeBlocks(range);
    if (blocks.offset > at) unused.push_back({at, blocks.offset - at});
    at = std::max(at, blocks.offset + blocks.length);
  }
  if (size > at) unused.push_back({at, RoundUp(size) - at});
  absl::MutexLock lock(&mutex_);
  end_ = std::max({end_, at, RoundUp(size)});
  return unused;
}

}  // namespace libmount
