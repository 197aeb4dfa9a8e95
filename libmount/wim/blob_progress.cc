// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/blob_progress.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace libmount {

Coverage::Coverage(uint64_t size) : unit_(std::max(kMinUnit, size / kMaxUnits + 1)), missing_((size - 1) / unit_ + 1) {
  bits_.resize((missing_ + 63) / 64);
}

void Coverage::Mark(uint64_t offset, uint64_t size) {
  for (uint64_t unit = offset / unit_; unit <= (offset + size - 1) / unit_; ++unit) {
    uint64_t& word = bits_[unit / 64];
    uint64_t bit = uint64_t{1} << (unit % 64);
    if ((word & bit) == 0) --missing_;
    word |= bit;
  }
}

void BlobHash::Feed(uint64_t offset, absl::Span<const char> data, bool may_hold) {
  if (offset > next_) {
    if (!may_hold || held_bytes_ + data.size() > kMaxHeld || held_.count(offset) > 0) return;
    ChunkBuffer copy(data.size());
    if (copy.size() != data.size()) return;
    memcpy(copy.data(), data.data(), data.size());
    held_bytes_ += data.size();
    held_.emplace(offset, std::move(copy));
    return;
  }
  Take(offset, data);
  while (!held_.empty() && held_.begin()->first <= next_) {
    auto piece = held_.begin();
    Take(piece->first, piece->second.span());
    held_bytes_ -= piece->second.size();
    held_.erase(piece);
  }
}

void BlobHash::Take(uint64_t offset, absl::Span<const char> data) {
  uint64_t known = next_ - offset;
  if (known >= data.size()) return;
  hash_.Update(data.subspan(known));
  next_ = offset + data.size();
}

void BlobHash::DropHeld() {
  held_.clear();
  held_bytes_ = 0;
}

}  // namespace libmount
