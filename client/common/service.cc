// SPDX-License-Identifier: Apache-2.0

#include "client/common/service.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <utility>

#include "client/common/address.h"
#include "client/common/rpc_connection.h"

namespace dismd {
namespace {

using Clock = std::chrono::steady_clock;

// A service lists its mounts at once; opening an image waits for the file system that it lies on, which the service
// bounds itself.
constexpr int kAnswerSeconds = 30;
constexpr int kImageInfoSeconds = 300;
// Cleaning up may have gigabytes of staged edits to delete.
constexpr int kCleanupSeconds = 300;
// How long a cancelled operation may take to show its first snapshot (without it there is no id to cancel), and then to
// end. Only a service that hangs reaches them; the stream is then cut, which cancels a mount as well.
constexpr auto kFirstSnapshotPatience = std::chrono::seconds(5);
constexpr auto kCancelPatience = std::chrono::seconds(30);
// A commit past its point of no return still has a sync to wait for, on whatever disk that is.
constexpr auto kCommitCancelPatience = std::chrono::minutes(10);

// Of one process; further calls wait for one of these to end. The service takes 128 of a user.
constexpr unsigned kMaxConnections = 64;
// Kept for the next calls.
constexpr size_t kMaxIdleConnections = 4;
// How often a service that has too many connections waiting is tried.
constexpr auto kConnectPatience = std::chrono::seconds(10);
constexpr auto kConnectPause = std::chrono::milliseconds(5);

// How long a service that was lost in the middle of an operation is waited for, which its supervisor starts again.
constexpr auto kReturnPatience = std::chrono::seconds(5);
constexpr auto kReturnPause = std::chrono::milliseconds(20);

// Whether this thread is in a call, and calls again from its callback.
thread_local int calls_of_this_thread = 0;

CallStatus OutOfDescriptors() {
  return CallStatus(Code::kResourceExhausted, v1::OUT_OF_RESOURCES,
                    "this process has no file descriptor left; close some or raise its limit (RLIMIT_NOFILE)");
}

// The connection, not the call, has failed.
bool IsLost(const CallStatus& status) { return status.unavailable() && status.reason() == v1::REASON_UNSPECIFIED; }

enum class Event { kReady, kCancelled, kTimedOut };

// Sleeps until the descriptor is ready, `cancel` (may be null) is signalled or the deadline has come.
Event Wait(int fd, short events, CancelSource* cancel, std::optional<Clock::time_point> deadline) {
  for (;;) {
    pollfd fds[2] = {{fd, events, 0}, {cancel != nullptr ? cancel->fd() : -1, POLLIN, 0}};
    int timeout = -1;
    if (deadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now()).count();
      timeout = static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
    }
    const int ready = poll(fds, 2, timeout);
    if (ready == 0) return Event::kTimedOut;
    if (ready < 0) continue;  // EINTR: a signal handler may have made the cancel source readable
    // The cancel source first: under a flood of messages it must not starve.
    if (fds[1].revents != 0 && cancel->Take()) return Event::kCancelled;
    if (fds[0].revents != 0) return Event::kReady;
  }
}

}  // namespace

struct Service::Connection {
  std::string socket_path;
  uid_t uid;
  gid_t gid;
  std::unique_ptr<RpcConnection> rpc;

  // What a failed call means to the caller.
  CallStatus Translate(const CallStatus& status) const {
    if (status.reason() != v1::REASON_UNSPECIFIED || status.code() != Code::kUnavailable) return status;
    return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, DescribeUnreachable(socket_path));
  }
};

// A connection for one call. It goes back to be used again where the call has come to its end on it.
class Service::Lease {
 public:
  explicit Lease(Service* service) : service_(service) { ++calls_of_this_thread; }
  ~Lease() {
    --calls_of_this_thread;
    if (connection_ != nullptr && call_ != nullptr && call_->ended) {
      connection_->rpc->Forget(call_);
      service_->GiveBack(std::move(connection_));
    }
    connection_.reset();  // ends what still runs on it
    if (has_slot_) eventfd_write(service_->slots_.get(), 1);
  }

