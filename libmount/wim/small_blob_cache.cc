// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/small_blob_cache.h"

#include <algorithm>
#include <cstring>

namespace libmount {

size_t SmallBlobCache::Add(Key key, absl::Span<const char> chunk, std::vector<Extent> extents) {
  auto pack = std::make_shared<Pack>();
  size_t total = 0;
  pack->places.reserve(extents.size());
  for (const Extent& extent : extents) {
    pack->places.push_back(static_cast<uint32_t>(total));
    total += extent.size;
  }
  pack->bytes = total + extents.size() * (sizeof(Extent) + sizeof(uint32_t));
  {
    absl::MutexLock lock(&mutex_);
    if (total == 0 || pack->bytes > budget_ || places_.contains(key)) return 0;
  }
  pack->data = ChunkBuffer(total);
  if (pack->data.size() != total) return 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    memcpy(pack->data.data() + pack->places[i], chunk.data() + extents[i].offset, extents[i].size);
  }
  pack->key = key;
  pack->extents = std::move(extents);

  PackList freed;
  absl::MutexLock lock(&mutex_);
  if (pack->bytes > budget_ || places_.contains(key)) return 0;
  freed = Shrink(budget_ - pack->bytes);
  bytes_ += pack->bytes;
  places_[key] = packs_.insert(packs_.end(), pack);
  return pack->bytes;
}

bool SmallBlobCache::Read(Key key, uint32_t offset, absl::Span<char> out) {
  std::shared_ptr<const Pack> pack;
  {
    absl::MutexLock lock(&mutex_);
    auto place = places_.find(key);
    if (place == places_.end()) return false;
    packs_.splice(packs_.end(), packs_, place->second);
    pack = *place->second;
  }
  auto behind = std::upper_bound(pack->extents.begin(), pack->extents.end(), offset,
                                 [](uint32_t value, const Extent& extent) { return value < extent.offset; });
  if (behind == pack->extents.begin()) return false;
  const Extent& extent = *std::prev(behind);
  uint32_t skip = offset - extent.offset;
  if (skip > extent.size || out.size() > extent.size - skip) return false;
  size_t index = static_cast<size_t>(&extent - pack->extents.data());
  memcpy(out.data(), pack->data.data() + pack->places[index] + skip, out.size());
  return true;
}

SmallBlobCache::PackList SmallBlobCache::Shrink(size_t bytes) {
  PackList freed;
  while (bytes_ > bytes) {
    bytes_ -= packs_.front()->bytes;
    places_.erase(packs_.front()->key);
    freed.splice(freed.end(), packs_, packs_.begin());
  }
  return freed;
}

void SmallBlobCache::SetBudget(size_t bytes) {
  PackList freed;
  absl::MutexLock lock(&mutex_);
  budget_ = bytes;
  freed = Shrink(bytes);
}

size_t SmallBlobCache::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace libmount
