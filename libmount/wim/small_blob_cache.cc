// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/small_blob_cache.h"

#include <algorithm>
#include <cstring>

namespace libmount {

SmallBlobCache::PackPointer SmallBlobCache::MakePack(Key key, absl::Span<const char> chunk,
                                                     std::vector<Extent> extents) {
  auto pack = std::make_shared<Pack>();
  size_t total = 0;
  pack->places.reserve(extents.size());
  for (const Extent& extent : extents) {
    pack->places.push_back(static_cast<uint32_t>(total));
    total += extent.size;
  }
  pack->data = ChunkBuffer(total);
  if (total == 0 || pack->data.size() != total) return nullptr;
  for (size_t i = 0; i < extents.size(); ++i) {
    memcpy(pack->data.data() + pack->places[i], chunk.data() + extents[i].offset, extents[i].size);
  }
  pack->key = key;
  pack->bytes = total + extents.size() * (sizeof(Extent) + sizeof(uint32_t));
  pack->extents = std::move(extents);
  return pack;
}

size_t SmallBlobCache::Add(Key key, absl::Span<const char> chunk, absl::Span<const Extent> extents) {
  std::vector<Extent> kinds[kKindCount];
  for (const Extent& extent : extents) kinds[extent.size <= kMaxTinySize ? kTiny : kOther].push_back(extent);
  size_t kept = 0;
  for (Kind kind : {kTiny, kOther}) {
    if (PackPointer pack = MakePack(key, chunk, std::move(kinds[kind]))) kept += Keep(kind, std::move(pack));
  }
  return kept;
}

size_t SmallBlobCache::Keep(Kind kind, PackPointer pack) {
  PackList freed;
  absl::MutexLock lock(&mutex_);
  Shelf& shelf = shelves_[kind];
  if (pack->bytes > budget_ || shelf.places.contains(pack->key)) return 0;
  freed = Shrink(budget_ - pack->bytes, kind);
  size_t bytes = pack->bytes;
  if (bytes_ > budget_ - bytes) return 0;  // only packs of more use are left
  bytes_ += bytes;
  auto place = shelf.packs.insert(shelf.packs.end(), std::move(pack));
  shelf.places[(*place)->key] = place;
  return bytes;
}

bool SmallBlobCache::Read(Key key, uint32_t offset, absl::Span<char> out) {
  for (Kind kind : {kTiny, kOther}) {
    PackPointer pack;
    {
      absl::MutexLock lock(&mutex_);
      Shelf& shelf = shelves_[kind];
      auto place = shelf.places.find(key);
      if (place == shelf.places.end()) continue;
      shelf.packs.splice(shelf.packs.end(), shelf.packs, place->second);
      pack = *place->second;
    }
    if (ReadFrom(*pack, offset, out)) return true;
  }
  return false;
}

bool SmallBlobCache::ReadFrom(const Pack& pack, uint32_t offset, absl::Span<char> out) {
  auto behind = std::upper_bound(pack.extents.begin(), pack.extents.end(), offset,
                                 [](uint32_t value, const Extent& extent) { return value < extent.offset; });
  if (behind == pack.extents.begin()) return false;
  const Extent& extent = *std::prev(behind);
  uint32_t skip = offset - extent.offset;
  if (skip > extent.size || out.size() > extent.size - skip) return false;
  size_t index = static_cast<size_t>(&extent - pack.extents.data());
  memcpy(out.data(), pack.data.data() + pack.places[index] + skip, out.size());
  return true;
}

SmallBlobCache::PackList SmallBlobCache::Shrink(size_t bytes, Kind least) {
  PackList freed;
  for (int kind = kKindCount - 1; kind >= least; --kind) {
    Shelf& shelf = shelves_[kind];
    while (bytes_ > bytes && !shelf.packs.empty()) {
      bytes_ -= shelf.packs.front()->bytes;
      shelf.places.erase(shelf.packs.front()->key);
      freed.splice(freed.end(), shelf.packs, shelf.packs.begin());
    }
  }
  return freed;
}

void SmallBlobCache::SetBudget(size_t bytes) {
  PackList freed;
  absl::MutexLock lock(&mutex_);
  budget_ = bytes;
  freed = Shrink(bytes, kTiny);
}

size_t SmallBlobCache::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace libmount