  CallStatus Connect(CancelSource* cancel) {
    // Calls from within callbacks do not wait for a place: those that hold the places may be waiting for them.
    if (calls_of_this_thread == 1) {
      CallStatus status = TakeSlot(cancel);
      if (!status.ok()) return status;
    }
    return service_->Connect(cancel, &connection_);
  }

  RpcCall* Begin(const char* method, const google::protobuf::MessageLite& request) {
    return call_ = connection_->rpc->Begin(std::string("/dismd.v1.Dismd/") + method, request);
  }

  Event WaitAndPump(CancelSource* cancel, std::optional<Clock::time_point> deadline) {
    const Event event = Wait(connection_->rpc->fd(), connection_->rpc->events(), cancel, deadline);
    if (event != Event::kTimedOut) connection_->rpc->Pump();
    return event;
  }

  Connection* operator->() { return connection_.get(); }

 private:
  CallStatus TakeSlot(CancelSource* cancel) {
    if (!service_->slots_.valid()) return OutOfDescriptors();
    eventfd_t one;
    while (eventfd_read(service_->slots_.get(), &one) != 0) {
      if (Wait(service_->slots_.get(), POLLIN, cancel, std::nullopt) == Event::kCancelled) {
        return CancelledStatus("cancelled before it was begun");
      }
    }
    has_slot_ = true;
    return CallStatus();
  }

  Service* const service_;
  bool has_slot_ = false;
  std::unique_ptr<Connection> connection_;
  RpcCall* call_ = nullptr;
};

Service::Service(std::string address)
    : address_(std::move(address)), slots_(eventfd(kMaxConnections, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)) {}

Service::~Service() = default;

std::unique_ptr<Service::Connection> Service::TakeIdle(const std::string& socket_path) {
  for (;;) {
    std::unique_ptr<Connection> connection;
    {
      MutexLock lock(&mutex_);
      if (idle_.empty()) return nullptr;
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
    // The service takes the identity of whoever connected: after a change of user the old connection must not be used.
    if (connection->socket_path == socket_path && connection->uid == geteuid() && connection->gid == getegid() &&
        connection->rpc->Usable()) {
      return connection;
    }
  }
}

void Service::GiveBack(std::unique_ptr<Connection> connection) {
  if (!connection->rpc->Usable()) return;
  MutexLock lock(&mutex_);
  if (idle_.size() < kMaxIdleConnections) idle_.push_back(std::move(connection));
}

CallStatus Service::Connect(CancelSource* cancel, std::unique_ptr<Connection>* connection) {
  const std::string socket_path = SocketPath(address_);
  if (socket_path.empty()) {
    return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, DescribeUnreachable(socket_path));
  }
  if ((*connection = TakeIdle(socket_path)) != nullptr) return CallStatus();
  const auto deadline = Clock::now() + kConnectPatience;
  for (;;) {
    int error = 0;
    auto made = std::make_unique<Connection>();
    made->uid = geteuid();
    made->gid = getegid();
    made->rpc = RpcConnection::Open(socket_path, &error);
    if (made->rpc != nullptr) {
      made->socket_path = socket_path;
      *connection = std::move(made);
      return CallStatus();
    }
    if (error == EMFILE || error == ENFILE) return OutOfDescriptors();
    if (error != EAGAIN || Clock::now() > deadline) {
      return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, DescribeUnreachable(socket_path));
    }
    if (Wait(-1, 0, cancel, Clock::now() + kConnectPause) == Event::kCancelled) {
      return CancelledStatus("cancelled before it was begun");
    }
  }
}

namespace {

// The last of the messages that have come; the others are dropped.
template <typename Response>
bool TakeLatest(RpcCall* call, Response* response) {
  if (call->messages.empty()) return false;
  const bool parsed = response->ParseFromString(call->messages.back());
  call->messages.clear();
  return parsed;
}

}  // namespace

