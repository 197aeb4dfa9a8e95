// SPDX-License-Identifier: GPL-3.0-or-later
//
// ChunkCache: decoded chunks within a budget of bytes, and the meeting point of those who want one chunk at once.
//
// What the reader hands to the kernel stays in the kernel's page cache, so that a chunk whose bytes have all been
// served is worth nothing here any more: such chunks go first, then the least recently used.
//
// Chunks being decoded count too, with their input: a solid one takes a hundred megabytes for half a second.
//
// A chunk larger than the budget (solid ones have up to 64 MiB) is kept nevertheless while it is the newest one:
// without it each read of 128 KiB would decode it again. SetBudget frees it; so a worker that goes idle calls that.
// The SmallBlobCache beside it takes part of the budget (SetReserved).
//
// Thread safety: thread-safe. Chunks are shared: freeing one here does not pull it from under a reader.

#ifndef LIBMOUNT_WIM_CHUNK_CACHE_H_
#define LIBMOUNT_WIM_CHUNK_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libmount/wim/chunk_buffer.h"

namespace libmount {

class ChunkCache {
 public:
  using Key = std::pair<uint32_t, uint64_t>;  // resource, chunk
  using Chunk = std::shared_ptr<const ChunkBuffer>;

 private:
  struct Entry;

 public:
  // The duty to decode a chunk that others may be waiting for. Dropped without Publish: it failed.
  class Claim {
   public:
    Claim(Claim&& other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)), entry_(std::move(other.entry_)), size_(other.size_) {}
    Claim& operator=(Claim&&) = delete;
    ~Claim();

    // Waits until the memory of those decoding allows one more, and makes room for it. `input`: bytes of compressed
    // data that decoding holds besides. Not while holding the start of another claim.
    void Start(size_t input);
    // Puts the chunk into the cache and hands it to those waiting. `kept_elsewhere`: bytes of it that nobody will ask
    // this cache for.
    Chunk Publish(ChunkBuffer data, size_t kept_elsewhere = 0) &&;
    void Fail(absl::Status status) &&;

   private:
    friend class ChunkCache;
    Claim(ChunkCache* cache, std::shared_ptr<Entry> entry, size_t size)
        : cache_(cache), entry_(std::move(entry)), size_(size) {}

    ChunkCache* cache_;
    std::shared_ptr<Entry> entry_;
    size_t size_;
    size_t kept_elsewhere_ = 0;
    size_t decoding_ = 0;  // bytes that Start took
  };

  // Somebody else's decoding.
  using Flight = std::shared_ptr<Entry>;

  // Exactly one of the three is set.
  struct Acquired {
    Chunk chunk;
    std::unique_ptr<Claim> claim;
    Flight flight;
  };

  explicit ChunkCache(size_t budget) : budget_(budget) {}

  // The chunk, or who decodes it. `served`: bytes that the caller will take of it.
  // Whoever holds claims must not Wait before they are published or failed.
  Acquired Acquire(Key key, size_t size, size_t served);

  // The chunk if it is here now; else null.
  Chunk Find(Key key, size_t served);

  absl::StatusOr<Chunk> Wait(const Flight& flight);

  // Shrinking frees at once.
  void SetBudget(size_t bytes);
  // Bytes of the budget that are used elsewhere: room is made when the next chunk comes.
  void SetReserved(size_t bytes);

  struct Stats {
    size_t bytes = 0;  // those being decoded included
    uint64_t hits = 0;
    // With a budget of so many bytes, chunks decoded again since the last SetBudget would still have been here.
    // 0: the budget sufficed.
    size_t wanted_bytes = 0;
  };
  Stats GetStats() const;

 private:
  struct Entry {
    Key key;
    size_t size = 0;
    bool done = false;  // data or status is final
    Chunk data;
    absl::Status status;
    absl::CondVar arrived;
    size_t served = 0;
    std::list<std::shared_ptr<Entry>>* list = nullptr;
    std::list<std::shared_ptr<Entry>>::iterator place;
  };
  using EntryList = std::list<std::shared_ptr<Entry>>;
  // Chunks evicted that are remembered.
  static constexpr size_t kMaxGhosts = 1024;

  void Touch(Entry& entry, size_t served) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(Claim& claim, Chunk data, absl::Status status);
  // Frees chunks until they take at most `bytes`. The freed ones are moved out, to be destroyed without the lock.
  size_t Limit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const size_t used = reserved_ + decoding_bytes_;
    return budget_ > used ? budget_ - used : 0;
  }
  EntryList Shrink(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RememberEvicted(const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteDecodedAgain(const Key& key, size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  absl::CondVar decoded_;
  size_t budget_ ABSL_GUARDED_BY(mutex_);
  size_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t decoding_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t hits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<Key, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  EntryList live_ ABSL_GUARDED_BY(mutex_);    // least recently used first
  EntryList served_ ABSL_GUARDED_BY(mutex_);  // every byte taken once

  // Evicted chunks, with the bytes evicted before each.
  absl::flat_hash_map<Key, uint64_t> ghosts_ ABSL_GUARDED_BY(mutex_);
  std::deque<Key> ghost_order_ ABSL_GUARDED_BY(mutex_);
  uint64_t evicted_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t wanted_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_CHUNK_CACHE_H_
