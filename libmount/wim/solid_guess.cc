// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/solid_guess.h"

#include <algorithm>

#include "libmount/wim/small_blob_cache.h"

namespace libmount {
namespace {

// With fewer small files a chunk is not a likely one.
constexpr uint32_t kWorthGuessing = 64;
constexpr uint64_t kMaxChunks = 1 << 16;
constexpr size_t kMaxResources = 16;

}  // namespace

std::optional<uint64_t> SolidGuess::NoteMiss(uint32_t index, const ResourceLocation& location, uint64_t chunk_count,
                                             uint64_t offset) {
  if (!visit_blobs_ || chunk_count > kMaxChunks) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  if (resources_.size() >= kMaxResources && !resources_.contains(index)) return std::nullopt;
  Resource& resource = resources_[index];
  uint64_t chunk = offset / location.chunk_size;
  if (chunk == resource.last_chunk || !IsSmallBlob(index, location, offset)) return std::nullopt;
  resource.last_chunk = chunk;
  if (resource.small_blobs.empty()) Count(index, location, chunk_count, resource);
  resource.small_blobs[chunk] = 0;
  auto best = std::max_element(resource.small_blobs.begin(), resource.small_blobs.end());
  if (*best < kWorthGuessing) return std::nullopt;
  *best = 0;
  return best - resource.small_blobs.begin();
}

void SolidGuess::Forget() {
  absl::MutexLock lock(&mutex_);
  resources_.clear();
}

void SolidGuess::Count(uint32_t index, const ResourceLocation& location, uint64_t chunk_count,
                       Resource& resource) const {
  resource.small_blobs.assign(chunk_count, 0);
  visit_blobs_(index, 0, location.size, [&](uint64_t offset, uint64_t size) {
    if (size > 0 && size <= SmallBlobCache::kMaxBlobSize && offset < location.size) {
      ++resource.small_blobs[offset / location.chunk_size];
    }
  });
}

bool SolidGuess::IsSmallBlob(uint32_t index, const ResourceLocation& location, uint64_t offset) const {
  uint64_t first = offset > SmallBlobCache::kMaxBlobSize ? offset - SmallBlobCache::kMaxBlobSize : 0;
  bool small = false;
  visit_blobs_(index, first, offset + 1, [&](uint64_t begin, uint64_t size) {
    small = size <= SmallBlobCache::kMaxBlobSize && begin <= offset && size > offset - begin;
  });
  return small;
}

}  // namespace libmount
