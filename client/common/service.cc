// SPDX-License-Identifier: Apache-2.0

#include "client/common/service.h"

#include <ctype.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "client/common/address.h"
#include "client/common/stream_call.h"
#include "dismd/v1/dismd.grpc.pb.h"

namespace dismd {
namespace {

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
constexpr int kMaxMessageBytes = 64 << 20;

// Blocks all signals in this scope: threads that gRPC starts in it inherit the mask, and the program's signal handlers
// then run on the program's own threads only.
class SignalBlock {
 public:
  SignalBlock() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalBlock() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// A gRPC target is a URI: everything beyond the plainest characters is escaped.
std::string TargetFor(const std::string& socket_path) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string target = "unix:";
  for (unsigned char c : socket_path) {
    if (isalnum(c) || strchr("/-._~", c) != nullptr) {
      target += static_cast<char>(c);
    } else {
      target += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return target;
}

// The process in which gRPC was first used.
std::atomic<pid_t> grpc_process{0};

bool IsForkedChild() {
  pid_t expected = 0;
  return !grpc_process.compare_exchange_strong(expected, getpid()) && expected != getpid();
}

// Calls that ended with nobody waiting for them. A call holds its channel, and whoever lets go of a channel last ends
// gRPC's threads and waits for them: on one of these threads, where such a call's callback runs, that destroys what the
// thread still uses. So the callback leaves the call here, and a thread of the program's frees it.
class EndedCalls {
 public:
  static EndedCalls& Get() {
    static EndedCalls* const calls = new EndedCalls;  // for as long as gRPC's threads
    return *calls;
  }
  void Add(std::shared_ptr<void> call) {
    absl::MutexLock lock(&mutex_);
    calls_.push_back(std::move(call));
  }
  void Free() {
    std::vector<std::shared_ptr<void>> calls;  // destroyed without the lock
    absl::MutexLock lock(&mutex_);
    calls.swap(calls_);
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<void>> calls_ ABSL_GUARDED_BY(mutex_);
};

CallStatus OutOfDescriptors() {
  return CallStatus(Code::kResourceExhausted, v1::OUT_OF_RESOURCES,
                    "this process has no file descriptor left; close some or raise its limit (RLIMIT_NOFILE)");
}

}  // namespace

struct Service::Connection {
  std::string socket_path;
  uid_t uid;
  gid_t gid;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Dismd::Stub> stub;

  // What a failed call means to the caller.
  CallStatus Translate(const grpc::Status& status) const {
    CallStatus result = CallStatus::FromGrpc(status);
    if (result.reason() != v1::REASON_UNSPECIFIED || result.code() != Code::kUnavailable) return result;
    return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, DescribeUnreachable(socket_path));
  }
};

Service::Service(std::string address) : address_(std::move(address)) {}
Service::~Service() { EndedCalls::Get().Free(); }

std::shared_ptr<Service::Connection> Service::Connect(CallStatus* status) {
  const std::string socket_path = SocketPath(address_);
  if (socket_path.empty()) {
    *status = CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, DescribeUnreachable(socket_path));
    return nullptr;
  }
  if (IsForkedChild()) {
    *status = CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED,
                         "this process was forked from one that already used the service; a child must exec first");
    return nullptr;
  }
  EndedCalls::Get().Free();
  absl::MutexLock lock(&mutex_);
  // The service takes the identity of whoever connected: after a change of user the old connection must not be used.
  if (connection_ != nullptr && connection_->socket_path == socket_path && connection_->uid == geteuid() &&
      connection_->gid == getegid()) {
    grpc_connectivity_state state = connection_->channel->GetState(false);
    if (state != GRPC_CHANNEL_TRANSIENT_FAILURE && state != GRPC_CHANNEL_SHUTDOWN) return connection_;
  }
  SignalBlock block;
  grpc::ChannelArguments arguments;
  // Subchannels of one address are shared in the whole process otherwise: with their back-off, and with their user.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  connection_ = std::make_shared<Connection>();
  connection_->socket_path = socket_path;
  connection_->uid = geteuid();
  connection_->gid = getegid();
  connection_->channel =
      grpc::CreateCustomChannel(TargetFor(socket_path), grpc::InsecureChannelCredentials(), arguments);
  connection_->stub = v1::Dismd::NewStub(connection_->channel);
  return connection_;
}

namespace {

// Sends CancelOperation and does not wait for the answer: the operation's own stream tells the outcome.
void SendCancel(v1::Dismd::Stub* stub, std::shared_ptr<void> connection, const std::string& operation_id) {
  struct Call {
    grpc::ClientContext context;
    v1::CancelOperationRequest request;
    v1::CancelOperationResponse response;
    std::shared_ptr<void> connection;
  };
  auto call = std::make_shared<Call>();
  call->connection = std::move(connection);
  call->request.set_operation_id(operation_id);
  call->context.set_deadline(std::chrono::system_clock::now() + kCancelPatience);
  SignalBlock block;
  Call& sent = *call;
  stub->async()->CancelOperation(
      &sent.context, &sent.request, &sent.response,
      [call = std::move(call)](grpc::Status) mutable { EndedCalls::Get().Add(std::move(call)); });
}

}  // namespace

template <typename Response, typename StartCall>
CallStatus Service::RunOperation(const OperationOptions& options, Abandoned abandoned, StartCall start_call,
                                 v1::Operation* outcome) {
  if (options.cancel != nullptr && options.cancel->Take()) return CancelledStatus("cancelled before it was begun");
  CallStatus status;
  std::shared_ptr<Connection> connection = Connect(&status);
  if (connection == nullptr) return status;
  Wake wake;
  if (!wake.valid()) return OutOfDescriptors();

  ServerStream<Response> stream(&wake, ServerStream<Response>::Keep::kLatest);
  {
    SignalBlock block;
    start_call(connection->stub.get(), &stream);
    stream.Start();
  }
  bool cancel_wanted = false, cancel_sent = false, given_up = false;
  std::optional<Wake::Clock::time_point> deadline;
  std::optional<grpc::Status> end;
  while (!end) {
    switch (wake.Wait(cancel_wanted ? nullptr : options.cancel, deadline)) {
      case Wake::Event::kWoken: break;
      case Wake::Event::kCancelled:
        cancel_wanted = true;
        deadline = Wake::Clock::now() + kFirstSnapshotPatience;
        break;
      case Wake::Event::kTimedOut:
        given_up = true;
        deadline.reset();
        stream.context()->TryCancel();
        break;
    }
    if (std::optional<Response> message = stream.Take(&end)) {
      *outcome = std::move(*message->mutable_operation());
      if (options.on_snapshot && !given_up) options.on_snapshot(*outcome);
    }
    // Not TryCancel: it would end the stream here at once, whatever becomes of the operation there.
    if (cancel_wanted && !cancel_sent && !end && !outcome->operation_id().empty()) {
      SendCancel(connection->stub.get(), connection, outcome->operation_id());
      cancel_sent = true;
      deadline = Wake::Clock::now();
      *deadline += abandoned == Abandoned::kIsCancelled ? kCancelPatience : kCommitCancelPatience;
    }
  }
  if (given_up && abandoned == Abandoned::kIsCancelled) {
    return CancelledStatus("cancelled, but the service did not say in time that it is done; see dismctl list");
  }
  if (given_up) {
    return CallStatus(Code::kDeadlineExceeded, v1::REASON_UNSPECIFIED,
                      "the service was asked to cancel operation " + outcome->operation_id() +
                          " and did not say in time what became of it; it may still go on: see dismctl list");
  }
  if (!end->ok()) {
    status = connection->Translate(*end);
    if (status.unavailable() && status.reason() == v1::REASON_UNSPECIFIED && !outcome->operation_id().empty()) {
      return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED,
                        "the connection to the dismd service was lost in the middle of operation " +
                            outcome->operation_id() + "; see dismctl list for what became of it");
    }
    return status;
  }
  if (outcome->state() != v1::OPERATION_STATE_SUCCEEDED) {
    return CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED, "the service ended the operation without an outcome");
  }
  return CallStatus();
}

