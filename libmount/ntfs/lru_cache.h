// SPDX-License-Identifier: GPL-3.0-or-later
//
// LruCache: what was made last for each node, as far as a budget of bytes goes. T::cost() says how many bytes it takes.
//
// Thread safety: thread-safe.

#ifndef LIBMOUNT_NTFS_LRU_CACHE_H_
#define LIBMOUNT_NTFS_LRU_CACHE_H_

#include <cstddef>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

template <typename T>
class LruCache {
 public:
  explicit LruCache(size_t budget) : budget_(budget) {}

  // Null: it is not there.
  std::shared_ptr<const T> Find(NodeId node) {
    absl::MutexLock lock(&mutex_);
    auto found = places_.find(node);
    if (found == places_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return found->second->second;
  }

  void Insert(NodeId node, std::shared_ptr<const T> value) {
    absl::MutexLock lock(&mutex_);
    RemoveLocked(node);
    bytes_ += CostOf(*value);
    order_.emplace_front(node, std::move(value));
    places_[node] = order_.begin();
    Shrink();
  }

  void Remove(NodeId node) {
    absl::MutexLock lock(&mutex_);
    RemoveLocked(node);
  }

  void Clear() {
    absl::MutexLock lock(&mutex_);
    order_.clear();
    places_.clear();
    bytes_ = 0;
  }

  void SetBudget(size_t bytes) {
    absl::MutexLock lock(&mutex_);
    budget_ = bytes;
    Shrink();
  }

  size_t bytes() const {
    absl::MutexLock lock(&mutex_);
    return bytes_;
  }

 private:
  // The one used last is first.
  using Order = std::list<std::pair<NodeId, std::shared_ptr<const T>>>;
  static constexpr size_t kEntryCost = 128;  // of list and table

  static size_t CostOf(const T& value) { return value.cost() + kEntryCost; }

  void RemoveLocked(NodeId node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    auto found = places_.find(node);
    if (found == places_.end()) return;
    bytes_ -= CostOf(*found->second->second);
    order_.erase(found->second);
    places_.erase(found);
  }

  // The one used last stays, whatever it costs: else each use would make it anew.
  void Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (bytes_ > budget_ && order_.size() > 1) RemoveLocked(order_.back().first);
  }

  mutable absl::Mutex mutex_;
  size_t budget_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Order order_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<NodeId, typename Order::iterator> places_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_LRU_CACHE_H_
