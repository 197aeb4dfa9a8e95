// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/file_patches.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace libmount {

void FilePatches::Put(uint64_t offset, std::string bytes) {
  const uint64_t size = bytes.size();
  Insert(offset, {size, std::move(bytes)});
}

void FilePatches::PutZeros(uint64_t offset, uint64_t size) { Insert(offset, {size, {}}); }

void FilePatches::Insert(uint64_t offset, Patch patch) {
  if (patch.size == 0) return;
  Clear(offset, offset + patch.size);
  patches_.emplace(offset, std::move(patch));
}

FilePatches::Patch FilePatches::Slice(const Patch& patch, uint64_t from, uint64_t size) {
  return {size, patch.bytes.empty() ? std::string() : patch.bytes.substr(from, size)};
}

void FilePatches::Clear(uint64_t begin, uint64_t end) {
  auto it = patches_.upper_bound(begin);
  if (it != patches_.begin()) --it;
  while (it != patches_.end() && it->first < end) {
    const uint64_t at = it->first;
    const uint64_t behind = at + it->second.size;
    if (behind <= begin) {
      ++it;
      continue;
    }
    Patch old = std::move(it->second);
    it = patches_.erase(it);
    if (at < begin) patches_.emplace(at, Slice(old, 0, begin - at));
    if (behind > end) patches_.emplace(end, Slice(old, end - at, behind - end));
  }
}

void FilePatches::Apply(uint64_t offset, absl::Span<char> bytes) const {
  const uint64_t end = offset + bytes.size();
  auto it = patches_.upper_bound(offset);
  if (it != patches_.begin()) --it;
  for (; it != patches_.end() && it->first < end; ++it) {
    const uint64_t from = std::max(offset, it->first);
    const uint64_t to = std::min(end, it->first + it->second.size);
    if (from >= to) continue;
    if (it->second.bytes.empty()) {
      memset(bytes.data() + (from - offset), 0, to - from);
    } else {
      memcpy(bytes.data() + (from - offset), it->second.bytes.data() + (from - it->first), to - from);
    }
  }
}

int FilePatches::ForEach(const std::function<int(uint64_t, uint64_t, const char*)>& visit) const {
  for (const auto& [offset, patch] : patches_) {
    const int answer = visit(offset, patch.size, patch.bytes.empty() ? nullptr : patch.bytes.data());
    if (answer != 0) return answer;
  }
  return 0;
}

}  // namespace libmount
