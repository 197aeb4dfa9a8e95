// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/chunk_cache.h"

#include <malloc.h>

#include <algorithm>

#include "libmount/base/reason.h"

namespace libmount {
namespace {

// So much may be decoded at once into the cache however small the budget.
constexpr size_t kMinDecodingBytes = size_t{8} << 20;

}  // namespace

ChunkCache::Claim::~Claim() {
  if (cache_ != nullptr) {
    cache_->Finish(*this, nullptr, MakeError(Reason::kUnspecified, "decoding a chunk was given up"));
  }
}

void ChunkCache::Claim::Start(size_t input) {
  const size_t bytes = size_ + input;
  EntryList freed;  // destroyed without the lock, before the decoder takes its memory
  absl::MutexLock lock(&cache_->mutex_);
  while (cache_->decoding_bytes_ > 0 &&
         cache_->decoding_bytes_ + bytes > std::max(cache_->budget_, kMinDecodingBytes)) {
    cache_->decoded_.Wait(&cache_->mutex_);
  }
  cache_->decoding_bytes_ += bytes;
  decoding_ = bytes;
  freed = cache_->Shrink(cache_->Limit());
}

ChunkCache::Chunk ChunkCache::Claim::Publish(ChunkBuffer data, size_t kept_elsewhere) && {
  kept_elsewhere_ = kept_elsewhere;
  auto chunk = std::make_shared<const ChunkBuffer>(std::move(data));
  std::exchange(cache_, nullptr)->Finish(*this, chunk, absl::OkStatus());
  return chunk;
}

void ChunkCache::Claim::Fail(absl::Status status) && {
  std::exchange(cache_, nullptr)->Finish(*this, nullptr, std::move(status));
}

ChunkCache::Acquired ChunkCache::Acquire(Key key, size_t size, size_t served) {
  absl::MutexLock lock(&mutex_);
  auto [place, inserted] = entries_.try_emplace(key);
  std::shared_ptr<Entry>& entry = place->second;
  if (!inserted) {
    ++hits_;
    Touch(*entry, served);
    if (entry->done) return {entry->data, nullptr, nullptr};
    return {nullptr, nullptr, entry};
  }
  entry = std::make_shared<Entry>();
  entry->key = key;
  entry->size = size;
  entry->served = served;
  NoteDecodedAgain(key, size);
  return {nullptr, std::unique_ptr<Claim>(new Claim(this, entry, size)), nullptr};
}

ChunkCache::Chunk ChunkCache::Find(Key key, size_t served) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(key);
  if (place == entries_.end() || !place->second->done) return nullptr;
  ++hits_;
  Touch(*place->second, served);
  return place->second->data;
}

absl::StatusOr<ChunkCache::Chunk> ChunkCache::Wait(const Flight& flight) {
  absl::MutexLock lock(&mutex_);
  while (!flight->done) flight->arrived.Wait(&mutex_);
  if (!flight->status.ok()) return flight->status;
  return flight->data;
}

void ChunkCache::Touch(Entry& entry, size_t served) {
  entry.served += served;
  if (entry.list == nullptr) return;
  EntryList* target = entry.served >= entry.size ? &served_ : &live_;
  target->splice(target->end(), *entry.list, entry.place);
  entry.list = target;
}

void ChunkCache::Finish(Claim& claim, Chunk data, absl::Status status) {
  EntryList freed;
  absl::MutexLock lock(&mutex_);
  if (claim.decoding_ > 0) {
    decoding_bytes_ -= claim.decoding_;
    decoded_.SignalAll();
  }
  Entry& entry = *claim.entry_;
  entry.done = true;
  entry.status = std::move(status);
  entry.arrived.SignalAll();
  if (data == nullptr) {
    entries_.erase(entry.key);
    return;
  }
  entry.data = std::move(data);
  entry.served += claim.kept_elsewhere_;
  // Room is made first, so that the newest chunk stays whatever its size.
  freed = Shrink(Limit() > entry.size ? Limit() - entry.size : 0);
  entry.list = entry.served >= entry.size ? &served_ : &live_;
  entry.place = entry.list->insert(entry.list->end(), claim.entry_);
  bytes_ += entry.size;
}

ChunkCache::EntryList ChunkCache::Shrink(size_t bytes) {
  EntryList freed;
  while (bytes_ > bytes) {
    EntryList& list = served_.empty() ? live_ : served_;
    Entry& entry = *list.front();
    RememberEvicted(entry);
    bytes_ -= entry.size;
    entry.list = nullptr;
    entries_.erase(entry.key);
    freed.splice(freed.end(), list, list.begin());
  }
  return freed;
}

void ChunkCache::RememberEvicted(const Entry& entry) {
  evicted_bytes_ += entry.size;
  if (!ghosts_.insert_or_assign(entry.key, evicted_bytes_).second) return;
  ghost_order_.push_back(entry.key);
  if (ghost_order_.size() <= kMaxGhosts) return;
  ghosts_.erase(ghost_order_.front());
  ghost_order_.pop_front();
}

void ChunkCache::NoteDecodedAgain(const Key& key, size_t size) {
  auto ghost = ghosts_.find(key);
  if (ghost == ghosts_.end()) return;
  wanted_bytes_ = std::max<size_t>(wanted_bytes_, bytes_ + (evicted_bytes_ - ghost->second) + size);
}

void ChunkCache::SetBudget(size_t bytes) {
  bool trim;
  {
    EntryList freed;
    absl::MutexLock lock(&mutex_);
    budget_ = bytes;
    wanted_bytes_ = 0;
    freed = Shrink(bytes);
    trim = !freed.empty();
    if (bytes == 0) {
      ghosts_ = {};
      ghost_order_ = {};
    }
    decoded_.SignalAll();
  }
  // Small chunks came from malloc, which would keep them.
  if (trim) malloc_trim(0);
}

void ChunkCache::SetReserved(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  reserved_ = bytes;
}

ChunkCache::Stats ChunkCache::GetStats() const {
  absl::MutexLock lock(&mutex_);
  return {bytes_ + decoding_bytes_, hits_, wanted_bytes_ > budget_ ? wanted_bytes_ : 0};
}

}  // namespace libmount