template <typename Response>
CallStatus Service::Follow(const char* method, const google::protobuf::MessageLite& request,
                           const OperationOptions& options, Abandoned abandoned, bool* cancel_wanted,
                           v1::Operation* outcome) {
  Lease connection(this);
  CallStatus status = connection.Connect(options.cancel);
  if (!status.ok()) return status;
  RpcCall* const call = connection.Begin(method, request);

  RpcCall* cancellation = nullptr;
  std::optional<Clock::time_point> deadline;
  for (;;) {
    Response message;
    if (TakeLatest(call, &message)) {
      *outcome = std::move(*message.mutable_operation());
      if (options.on_snapshot) options.on_snapshot(*outcome);
    }
    // Not by ending the call: that would end it here at once, whatever becomes of the operation there.
    if (*cancel_wanted && cancellation == nullptr && !call->ended && !outcome->operation_id().empty()) {
      v1::CancelOperationRequest cancel_request;
      cancel_request.set_operation_id(outcome->operation_id());
      cancellation = connection->rpc->Begin("/dismd.v1.Dismd/CancelOperation", cancel_request);
      deadline = Clock::now();
      *deadline += abandoned == Abandoned::kIsCancelled ? kCancelPatience : kCommitCancelPatience;
    }
    if (!call->messages.empty()) continue;
    if (call->ended) break;
    const Event event = connection.WaitAndPump(*cancel_wanted ? nullptr : options.cancel, deadline);
    if (event == Event::kCancelled) {
      *cancel_wanted = true;
      deadline = Clock::now() + kFirstSnapshotPatience;
    } else if (event == Event::kTimedOut) {
      // The connection goes with the lease, which cancels a mount as well.
      if (abandoned == Abandoned::kIsCancelled) {
        return CancelledStatus("cancelled, but the service did not say in time that it is done; see dismctl list");
      }
      return CallStatus(Code::kDeadlineExceeded, v1::REASON_UNSPECIFIED,
                        "the service was asked to cancel operation " + outcome->operation_id() +
                            " and did not say in time what became of it; it may still go on: see dismctl list");
    }
  }
  if (cancellation != nullptr) connection->rpc->Forget(cancellation);
  return call->status.ok() ? CallStatus() : connection->Translate(call->status);
}

template <typename Response>
CallStatus Service::RunOperation(const char* method, const google::protobuf::MessageLite& request,
                                 const OperationOptions& options, Abandoned abandoned, v1::Operation* outcome) {
  bool cancel_wanted = false;
  if (options.cancel != nullptr && options.cancel->Take()) return CancelledStatus("cancelled before it was begun");
  CallStatus status = Follow<Response>(method, request, options, abandoned, &cancel_wanted, outcome);
  if (IsLost(status) && !outcome->operation_id().empty()) {
    status = FindAgain(options, abandoned, cancel_wanted, outcome);
  }
  if (status.ok() && outcome->state() != v1::OPERATION_STATE_SUCCEEDED) {
    return CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED, "the service ended the operation without an outcome");
  }
  return status;
}

// The service, or a part of it, has died or is being replaced: operations outlive that.
CallStatus Service::FindAgain(const OperationOptions& options, Abandoned abandoned, bool cancel_wanted,
                              v1::Operation* outcome) {
  const std::string id = outcome->operation_id();
  v1::WatchOperationRequest request;
  request.set_operation_id(id);
  auto deadline = Clock::now() + kReturnPatience;
  while (Clock::now() < deadline) {
    v1::Operation seen;
    seen.set_operation_id(id);
    const CallStatus status =
        Follow<v1::WatchOperationResponse>("WatchOperation", request, options, abandoned, &cancel_wanted, &seen);
    const bool heard = seen.state() != v1::OPERATION_STATE_UNSPECIFIED;
    if (heard) *outcome = seen;
    if (status.ok() && heard && seen.state() != v1::OPERATION_STATE_RUNNING) {
      if (!seen.has_error()) return CallStatus();
      return CallStatus(static_cast<Code>(seen.error().code()), seen.error().reason(), seen.error().message());
    }
    if (status.reason() == v1::OPERATION_NOT_FOUND) break;
    if (!status.ok() && !IsLost(status)) return status;
    if (heard) deadline = Clock::now() + kReturnPatience;
    if (Wait(-1, 0, cancel_wanted ? nullptr : options.cancel, Clock::now() + kReturnPause) == Event::kCancelled) break;
  }
  return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED,
                    "the connection to the dismd service was lost in the middle of operation " + id +
                        "; see dismctl list for what became of it");
}

