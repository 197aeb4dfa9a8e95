// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/connections.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/front/grpc_service.h"
#include "daemon/front/limits.h"
#include "daemon/front/reflection_service.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server_posix.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::Severity;
using libmount::UniqueFd;

constexpr size_t kThreads = 16;
constexpr size_t kThreadsPerUid = 4;

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

void Configure(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.SetMaxSendMessageSize(-1);  // answers are bounded by what they are made of
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(kKeepaliveTime));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(kKeepaliveTimeout));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(kLeastClientPingInterval));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

}  // namespace

struct Connections::Connection {
  std::shared_ptr<grpc::ResourceQuota> quota;
  // The server ends before the services that it calls.
  std::unique_ptr<grpc::Service> adapter;
  std::unique_ptr<grpc::Service> reflection;
  std::unique_ptr<grpc::Server> server;
  UniqueFd hangup;  // the socket once more, to see its end
  EventLoop::WatchId watch = 0;
};

Connections::Connections(EventLoop& loop, Service& service)
    : loop_(loop), service_(service), pool_(std::make_unique<FairPool>(kThreads, kThreadsPerUid)) {
  grpc::EnableDefaultHealthCheckService(true);
}

Connections::~Connections() {
  std::map<uint64_t, std::unique_ptr<Connection>> left;
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    left.swap(connections_);
  }
  for (auto& [id, connection] : left) loop_.Remove(connection->watch);
  // All at once: a call that takes its time to end holds up only its own connection.
  uint32_t key = 0;
  for (auto& [id, connection] : left) {
    std::shared_ptr<Connection> ending = std::move(connection);
    pool_->Submit(++key, [ending] { ending->server->Shutdown(std::chrono::system_clock::now()); });
  }
  left.clear();
  pool_.reset();
}

void Connections::Serve(UniqueFd socket, Caller caller) {
  uint32_t uid = caller.uid;
  auto held = std::make_shared<UniqueFd>(std::move(socket));  // a task must be copyable
  pool_->Submit(uid, [this, held, caller = std::move(caller)] { Open(std::move(*held), caller); });
}

std::shared_ptr<grpc::ResourceQuota> Connections::QuotaOf(uint32_t uid) {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<grpc::ResourceQuota> quota = quotas_[uid].lock();
  if (quota == nullptr) {
    std::erase_if(quotas_, [](const auto& entry) { return entry.second.expired(); });
    quota = std::make_shared<grpc::ResourceQuota>(absl::StrCat("uid ", uid));
    quota->Resize(kMaxReceivedBytesPerUid);
    quotas_[uid] = quota;
  }
  return quota;
}

void Connections::Open(UniqueFd socket, const Caller& caller) {
  auto connection = std::make_unique<Connection>();
  connection->hangup = socket.Duplicate();
  if (!connection->hangup || fcntl(socket.get(), F_SETFL, fcntl(socket.get(), F_GETFL) | O_NONBLOCK) != 0) {
    return libmount::Log(Severity::kError, LogContext{"", "", caller.uid},
                         absl::StrCat("cannot serve a connection: errno ", errno));
  }
  connection->adapter = MakeGrpcService(service_, caller);
  connection->reflection = MakeReflectionService();
  grpc::ServerBuilder builder;
  Configure(builder);
  connection->quota = QuotaOf(caller.uid);
  builder.SetResourceQuota(*connection->quota);
  builder.RegisterService(connection->adapter.get());
  builder.RegisterService(connection->reflection.get());
  connection->server = builder.BuildAndStart();
  if (connection->server == nullptr) {
    return libmount::Log(Severity::kError, LogContext{"", "", caller.uid}, "cannot serve a connection");
  }
  grpc::AddInsecureChannelFromFd(connection->server.get(), socket.release());

  uint64_t id = caller.connection->id();
  absl::MutexLock lock(&mutex_);
  if (ending_) return;  // destroyed again, here
  Connection& kept = *connection;
  connections_[id] = std::move(connection);
  uint32_t uid = caller.uid;
  // One-shot: level-triggered hang-ups would come again until the server is gone.
  kept.watch = loop_.Add(kept.hangup.get(), EPOLLRDHUP | EPOLLONESHOT,
                         [this, id, uid](uint32_t) { pool_->Submit(uid, [this, id] { Close(id); }); });
}

void Connections::Close(uint64_t id) {
  std::unique_ptr<Connection> connection;
  {
    absl::MutexLock lock(&mutex_);
    auto place = connections_.find(id);
    if (place == connections_.end()) return;
    connection = std::move(place->second);
    connections_.erase(place);
  }
  loop_.Remove(connection->watch);
  // Cancels what still runs, and waits for it: a mount being undone, say.
  connection->server->Shutdown(std::chrono::system_clock::now());
}

}  // namespace dismd
