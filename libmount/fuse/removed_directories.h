// SPDX-License-Identifier: GPL-3.0-or-later
//
// RemovedDirectories: the directories that were removed last. Somebody may have one open, or as current directory, and
// may ask for its attributes and open it (as "."), although a tree no longer has it: there is nothing in it any more,
// and the kernel makes and looks up nothing there.
//
// It does not say which of them it still has; so the oldest are forgotten. Who has one of those is told ESTALE.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_FUSE_REMOVED_DIRECTORIES_H_
#define LIBMOUNT_FUSE_REMOVED_DIRECTORIES_H_

#include <deque>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class RemovedDirectories {
 public:
  // As it was before it was removed.
  void Add(NodeAttributes directory) {
    directory.link_count = 0;
    absl::MutexLock lock(&mutex_);
    if (!known_.insert_or_assign(directory.node, directory).second) return;
    order_.push_back(directory.node);
    if (order_.size() <= kMost) return;
    known_.erase(order_.front());
    order_.pop_front();
  }

  std::optional<NodeAttributes> Find(NodeId node) const {
    absl::MutexLock lock(&mutex_);
    auto found = known_.find(node);
    return found == known_.end() ? std::nullopt : std::optional<NodeAttributes>(found->second);
  }

 private:
  static constexpr size_t kMost = 4096;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<NodeId, NodeAttributes> known_ ABSL_GUARDED_BY(mutex_);
  std::deque<NodeId> order_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_REMOVED_DIRECTORIES_H_
