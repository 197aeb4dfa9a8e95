// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/grpc_service.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/errors.h"
#include "dismd/v1/dismd.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  v1::OperationError error = ToCallError(status);
  return {static_cast<grpc::StatusCode>(error.code()), error.message(), ToErrorDetails(status)};
}

grpc::Status CallCancelled() {
  return ToGrpc(libmount::MakeError(libmount::Reason::kCancelled, "the call was cancelled"));
}

// A unary call that can be cancelled; deletes itself.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  CancelToken& token() { return token_; }
  void OnCancel() override { token_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  CancelToken token_;
};

// One message after the other to the client, of what Next() finds; deletes itself.
//
// Pump is called whenever there may be something new: by the watch, at the end of each write, on cancellation.
template <typename Response>
class Stream : public grpc::ServerWriteReactor<Response> {
 public:
  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) broken_ = true;
    }
    if (!ok) OnBroken();
    Pump();
  }
  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
    }
    OnBroken();
    Pump();
  }

 protected:
  enum class Found { kNothing, kMessage, kEnd };

  // Fetches the next message into `response`, or the status to end with.
  virtual Found Next(Response* response, grpc::Status* status) = 0;
  // The client is gone, or wants no more. Called once or twice, without the lock.
  virtual void OnBroken() {}

  void Pump() {
    absl::MutexLock lock(&mutex_);
    if (writing_ || finished_) return;
    grpc::Status status;
    Found found = Next(&response_, &status);
    if (found == Found::kNothing) return;
    if (found == Found::kEnd) {
      finished_ = true;
      this->Finish(status);
    } else if (!broken_) {
      writing_ = true;
      this->StartWrite(&response_);
    }
  }

  void EndWith(const grpc::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(finished_, true)) return;
    }
    this->Finish(status);  // may be deleted from here on
  }

  absl::Mutex mutex_;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;

 private:
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Response response_;  // while writing_, gRPC's
};

// What a stream has to do with the operation that it shows.
enum class Bond {
  kOwns,     // MountImage: the operation does not outlive the call
  kReports,  // UnmountImage: ends with the operation's outcome
  kWatches,  // WatchOperation: ends with OK whatever the outcome
};

// The snapshots of an operation.
template <typename Response>
class OperationStream final : public Stream<Response> {
 public:
  using Base = Stream<Response>;
  explicit OperationStream(Bond bond) : bond_(bond) {}

  void Begin(absl::StatusOr<std::shared_ptr<Operation>> operation, std::unique_ptr<WatchSeat> seat = nullptr) {
    if (!operation.ok()) return this->EndWith(ToGrpc(operation.status()));
    auto watch = std::make_shared<Watch>([this] { this->Pump(); });
    bool cancel;
    {
      absl::MutexLock lock(&this->mutex_);
      operation_ = *operation;
      watch_ = watch;
      seat_ = std::move(seat);
      cancel = this->broken_ && bond_ == Bond::kOwns;
    }
    // From here on a notification may end this object. Its own lock protects each notification: OnDone stops it first.
    (*operation)->AddWatch(watch);
    if (cancel) (*operation)->Cancel();
    watch->Notify();
  }

  void OnDone() override {
    if (watch_ != nullptr) {
      operation_->RemoveWatch(watch_);
      watch_->Stop();
    }
    delete this;
  }

 private:
  using Found = typename Base::Found;

  void OnBroken() override {
    std::shared_ptr<Operation> operation;
    {
      absl::MutexLock lock(&this->mutex_);
      operation = operation_;
    }
    if (operation != nullptr && bond_ == Bond::kOwns) operation->Cancel();
  }

