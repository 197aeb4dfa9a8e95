// SPDX-License-Identifier: GPL-3.0-or-later
//
// SmallBlobCache: the small blobs of solid chunks that were decoded, kept when the chunks themselves have to go.
//
// A solid chunk has up to 64 MiB and takes half a second to decode; its small files are a fraction of it, and whoever
// reads one of them mostly comes back for others. They are packed together, for each chunk a pack of the tiny ones, of
// which an image has most, and a pack of the others; the latter go first, of each kind the one used least recently.
//
// Thread safety: thread-safe.

#ifndef LIBMOUNT_WIM_SMALL_BLOB_CACHE_H_
#define LIBMOUNT_WIM_SMALL_BLOB_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/wim/chunk_buffer.h"

namespace libmount {

class SmallBlobCache {
 public:
  using Key = std::pair<uint32_t, uint64_t>;  // resource, chunk
  // A blob within its chunk.
  struct Extent {
    uint32_t offset;
    uint32_t size;
  };

  static constexpr uint32_t kMaxBlobSize = 256 << 10;
  static constexpr uint32_t kMaxTinySize = 64 << 10;

  explicit SmallBlobCache(size_t budget) : budget_(budget) {}

  // Copies the blobs out of a chunk. `extents`: sorted by offset, not overlapping, each within the chunk. Returns the
  // bytes kept, which may be 0.
  size_t Add(Key key, absl::Span<const char> chunk, absl::Span<const Extent> extents);

  // Fills `out` from `offset` of the chunk, if one kept blob holds all of it.
  bool Read(Key key, uint32_t offset, absl::Span<char> out);

  // Shrinking frees at once.
  void SetBudget(size_t bytes);
  size_t bytes() const;

 private:
  enum Kind { kTiny, kOther, kKindCount };

  struct Pack {
    Key key;
    std::vector<Extent> extents;
    std::vector<uint32_t> places;  // of each in `data`
    ChunkBuffer data;
    size_t bytes = 0;
  };
  using PackPointer = std::shared_ptr<const Pack>;
  using PackList = std::list<PackPointer>;

  struct Shelf {
    PackList packs;  // least recently used first
    absl::flat_hash_map<Key, PackList::iterator> places;
  };

  static PackPointer MakePack(Key key, absl::Span<const char> chunk, std::vector<Extent> extents);
  static bool ReadFrom(const Pack& pack, uint32_t offset, absl::Span<char> out);

  size_t Keep(Kind kind, PackPointer pack);
  // Frees packs of `least` and the kinds behind it until all take at most `bytes`. The freed ones are moved out, to be
  // destroyed without the lock.
  PackList Shrink(size_t bytes, Kind least) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  size_t budget_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Shelf shelves_[kKindCount] ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_SMALL_BLOB_CACHE_H_
