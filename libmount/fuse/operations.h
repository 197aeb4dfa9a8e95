// SPDX-License-Identifier: GPL-3.0-or-later
//
// The kernel's requests, one function each, in terms of a FileTree: the table that libfuse dispatches through.
//
// Nothing here keeps state between requests: file handles are 0, FORGET is ignored, node ids come from the tree. On a
// read-only mount opening is answered with ENOSYS (the kernel then stops asking).

#ifndef LIBMOUNT_FUSE_OPERATIONS_H_
#define LIBMOUNT_FUSE_OPERATIONS_H_

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 14)
#endif
#include <fuse_lowlevel.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libmount/fuse/direct_opens.h"
#include "libmount/fuse/inflight_table.h"
#include "libmount/fuse/invalidator.h"
#include "libmount/fuse/page_buffer.h"
#include "libmount/fuse/removed_directories.h"
#include "libmount/fuse/request_source.h"
#include "libmount/fuse/store_ahead.h"
#include "libmount/fuse/type_changes.h"
#include "libmount/tree/writable_tree.h"

namespace libmount {

// Where a handler finds what it needs: the session's user data.
struct ServingContext {
  FileTree* tree = nullptr;
  WritableTree* writable = nullptr;  // the same tree; null: nothing can be changed
  RequestSource* source = nullptr;
  StoreAhead* store_ahead = nullptr;                // null: never store
  Invalidator* invalidator = nullptr;               // with `writable`
  std::atomic<DirectOpens*> direct_opens{nullptr};  // null: never directly, but named streams
  TypeChanges type_changes;
  RemovedDirectories removed_directories;
  uint32_t read_ahead = 0;

  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> directory_reads{0};
  std::atomic<uint64_t> lookups{0};
  std::atomic<uint64_t> writes{0};
  std::atomic<uint64_t> bytes_written{0};
};

// What a serving thread owns. Handlers run on such threads only, and find theirs through Current().
struct ServingThread {
  ServingThread(InflightTable::Slot slot, size_t reply_bytes, RequestSource::Turn turn)
      : slot(slot), request(slot.request()), reply(reply_bytes), turn(std::move(turn)) {}

  static ServingThread*& Current() {
    thread_local ServingThread* current = nullptr;
    return current;
  }

  InflightTable::Slot slot;
  char* request;  // the one being handled: in `slot`, or found in another one after a recovery
  PageBuffer reply;
  RequestSource::Turn turn;
};

// The table for a mount that refuses changes (EROFS), and for one over a WritableTree. The session's user data must be
// a ServingContext.
const fuse_lowlevel_ops& ReadOnlyOperations();
const fuse_lowlevel_ops& ReadWriteOperations();

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_OPERATIONS_H_
