// SPDX-License-Identifier: GPL-3.0-or-later
//
// Connections: a grpc::Server for each connection that the broker accepted.
//
// gRPC does not tell who is at the other end of a Unix socket; the broker does. With a server and an adapter of its own
// for each connection (0.3 ms, 27 kB, no thread) a call cannot but be made in the name of whoever connected.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_CONNECTIONS_H_
#define DAEMON_FRONT_CONNECTIONS_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/caller.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/fair_pool.h"
#include "daemon/front/service.h"
#include "libmount/base/unique_fd.h"

namespace grpc {
class ResourceQuota;
}

namespace dismd {

class Connections {
 public:
  Connections(EventLoop& loop, Service& service);
  // Ends all connections, and waits.
  ~Connections();
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  // Serves the connection until its peer closes it. Does not wait.
  void Serve(libmount::UniqueFd socket, Caller caller);

 private:
  struct Connection;

  // What all connections of a user may hold together. Kept by them.
  std::shared_ptr<grpc::ResourceQuota> QuotaOf(uint32_t uid);
  void Open(libmount::UniqueFd socket, const Caller& caller);
  void Close(uint64_t id);

  EventLoop& loop_;
  Service& service_;
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, std::weak_ptr<grpc::ResourceQuota>> quotas_ ABSL_GUARDED_BY(mutex_);
  // Servers are built and, above all, shut down (which waits for their calls) here, never on gRPC's or the loop's
  // threads.
  std::unique_ptr<FairPool> pool_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_CONNECTIONS_H_
