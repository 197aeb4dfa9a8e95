// SPDX-License-Identifier: GPL-3.0-or-later
//
// Invalidator: tells the kernel, from a thread of its own, what it must not believe any longer.
//
// The kernel knows what its own requests change; names and attributes may therefore live long in its caches. Some
// changes it cannot know of: a file removed or renamed by a name of other case (the entry of the exact name is still
// cached), attributes that change with an extended attribute, pages of a file that is written past them.
//
// Why a thread: such a notification waits for the directory's lock, which is held by the very request that made the
// change until it is answered. So a stale entry lives until shortly after the reply; what little can go wrong meanwhile
// is answered with ESTALE, upon which the kernel looks the name up again.
//
// Thread safety: Entry, Attributes and Content from any thread; Start and the destructor from one.

#ifndef LIBMOUNT_FUSE_INVALIDATOR_H_
#define LIBMOUNT_FUSE_INVALIDATOR_H_

#include <deque>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/small_thread.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class Invalidator {
 public:
  // The notifications themselves. Each may wait long.
  struct Notify {
    std::function<void(NodeId directory, const std::string& name)> entry;
    std::function<void(NodeId node)> attributes;
    std::function<void(NodeId node)> content;  // its pages, and its attributes
  };

  explicit Invalidator(Notify notify) : notify_(std::move(notify)) {}
  ~Invalidator();  // what has not been told is dropped
  Invalidator(const Invalidator&) = delete;
  Invalidator& operator=(const Invalidator&) = delete;

  absl::Status Start();

  void Entry(NodeId directory, std::string name);
  void Attributes(NodeId node);
  void Content(NodeId node);

 private:
  // More than these are not kept; what is dropped then is only slower to be noticed.
  static constexpr size_t kMostWaiting = 1 << 16;

  struct Item {
    NodeId node;
    std::string name;  // empty: the node's attributes
    bool content = false;
  };

  void Add(Item item);
  void Run();

  const Notify notify_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<Item> waiting_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  SmallThread thread_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_INVALIDATOR_H_
