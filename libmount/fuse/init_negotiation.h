// SPDX-License-Identifier: GPL-3.0-or-later
//
// InitNegotiation: the INIT request of a mount and its reply, kept raw, and what libfuse leaves out of the reply.
//
// A mount is negotiated once. A server that takes it over lets libfuse negotiate again with the saved request, so that
// libfuse knows what was agreed on; the reply must not reach the kernel.
//
// Thread safety: all methods may be called from several threads at once.

#ifndef LIBMOUNT_FUSE_INIT_NEGOTIATION_H_
#define LIBMOUNT_FUSE_INIT_NEGOTIATION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "libmount/fuse/fuse_server.h"

namespace libmount {

class InitNegotiation {
 public:
  explicit InitNegotiation(bool writable) : writable_(writable) {}

  // The kernel sent INIT. REQUIRES: IsWellFormed.
  void OnRequest(const char* request, size_t size);

  // Whether `reply` is the one to INIT; adds what libfuse does not know to say.
  bool CompleteReply(std::string* reply);

  // Whether files may be mapped that are open past the page cache: `reply` says so, and the kernel can (since 6.6).
  static bool AllowsDirectMapping(const std::string& reply);

  // `reply` was sent, or would have been.
  void OnReplied(std::string reply);

  std::optional<FuseServer::InitExchange> exchange() const;

  // Whether a mount begun with `saved` can be served by who would have replied as here: kFailedPrecondition where the
  // kernel sends requests that are too long, or does not open files. REQUIRES: OnReplied.
  absl::Status CheckAgreesWith(const FuseServer::InitExchange& saved) const;

  // Whether `exchange` is a request and a reply at all.
  static absl::Status Check(const FuseServer::InitExchange& exchange);

 private:
  const bool writable_;
  mutable absl::Mutex mutex_;
  FuseServer::InitExchange exchange_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_INIT_NEGOTIATION_H_
