// SPDX-License-Identifier: GPL-3.0-or-later
//
// DirectOpens: which new files are being written past the kernel's page cache (FOPEN_DIRECT_IO).
//
// Who makes a file and opens it for writing alone never reads it, nor maps it: nothing is gained by keeping what it
// writes in the page cache, and much is lost. Written directly, 1 GiB takes two thirds of the time, and a small file
// takes one request less (the kernel asks for security.capability before it changes a file's first page).
//
// The page cache must not hold what such a writer then changes. So as long as one has the file open, all others open it
// in the same way; and who opens it first afterwards lets go of the pages that a mapping may have left meanwhile.
//
//   Begin ──► one has it open ──Open──► several have (had) it open ──last Release──► closed ──Open──► forgotten
//                     └──────────last Release──────────► forgotten
//
// It lies in memory that outlives the process (inflight_table.h), since files stay open when the process dies. Where a
// process dies in the middle, or a request is handled twice, a file is counted as open once more than it is: it is then
// not cached, which is slower and not wrong.
//
// Thread safety: all methods from any thread.

#ifndef LIBMOUNT_FUSE_DIRECT_OPENS_H_
#define LIBMOUNT_FUSE_DIRECT_OPENS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class DirectOpens {
 public:
  // All zeros: free.
  struct Entry {
    std::atomic<uint64_t> node;
    std::atomic<uint32_t> opens;
    std::atomic<uint32_t> shared;  // others than the maker have opened it
  };
  enum class How {
    kCached,      // as files are opened that are not written directly
    kCachedAnew,  // the same, and the kernel's pages are to go
    kDirect,      // past the page cache; Release follows
  };

  // `entries` must outlive it. REQUIRES: no other process changes them.
  explicit DirectOpens(absl::Span<Entry> entries);

  // A file was made, and is opened for writing alone: true, it is opened directly, and Release follows. False: there is
  // no room, it is opened as others are.
  bool Begin(NodeId node);
  // Another one opens the file.
  How Open(NodeId node);
  // One that opened it directly closes it.
  void Release(NodeId node);

  // Whether a page of it may be in the kernel's cache, though it is written directly: that of a mapping.
  bool IsShared(NodeId node) const;

 private:
  Entry* Find(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Span<Entry> entries_;
  mutable absl::Mutex mutex_;
  std::atomic<size_t> used_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_DIRECT_OPENS_H_
