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

void BlobHash::Update(const Piece& piece) {
  uint64_t known = next_ - piece.offset;
  if (known >= piece.data.size()) return;
  hash_.Update(piece.data.subspan(known));
  next_ = piece.offset + piece.data.size();
}

void BlobHash::Hold(Piece piece, bool may_hold) {
  if (!may_hold || held_bytes_ + piece.data.size() > kMaxHeld || held_.count(piece.offset) > 0) return;
  if (piece.owner == nullptr) {
    auto copy = std::make_shared<ChunkBuffer>(piece.data.size());
    if (copy->size() != piece.data.size()) return;
    memcpy(copy->data(), piece.data.data(), piece.data.size());
    piece.data = copy->span();
    piece.owner = std::move(copy);
  }
  held_bytes_ += piece.data.size();
  held_.emplace(piece.offset, std::move(piece));
}

std::optional<BlobHash::Piece> BlobHash::TakeHeld() {
  if (held_.empty() || held_.begin()->first > next_) return std::nullopt;
  Piece piece = std::move(held_.begin()->second);
  held_bytes_ -= piece.data.size();
  held_.erase(held_.begin());
  return piece;
}

void BlobHash::DropHeld() {
  held_.clear();
  held_bytes_ = 0;
}

}  // namespace libmount
