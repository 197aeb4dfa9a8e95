// SPDX-License-Identifier: GPL-3.0-or-later
//
// FuseServer: answers the kernel's requests on a /dev/fuse descriptor from a FileTree.
//
// The descriptor comes mounted, or about to be: mounting is not done here. It may as well be one end of a socketpair on
// which a test plays the kernel. Requests are read by several threads from the one descriptor.
//
// Lifecycle: construct, Start, wait for OnEnd (or call Stop), destroy.
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

namespace libmount {

// The largest read the kernel may send; the same number must be given to the mount (max_read=).
inline constexpr uint32_t kFuseMaxRead = 1 << 20;

struct FuseServerOptions {
  int threads = 0;                // 0: chosen from the number of CPUs
  uint32_t read_ahead = 1 << 20;  // bytes; the kernel takes the smaller of this and the device's
  bool read_only = true;          // unlimited lifetimes, no open and opendir
  bool store_ahead = true;        // push small files of a directory that is being read into the page cache
  // Runs (on a serving thread) when nothing was asked for a while: a chance to give memory back.
  std::function<void()> on_idle;
  // Runs at the first request, and at the first one after on_idle.
  std::function<void()> on_busy;
};

class FuseServer {
 public:
  // `tree` must outlive the server.
  FuseServer(FileTree* tree, FuseServerOptions options);
  ~FuseServer();  // stops and joins
  FuseServer(const FuseServer&) = delete;
  FuseServer& operator=(const FuseServer&) = delete;

  // Takes the descriptor (and makes it non-blocking) and starts serving on threads of its own; returns at once.
  // `on_initialized` runs (on one of these threads) when the INIT reply was sent; `on_end` when the last thread has
  // left: OK after the file system was unmounted, its connection aborted, or Stop was called, else what failed. Neither
  // may destroy the server. Where Start fails, neither is called.
  absl::Status Start(UniqueFd fuse_fd, std::function<void()> on_initialized, std::function<void(absl::Status)> on_end);

  // Ends serving without unmounting.
  void Stop();

  // The raw INIT request and its reply, once it was sent: what a replacement needs to go on serving this mount.
  struct InitExchange {
    std::string request;
    std::string reply;
  };
  std::optional<InitExchange> init_exchange() const;

  struct Stats {
    uint64_t requests = 0;
    uint64_t reads = 0;
    uint64_t bytes_read = 0;
    uint64_t directory_reads = 0;
    uint64_t lookups = 0;
    uint64_t stored_ahead = 0;  // files handed to the page cache before they were asked for
  };
  Stats GetStats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_FUSE_SERVER_H_