  Found Next(Response* response, grpc::Status* status) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (operation_ == nullptr) return Found::kNothing;  // Begin is to come
    Operation::Snapshot snapshot = operation_->snapshot();
    bool ended = snapshot->state() != v1::OPERATION_STATE_RUNNING;
    if (this->broken_) {
      // A mount that is being undone, or is past its point of no return, is waited for: then the connection goes.
      if (bond_ == Bond::kOwns && !ended) return Found::kNothing;
      *status = CallCancelled();
      return Found::kEnd;
    }
    if (ended && bond_ != Bond::kWatches && snapshot->state() != v1::OPERATION_STATE_SUCCEEDED) {
      *status = ToGrpc(operation_->outcome());
      return Found::kEnd;
    }
    if (snapshot != sent_) {
      sent_ = snapshot;
      *response->mutable_operation() = *snapshot;
      return Found::kMessage;
    }
    return ended ? Found::kEnd : Found::kNothing;
  }

  const Bond bond_;
  std::shared_ptr<Operation> operation_;  // guarded by mutex_, like the rest
  std::shared_ptr<Watch> watch_;
  std::unique_ptr<WatchSeat> seat_;
  Operation::Snapshot sent_;
};

// The events of the caller's mounts.
class MountsStream final : public Stream<v1::WatchMountsResponse> {
 public:
  explicit MountsStream(MountRegistry& registry) : registry_(registry) {}

  void Begin(const Caller& caller, absl::StatusOr<std::unique_ptr<WatchSeat>> seat) {
    if (!seat.ok()) return EndWith(ToGrpc(seat.status()));
    auto subscription = registry_.Subscribe(caller, [this] { Pump(); });
    {
      absl::MutexLock lock(&mutex_);
      seat_ = *std::move(seat);
      subscription_ = subscription;
    }
    subscription->watch().Notify();
  }

  void OnDone() override {
    if (subscription_ != nullptr) registry_.Unsubscribe(subscription_);
    delete this;
  }

 private:
  Found Next(v1::WatchMountsResponse* response, grpc::Status* status) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (subscription_ == nullptr) return Found::kNothing;
    if (broken_) {
      *status = CallCancelled();
      return Found::kEnd;
    }
    bool overflowed = false;
    MountSubscription::Event event = subscription_->Take(&overflowed);
    if (event != nullptr) {
      *response = *event;
      return Found::kMessage;
    }
    if (!overflowed) return Found::kNothing;
    *status =
        ToGrpc(libmount::MakeError(libmount::Reason::kOutOfResources,
                                   "events were not read fast enough and are lost; list the mounts and watch again"));
    return Found::kEnd;
  }

  MountRegistry& registry_;
  std::unique_ptr<WatchSeat> seat_;  // guarded by mutex_, like the next
  std::shared_ptr<MountSubscription> subscription_;
};

