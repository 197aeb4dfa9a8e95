// SPDX-License-Identifier: GPL-3.0-or-later
//
// The kernel's requests, one function each, in terms of a FileTree: the table that libfuse dispatches through.
//
// Nothing here keeps state between requests: opening is answered with ENOSYS (the kernel then stops asking), FORGET is
// ignored, node ids come from the tree.

#ifndef LIBMOUNT_FUSE_OPERATIONS_H_
#define LIBMOUNT_FUSE_OPERATIONS_H_

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 14)
#endif
#include <fuse_lowlevel.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libmount/fuse/page_buffer.h"
#include "libmount/fuse/request_source.h"
#include "libmount/fuse/store_ahead.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

// Where a handler finds what it needs: the session's user data.
struct ServingContext {
  FileTree* tree = nullptr;
  RequestSource* source = nullptr;
  StoreAhead* store_ahead = nullptr;  // null: never store
  uint32_t read_ahead = 0;

  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> directory_reads{0};
  std::atomic<uint64_t> lookups{0};
};

// What a serving thread owns. Handlers run on such threads only, and find theirs through Current().
struct ServingThread {
  explicit ServingThread(size_t request_bytes, size_t reply_bytes, RequestSource::Turn turn)
      : request(request_bytes), reply(reply_bytes), turn(std::move(turn)) {}

  static ServingThread*& Current() {
    thread_local ServingThread* current = nullptr;
    return current;
  }

  PageBuffer request;
  PageBuffer reply;
  RequestSource::Turn turn;
};

// The table for a read-only mount. The session's user data must be a ServingContext.
const fuse_lowlevel_ops& ReadOnlyOperations();

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_OPERATIONS_H_
