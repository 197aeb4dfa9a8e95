// SPDX-License-Identifier: GPL-3.0-or-later
//
// TypeChanges: nodes that became another type of file while the kernel knew them: a file whose reparse data was set is
// a symbolic link from then on.
//
// The kernel takes a node's type for constant, and would answer EIO for ever to whoever has the name cached. Told
// ESTALE it looks the name up anew, and makes a new inode for what it then finds.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_FUSE_TYPE_CHANGES_H_
#define LIBMOUNT_FUSE_TYPE_CHANGES_H_

#include <atomic>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class TypeChanges {
 public:
  void Add(NodeId node) {
    absl::MutexLock lock(&mutex_);
    nodes_.insert(node);
    any_.store(true, std::memory_order_release);
  }

  // Whether the kernel is to be told that the node is stale.
  bool Contains(NodeId node) const {
    if (!any_.load(std::memory_order_acquire)) return false;
    absl::MutexLock lock(&mutex_);
    return nodes_.contains(node);
  }

  // The kernel was told the new type by a look-up.
  void Told(NodeId node) {
    if (!any_.load(std::memory_order_acquire)) return;
    absl::MutexLock lock(&mutex_);
    nodes_.erase(node);
    any_.store(!nodes_.empty(), std::memory_order_release);
  }

 private:
  std::atomic<bool> any_{false};
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<NodeId> nodes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_TYPE_CHANGES_H_