template <typename Response>
CallStatus Service::RunUnary(const char* method, const google::protobuf::MessageLite& request, CancelSource* cancel,
                             int deadline_seconds, Response* response) {
  Lease connection(this);
  CallStatus status = connection.Connect(cancel);
  if (!status.ok()) return status;
  const auto deadline = Clock::now() + std::chrono::seconds(deadline_seconds);
  RpcCall* const call = connection.Begin(method, request);
  while (!call->ended) {
    switch (connection.WaitAndPump(cancel, deadline)) {
      case Event::kReady: break;
      // Nothing changes in the service by a question: it may just be dropped.
      case Event::kCancelled: return CancelledStatus("cancelled");
      case Event::kTimedOut:
        return CallStatus(Code::kDeadlineExceeded, v1::REASON_UNSPECIFIED,
                          "the service did not answer within " + std::to_string(deadline_seconds) + " s");
    }
  }
  if (!call->status.ok()) return connection->Translate(call->status);
  if (TakeLatest(call, response)) return CallStatus();
  return CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED, "the service's answer makes no sense");
}

CallStatus Service::MountImage(const v1::MountImageRequest& request, const OperationOptions& options,
                               v1::Operation* outcome) {
  return RunOperation<v1::MountImageResponse>("MountImage", request, options, Abandoned::kIsCancelled, outcome);
}

CallStatus Service::UnmountImage(const v1::UnmountImageRequest& request, const OperationOptions& options,
                                 v1::Operation* outcome) {
  return RunOperation<v1::UnmountImageResponse>(
      "UnmountImage", request, options,
      request.changes() == v1::CHANGES_COMMIT ? Abandoned::kOutcomeUnknown : Abandoned::kIsCancelled, outcome);
}

CallStatus Service::CommitImage(const v1::CommitImageRequest& request, const OperationOptions& options,
                                v1::Operation* outcome) {
  return RunOperation<v1::CommitImageResponse>("CommitImage", request, options, Abandoned::kOutcomeUnknown, outcome);
}

CallStatus Service::RemountImage(const v1::RemountImageRequest& request, const OperationOptions& options,
                                 v1::Operation* outcome) {
  return RunOperation<v1::RemountImageResponse>("RemountImage", request, options, Abandoned::kIsCancelled, outcome);
}

CallStatus Service::GetImageInfo(const v1::GetImageInfoRequest& request, CancelSource* cancel,
                                 v1::GetImageInfoResponse* response) {
  return RunUnary("GetImageInfo", request, cancel, kImageInfoSeconds, response);
}

CallStatus Service::ListMounts(CancelSource* cancel, v1::ListMountsResponse* response) {
  const v1::ListMountsRequest request;
  return RunUnary("ListMounts", request, cancel, kAnswerSeconds, response);
}

CallStatus Service::GetMount(const v1::GetMountRequest& request, CancelSource* cancel, v1::GetMountResponse* response) {
  return RunUnary("GetMount", request, cancel, kAnswerSeconds, response);
}

CallStatus Service::CleanupMountpoints(const v1::CleanupMountpointsRequest& request, CancelSource* cancel,
                                       v1::CleanupMountpointsResponse* response) {
  return RunUnary("CleanupMountpoints", request, cancel, kCleanupSeconds, response);
}

CallStatus Service::GetServerInfo(CancelSource* cancel, v1::GetServerInfoResponse* response) {
  const v1::GetServerInfoRequest request;
  return RunUnary("GetServerInfo", request, cancel, kAnswerSeconds, response);
}

CallStatus Service::WatchMounts(CancelSource* cancel,
                                const std::function<void(const v1::WatchMountsResponse&)>& on_event) {
  Lease connection(this);
  CallStatus status = connection.Connect(cancel);
  if (!status.ok()) return status;
  RpcCall* const call = connection.Begin("WatchMounts", v1::WatchMountsRequest());
  for (;;) {
    while (!call->messages.empty()) {
      v1::WatchMountsResponse response;
      if (response.ParseFromString(call->messages.front())) on_event(response);
      call->messages.pop_front();
    }
    if (call->ended) break;
    if (connection.WaitAndPump(cancel, std::nullopt) == Event::kCancelled) return CallStatus();
  }
  if (call->status.ok()) {
    return CallStatus(Code::kUnavailable, v1::SHUTTING_DOWN, "the service ended the watch: it is stopping");
  }
  return connection->Translate(call->status);
}

}  // namespace dismd
