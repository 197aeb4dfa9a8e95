// SPDX-License-Identifier: GPL-3.0-or-later
//
// FuseServer: answers the kernel's requests on a /dev/fuse descriptor from a FileTree, or from a WritableTree.
//
// The descriptor comes mounted, or about to be: mounting is not done here. It may as well be one end of a socketpair on
// which a test plays the kernel. Requests are read by several threads from the one descriptor.
//
// Lifecycle: construct, Start, wait for OnEnd (or call Stop), destroy.
//
// A mount outlives the process that serves it, when somebody else keeps a duplicate of the descriptor, the InitExchange
// and the in-flight table (inflight_table.h): a server in another process goes on with these three (Recovery).
// REQUIRES: the process that died is dead before another one starts.
//
// Thread safety: Start and the destructor from one thread; Stop and GetStats from any.

#ifndef LIBMOUNT_FUSE_FUSE_SERVER_H_
#define LIBMOUNT_FUSE_FUSE_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/file_tree.h"
#include "libmount/tree/writable_tree.h"

namespace libmount {

// The largest read the kernel may send; the same number must be given to the mount (max_read=).
inline constexpr uint32_t kFuseMaxRead = 1 << 20;

struct FuseServerOptions {
  int threads = 0;                // 0: chosen from the number of CPUs
  uint32_t read_ahead = 1 << 20;  // bytes; the kernel takes the smaller of this and the device's
  bool store_ahead = true;        // push small files of a directory that is being read into the page cache; a tree
                                  // that can change is never pushed
  // After a recovery: have the kernel (from 6.9 on) send again what the dead process had read and not answered.
  bool resend = true;
  // Runs (on a serving thread) when nothing was asked for a while: a chance to give memory back.
  std::function<void()> on_idle;
  // Runs at the first request, and at the first one after on_idle.
  std::function<void()> on_busy;
};

class FuseServer {
 public:
  // The raw INIT request and its reply.
  struct InitExchange {
    std::string request;
    std::string reply;
  };

  // What a server takes over from the one that died.
  struct Recovery {
    // Of the process that began the mount; absent: this one begins it.
    std::optional<InitExchange> init;
    // An in-flight table, new or the dead process's. Where there is none, requests are kept in memory of the process
    // and die with it (the kernel may resend them).
    UniqueFd inflight;
  };

  // `tree` must outlive the server. Over a FileTree every change is refused with EROFS.
  FuseServer(FileTree* tree, FuseServerOptions options);
  FuseServer(WritableTree* tree, FuseServerOptions options);
  ~FuseServer();  // stops and joins
  FuseServer(const FuseServer&) = delete;
  FuseServer& operator=(const FuseServer&) = delete;

  // Takes the descriptor (and makes it non-blocking) and starts serving on threads of its own; returns at once.
  // `on_initialized` runs (on one of these threads) when the INIT reply was sent; `on_end` when the last thread has
  // left: OK after the file system was unmounted, its connection aborted, or Stop was called, else what failed. Neither
  // may destroy the server. Where Start fails, neither is called.
  //
  // With a Recovery the kernel is not asked for INIT again, `on_initialized` runs when the requests of the dead process
  // have been answered. kFailedPrecondition: the saved exchange or table are not those of a server like this one.
  absl::Status Start(UniqueFd fuse_fd, Recovery recovery, std::function<void()> on_initialized,
                     std::function<void(absl::Status)> on_end);
  absl::Status Start(UniqueFd fuse_fd, std::function<void()> on_initialized, std::function<void(absl::Status)> on_end);

  // Ends serving without unmounting.
  void Stop();

  // Once the reply was sent.
  std::optional<InitExchange> init_exchange() const;

  struct Stats {
    uint64_t requests = 0;
    uint64_t reads = 0;
    uint64_t bytes_read = 0;
    uint64_t directory_reads = 0;
    uint64_t lookups = 0;
    uint64_t stored_ahead = 0;  // files handed to the page cache before they were asked for
    uint64_t writes = 0;
    uint64_t bytes_written = 0;
    uint64_t replayed = 0;  // requests of a dead process found in its in-flight table
    uint64_t resent = 0;    // requests of a dead process that the kernel sent again
  };
  Stats GetStats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_FUSE_SERVER_H_
