// SPDX-License-Identifier: GPL-3.0-or-later
//
// StoreAhead: hands small files to the kernel's page cache before they are asked for.
//
// Reading many small files costs a request each. When files of a directory are read one after the other, the next
// kBatchFiles of them are read from the image at once and pushed with FUSE_NOTIFY_STORE: 22,000 small files then took
// 2,200 READs instead of 22,000, and a third of the time.
//
// Deadlocks. The kernel holds the pages of a READ locked until its reply, and NOTIFY_STORE waits for a locked page. So
// a thread that stores (that is, has the notifying thread store) waits for the replies of others. It may do so because
//  - only one thread stores at a time (the others skip storing, they never wait for it), hence the READ it waits for is
//    in the hands of a thread that does not wait, or is taken by one: the server has at least two threads, and the one
//    that stores has passed its turn to receive;
//  - it never stores the file whose READ it has not answered yet.
//
// What was stored is remembered in a bit per node, so that nothing is stored twice. A READ of a stored file shows that
// the kernel has dropped its pages since; its neighbours are then stored again.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_FUSE_STORE_AHEAD_H_
#define LIBMOUNT_FUSE_STORE_AHEAD_H_

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/fuse/page_buffer.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

// Larger files gain nothing from being stored.
inline constexpr uint64_t kSmallFileBytes = 64 << 10;

class StoreAhead {
 public:
  struct File {
    NodeId node;
    absl::Span<const char> content;  // all of it
  };
  // Gives files to the kernel, in order, and ends where it does not take one. Returns how many it took.
  using Store = std::function<size_t(absl::Span<const File>)>;

  // `tree` must outlive the object.
  StoreAhead(const FileTree* tree, Store store);

  // Called for a READ from the start of a file of at most kSmallFileBytes, after it was read and before it is answered.
  // REQUIRES: the caller has passed its turn to receive, and another thread serves.
  void OnSmallFileRead(NodeId file);

  // Gives memory back.
  void Trim();

  uint64_t stored() const { return stored_count_.load(std::memory_order_relaxed); }

 private:
  static constexpr size_t kStreams = 8;   // readers told apart
  static constexpr size_t kExpected = 4;  // files that count as "the next one"
  static constexpr size_t kBatchFiles = 24;
  static constexpr int kHitsBeforeStoring = 2;
  static constexpr size_t kNodesPerBlock = 512;

  // A reader that goes through a directory.
  struct Stream {
    std::array<NodeId, kExpected> expected = {};  // the files that it would read next; 0: none
    int hits = 0;
    uint64_t last_use = 0;
  };

  // Files to store next, in order; empty unless `file` continues a stream, which is named in `stream_index`.
  std::vector<NodeId> Decide(NodeId file, size_t* stream_index);
  // The stream goes on at `next` after all: the files from there on were not stored.
  void Rewind(size_t stream_index, absl::Span<const NodeId> next);
  Stream* FindStream(NodeId file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsStored(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetStored(NodeId node, bool stored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether all were stored that can be read; `done` counts those that need not be tried again.
  bool StoreSome(absl::Span<const NodeId> files, size_t* done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(storing_);

  const FileTree* const tree_;
  const Store store_;
  std::atomic<uint64_t> stored_count_{0};

  // Held while a batch is stored; only ever tried. Before mutex_.
  absl::Mutex storing_;
  PageBuffer buffer_ ABSL_GUARDED_BY(storing_);

  // Held for look-ups only, never during a read or a store.
  absl::Mutex mutex_;
  std::array<Stream, kStreams> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t clock_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, std::bitset<kNodesPerBlock>> stored_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_STORE_AHEAD_H_
