// SPDX-License-Identifier: GPL-3.0-or-later
//
// Invalidator: tells the kernel, from the notifying thread, what it must not believe any longer.
//
// The kernel knows what its own requests change; names and attributes may therefore live long in its caches. Some
// changes it cannot know of: a file removed or renamed by a name of other case (the entry of the exact name is still
// cached), attributes that change with an extended attribute.
//
// Why a thread: such a notification waits for the directory's lock, which is held by the very request that made the
// change until it is answered. So a stale entry lives until shortly after the reply; what little can go wrong meanwhile
// is answered with ESTALE, upon which the kernel looks the name up again.
//
// Thread safety: Entry and Attributes from any thread.

#ifndef LIBMOUNT_FUSE_INVALIDATOR_H_
#define LIBMOUNT_FUSE_INVALIDATOR_H_

#include <functional>
#include <string>
#include <utility>

#include "libmount/fuse/notifying_thread.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class Invalidator {
 public:
  // The notifications themselves. Either may wait long.
  struct Notify {
    std::function<void(NodeId directory, const std::string& name)> entry;
    std::function<void(NodeId node)> attributes;
    std::function<void(NodeId node)> content;  // its pages, and its attributes
  };

  // `thread` must outlive what it is told here.
  Invalidator(Notify notify, NotifyingThread* thread) : notify_(std::move(notify)), thread_(thread) {}

  void Entry(NodeId directory, std::string name) {
    thread_->Post([this, directory, name = std::move(name)] { notify_.entry(directory, name); });
  }
  void Attributes(NodeId node) {
    thread_->Post([this, node] { notify_.attributes(node); });
  }
  void Content(NodeId node) {
    thread_->Post([this, node] { notify_.content(node); });
  }

 private:
  const Notify notify_;
  NotifyingThread* const thread_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_INVALIDATOR_H_
