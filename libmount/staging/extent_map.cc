// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/extent_map.h"

#include <algorithm>
#include <iterator>

namespace libmount {

void ExtentMap::Insert(uint64_t offset, const Extent& extent) {
  extents_.emplace(offset, extent);
  if (extent.is_data()) data_bytes_ += extent.length;
}

void ExtentMap::Remove(uint64_t offset, uint64_t length, std::vector<ArenaRange>& freed) {
  const uint64_t end = offset + std::min(length, UINT64_MAX - offset);
  auto it = extents_.upper_bound(offset);
  if (it != extents_.begin() && std::prev(it)->first + std::prev(it)->second.length > offset) --it;
  while (it != extents_.end() && it->first < end) {
    const uint64_t begin = it->first;
    const Extent extent = it->second;
    it = extents_.erase(it);
    if (extent.is_data()) data_bytes_ -= extent.length;
    const uint64_t cut_begin = std::max(begin, offset);
    const uint64_t cut_end = std::min(begin + extent.length, end);
    if (extent.is_data()) freed.push_back({extent.arena + (cut_begin - begin), cut_end - cut_begin});
    if (begin < cut_begin) Insert(begin, {cut_begin - begin, extent.arena, extent.epoch});
    if (cut_end < begin + extent.length) {
      const uint64_t arena = extent.is_data() ? extent.arena + (cut_end - begin) : Extent::kZeros;
      Insert(cut_end, {begin + extent.length - cut_end, arena, extent.epoch});
      break;  // it was the last one, and the insertions have made `it` invalid
    }
    if (begin < cut_begin) it = extents_.lower_bound(cut_end);
  }
}

void ExtentMap::Put(uint64_t offset, const Extent& extent, std::vector<ArenaRange>& freed) {
  if (extent.length == 0) return;
  Remove(offset, extent.length, freed);
  // Sequential writes make one extent.
  auto next = extents_.lower_bound(offset);
  if (next != extents_.begin()) {
    auto& [before, last] = *std::prev(next);
    const bool follows =
        before + last.length == offset && last.epoch == extent.epoch &&
        (extent.is_data() ? last.is_data() && last.arena + last.length == extent.arena : !last.is_data());
    if (follows) {
      last.length += extent.length;
      if (extent.is_data()) data_bytes_ += extent.length;
      return;
    }
  }
  Insert(offset, extent);
}

void ExtentMap::Visit(uint64_t offset, uint64_t length, Visitor visitor) const {
  const uint64_t end = offset + length;
  auto it = extents_.upper_bound(offset);
  if (it != extents_.begin() && std::prev(it)->first + std::prev(it)->second.length > offset) --it;
  while (offset < end) {
    if (it == extents_.end() || it->first >= end) {
      visitor(offset, end - offset, nullptr, 0);
      return;
    }
    if (it->first > offset) {
      visitor(offset, it->first - offset, nullptr, 0);
      offset = it->first;
    }
    const uint64_t stop = std::min(end, it->first + it->second.length);
    visitor(offset, stop - offset, &it->second, offset - it->first);
    offset = stop;
    ++it;
  }
}

uint64_t ExtentMap::ArenaEndBefore(uint64_t offset) const {
  auto it = extents_.lower_bound(offset);
  if (it == extents_.begin()) return Extent::kZeros;
  const auto& [begin, extent] = *std::prev(it);
  if (!extent.is_data() || begin + extent.length != offset) return Extent::kZeros;
  return extent.arena + extent.length;
}

}  // namespace libmount
