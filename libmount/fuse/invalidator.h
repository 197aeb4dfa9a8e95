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
// What is to be told is noted in the in-flight table until it was told: a process that dies before leaves it to its
// replacement. A name is noted before the change, since it cannot be found out afterwards when the request comes again.
//
// Thread safety: all methods may be called from any thread.

#ifndef LIBMOUNT_FUSE_INVALIDATOR_H_
#define LIBMOUNT_FUSE_INVALIDATOR_H_

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libmount/fuse/inflight_table.h"
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

  // A name that a change is about to make stale; told once the change was made, else forgotten.
  class StaleName {
   public:
    // `target`: what the name stands for before the change.
    StaleName(Invalidator* owner, NodeId directory, std::string name, NodeId target)
        : owner_(owner),
          directory_(directory),
          name_(std::move(name)),
          notice_(owner->Note(directory, name_, target)) {}
    ~StaleName() {
      if (owner_ != nullptr) owner_->Forget(notice_);
    }
    StaleName(StaleName&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)),
          directory_(other.directory_),
          name_(std::move(other.name_)),
          notice_(other.notice_) {}
    StaleName& operator=(StaleName&&) = delete;

    NodeId directory() const { return directory_; }
    const std::string& name() const { return name_; }

    // At most once.
    void Tell() { std::exchange(owner_, nullptr)->Post(directory_, std::move(name_), notice_); }

   private:
    Invalidator* owner_;
    NodeId directory_;
    std::string name_;
    int notice_;
  };

  // Both must outlive what is told here.
  Invalidator(Notify notify, NotifyingThread* thread, InflightTable* table)
      : notify_(std::move(notify)), thread_(thread), table_(table) {}

  void Attributes(NodeId node) { Post(node, "", Note(node, "", 0)); }
  void Content(NodeId node) { Post(node, "", Note(node, "", kContent), /*content=*/true); }

  // Whether the kernel may still have a name that was the node's and is not any more, or may have had it when it sent
  // the request that is being answered.
  bool MayHaveStaleNameOf(NodeId node) {
    absl::MutexLock lock(&mutex_);
    const std::vector<InflightTable::Notice> all = table_->notices();
    return std::any_of(all.begin(), all.end(), [node](const auto& notice) { return notice.target == node; }) ||
           std::any_of(told_.begin(), told_.end(), [node](const Told& told) {
             return told.target == node && std::chrono::steady_clock::now() < told.until;
           });
  }

  // Tells what a process that died has left.
  void TellWhatWasLeft() {
    absl::MutexLock lock(&mutex_);
    for (InflightTable::Notice& left : table_->notices())
      Post(left.node, std::move(left.name), left.index, left.target == kContent);
  }

 private:
  // The target of a notice of a node's pages.
  static constexpr NodeId kContent = ~NodeId{0};
  // Longer than a request is under way that was sent before the kernel was told.
  static constexpr std::chrono::seconds kAfterwards{10};
  static constexpr size_t kMostTold = 256;
  struct Told {
    NodeId target;
    std::chrono::steady_clock::time_point until;
  };

  int Note(NodeId node, const std::string& name, NodeId target) {
    absl::MutexLock lock(&mutex_);
    return table_->AddNotice(node, name, target);
  }
  void Forget(int notice) {
    absl::MutexLock lock(&mutex_);
    table_->RemoveNotice(notice);
  }
  void Post(NodeId node, std::string name, int notice, bool content = false) {
    thread_->Post([this, node, name = std::move(name), notice, content] {
      if (content) {
        notify_.content(node);
      } else if (name.empty()) {
        notify_.attributes(node);
      } else {
        notify_.entry(node, name);
        Remember(notice);
      }
      Forget(notice);
    });
  }
  void Remember(int notice) {
    absl::MutexLock lock(&mutex_);
    for (const InflightTable::Notice& one : table_->notices()) {
      if (one.index != notice || one.target == 0) continue;
      if (told_.size() >= kMostTold) told_.pop_front();
      told_.push_back({one.target, std::chrono::steady_clock::now() + kAfterwards});
    }
  }

  const Notify notify_;
  NotifyingThread* const thread_;
  absl::Mutex mutex_;
  InflightTable* const table_ ABSL_PT_GUARDED_BY(mutex_);  // its notices
  std::deque<Told> told_ ABSL_GUARDED_BY(mutex_);          // the last ones
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_INVALIDATOR_H_