class Adapter final : public v1::Dismd::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;

  Adapter(dismd::Service& service, Caller caller) : service_(service), caller_(std::move(caller)) {}

  grpc::ServerWriteReactor<v1::MountImageResponse>* MountImage(Context*,
                                                               const v1::MountImageRequest* request) override {
    auto* stream = new OperationStream<v1::MountImageResponse>(Bond::kOwns);
    Hop([this, stream, request] { stream->Begin(service_.StartMount(caller_, *request)); });
    return stream;
  }

  grpc::ServerWriteReactor<v1::UnmountImageResponse>* UnmountImage(Context*,
                                                                   const v1::UnmountImageRequest* request) override {
    auto* stream = new OperationStream<v1::UnmountImageResponse>(Bond::kReports);
    Hop([this, stream, request] { stream->Begin(service_.StartUnmount(caller_, *request)); });
    return stream;
  }

  grpc::ServerWriteReactor<v1::CommitImageResponse>* CommitImage(Context*,
                                                                 const v1::CommitImageRequest* request) override {
    auto* stream = new OperationStream<v1::CommitImageResponse>(Bond::kReports);
    Hop([this, stream, request] { stream->Begin(service_.StartCommit(caller_, *request)); });
    return stream;
  }

  grpc::ServerWriteReactor<v1::RemountImageResponse>* RemountImage(Context*,
                                                                   const v1::RemountImageRequest* request) override {
    auto* stream = new OperationStream<v1::RemountImageResponse>(Bond::kReports);
    Hop([this, stream, request] { stream->Begin(service_.StartRemount(caller_, *request)); });
    return stream;
  }

  grpc::ServerWriteReactor<v1::WatchOperationResponse>* WatchOperation(
      Context*, const v1::WatchOperationRequest* request) override {
    auto* stream = new OperationStream<v1::WatchOperationResponse>(Bond::kWatches);
    Hop([this, stream, request] {
      absl::StatusOr<std::unique_ptr<WatchSeat>> seat = service_.TakeWatchSeat(caller_);
      if (!seat.ok()) return stream->Begin(seat.status());
      stream->Begin(service_.FindOperation(caller_, request->operation_id()), *std::move(seat));
    });
    return stream;
  }

  grpc::ServerWriteReactor<v1::WatchMountsResponse>* WatchMounts(Context*, const v1::WatchMountsRequest*) override {
    auto* stream = new MountsStream(service_.registry());
    Hop([this, stream] { stream->Begin(caller_, service_.TakeWatchSeat(caller_)); });
    return stream;
  }

  Unary* GetImageInfo(Context*, const v1::GetImageInfoRequest* request, v1::GetImageInfoResponse* response) override {
    auto* call = new UnaryCall;
    service_.info_pool().Submit(caller_.uid, [this, call, request, response] {
      absl::StatusOr<v1::GetImageInfoResponse> result = service_.GetImageInfo(caller_, *request, call->token());
      Answer(call, std::move(result), response);
    });
    return call;
  }

  Unary* ListMounts(Context*, const v1::ListMountsRequest*, v1::ListMountsResponse* response) override {
    return Run(response, [this] { return absl::StatusOr<v1::ListMountsResponse>(service_.ListMounts(caller_)); });
  }

  Unary* GetMount(Context*, const v1::GetMountRequest* request, v1::GetMountResponse* response) override {
    auto* call = new UnaryCall;
    Hop([this, call, request, response] {
      Answer(call, service_.GetMount(caller_, *request, call->token()), response);
    });
    return call;
  }

  Unary* CleanupMountpoints(Context*, const v1::CleanupMountpointsRequest* request,
                            v1::CleanupMountpointsResponse* response) override {
    return Run(response, [this, request] { return service_.CleanupMountpoints(caller_, *request); });
  }

  Unary* GetOperation(Context*, const v1::GetOperationRequest* request, v1::GetOperationResponse* response) override {
    return Run(response, [this, request]() -> absl::StatusOr<v1::GetOperationResponse> {
      auto operation = service_.FindOperation(caller_, request->operation_id());
      if (!operation.ok()) return operation.status();
      v1::GetOperationResponse found;
      *found.mutable_operation() = *(*operation)->snapshot();
      return found;
    });
  }

  Unary* CancelOperation(Context*, const v1::CancelOperationRequest* request,
                         v1::CancelOperationResponse* response) override {
    return Run(response, [this, request]() -> absl::StatusOr<v1::CancelOperationResponse> {
      auto operation = service_.FindOperation(caller_, request->operation_id());
      if (!operation.ok()) return operation.status();
      (*operation)->Cancel();
      return v1::CancelOperationResponse();
    });
  }

  Unary* GetServerInfo(Context*, const v1::GetServerInfoRequest*, v1::GetServerInfoResponse* response) override {
    return Run(response, [this] { return absl::StatusOr<v1::GetServerInfoResponse>(service_.GetServerInfo(caller_)); });
  }

 private:
  void Hop(FairPool::Task task) { service_.call_pool().Submit(caller_.uid, std::move(task)); }

  // The request and the response are gRPC's and live until the call is finished.
  template <typename Response>
  static void Answer(Unary* call, absl::StatusOr<Response> result, Response* response) {
    if (!result.ok()) return call->Finish(ToGrpc(result.status()));
    *response = *std::move(result);
    call->Finish(grpc::Status::OK);
  }

  template <typename Response, typename Function>
  Unary* Run(Response* response, Function function) {
    auto* call = new UnaryCall;
    Hop([call, response, function = std::move(function)] { Answer(call, function(), response); });
    return call;
  }

  dismd::Service& service_;  // not the base's class of that name
  const Caller caller_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGrpcService(Service& service, Caller caller) {
  return std::make_unique<Adapter>(service, std::move(caller));
}

}  // namespace dismd