template <typename Response, typename StartCall>
CallStatus Service::RunUnary(CancelSource* cancel, int deadline_seconds, StartCall start_call, Response* response) {
  CallStatus status;
  std::shared_ptr<Connection> connection = Connect(&status);
  if (connection == nullptr) return status;
  Wake wake;
  if (!wake.valid()) return OutOfDescriptors();
  UnaryCall call(&wake);
  call.context()->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(deadline_seconds));
  {
    SignalBlock block;
    start_call(connection->stub.get(), &call, response);
  }
  for (;;) {
    if (std::optional<grpc::Status> result = call.Result()) return connection->Translate(*result);
    // Nothing changes in the service by a question: it may just be dropped.
    if (wake.Wait(cancel, std::nullopt) == Wake::Event::kCancelled) return CancelledStatus("cancelled");
  }
}

CallStatus Service::MountImage(const v1::MountImageRequest& request, const OperationOptions& options,
                               v1::Operation* outcome) {
  return RunOperation<v1::MountImageResponse>(
      options, Abandoned::kIsCancelled,
      [&](v1::Dismd::Stub* stub, auto* stream) { stub->async()->MountImage(stream->context(), &request, stream); },
      outcome);
}

CallStatus Service::UnmountImage(const v1::UnmountImageRequest& request, const OperationOptions& options,
                                 v1::Operation* outcome) {
  return RunOperation<v1::UnmountImageResponse>(
      options, request.changes() == v1::CHANGES_COMMIT ? Abandoned::kOutcomeUnknown : Abandoned::kIsCancelled,
      [&](v1::Dismd::Stub* stub, auto* stream) { stub->async()->UnmountImage(stream->context(), &request, stream); },
      outcome);
}

CallStatus Service::CommitImage(const v1::CommitImageRequest& request, const OperationOptions& options,
                                v1::Operation* outcome) {
  return RunOperation<v1::CommitImageResponse>(
      options, Abandoned::kOutcomeUnknown,
      [&](v1::Dismd::Stub* stub, auto* stream) { stub->async()->CommitImage(stream->context(), &request, stream); },
      outcome);
}

CallStatus Service::RemountImage(const v1::RemountImageRequest& request, const OperationOptions& options,
                                 v1::Operation* outcome) {
  return RunOperation<v1::RemountImageResponse>(
      options, Abandoned::kIsCancelled,
      [&](v1::Dismd::Stub* stub, auto* stream) { stub->async()->RemountImage(stream->context(), &request, stream); },
      outcome);
}

CallStatus Service::GetImageInfo(const v1::GetImageInfoRequest& request, CancelSource* cancel,
                                 v1::GetImageInfoResponse* response) {
  return RunUnary(
      cancel, kImageInfoSeconds,
      [&](v1::Dismd::Stub* stub, UnaryCall* call, v1::GetImageInfoResponse* out) {
        stub->async()->GetImageInfo(call->context(), &request, out, call->Callback());
      },
      response);
}

CallStatus Service::ListMounts(CancelSource* cancel, v1::ListMountsResponse* response) {
  const v1::ListMountsRequest request;
  return RunUnary(
      cancel, kAnswerSeconds,
      [&](v1::Dismd::Stub* stub, UnaryCall* call, v1::ListMountsResponse* out) {
        stub->async()->ListMounts(call->context(), &request, out, call->Callback());
      },
      response);
}

CallStatus Service::GetMount(const v1::GetMountRequest& request, CancelSource* cancel, v1::GetMountResponse* response) {
  return RunUnary(
      cancel, kAnswerSeconds,
      [&](v1::Dismd::Stub* stub, UnaryCall* call, v1::GetMountResponse* out) {
        stub->async()->GetMount(call->context(), &request, out, call->Callback());
      },
      response);
}

CallStatus Service::CleanupMountpoints(const v1::CleanupMountpointsRequest& request, CancelSource* cancel,
                                       v1::CleanupMountpointsResponse* response) {
  return RunUnary(
      cancel, kCleanupSeconds,
      [&](v1::Dismd::Stub* stub, UnaryCall* call, v1::CleanupMountpointsResponse* out) {
        stub->async()->CleanupMountpoints(call->context(), &request, out, call->Callback());
      },
      response);
}

CallStatus Service::GetServerInfo(CancelSource* cancel, v1::GetServerInfoResponse* response) {
  const v1::GetServerInfoRequest request;
  return RunUnary(
      cancel, kAnswerSeconds,
      [&](v1::Dismd::Stub* stub, UnaryCall* call, v1::GetServerInfoResponse* out) {
        stub->async()->GetServerInfo(call->context(), &request, out, call->Callback());
      },
      response);
}

CallStatus Service::WatchMounts(CancelSource* cancel,
                                const std::function<void(const v1::WatchMountsResponse&)>& on_event) {
  CallStatus status;
  std::shared_ptr<Connection> connection = Connect(&status);
  if (connection == nullptr) return status;
  Wake wake;
  if (!wake.valid()) return OutOfDescriptors();
  const v1::WatchMountsRequest request;
  using Stream = ServerStream<v1::WatchMountsResponse>;
  Stream stream(&wake, Stream::Keep::kEvery);
  {
    SignalBlock block;
    connection->stub->async()->WatchMounts(stream.context(), &request, &stream);
    stream.Start();
  }
  std::optional<grpc::Status> end;
  while (!end) {
    if (wake.Wait(cancel, std::nullopt) == Wake::Event::kCancelled) return CallStatus();
    while (std::optional<v1::WatchMountsResponse> message = stream.Take(&end)) on_event(*message);
  }
  if (end->ok()) {
    return CallStatus(Code::kUnavailable, v1::SHUTTING_DOWN, "the service ended the watch: it is stopping");
  }
  return connection->Translate(*end);
}

}  // namespace dismd
