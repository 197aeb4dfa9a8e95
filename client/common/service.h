// SPDX-License-Identifier: Apache-2.0
//
// Service: the calls of dismd.v1.Dismd, made and waited for on the calling thread.
//
// gRPC's threads only carry messages: the caller sleeps in poll() until a message or its own cancel source wakes it, so
// that progress is reported on its thread and a cancellation is acted on within a millisecond or two.
//
// Thread safety: any number of threads may call at once; they share one connection. What a call is given (requests,
// callbacks, cancel source) belongs to that call.
//
// fork: a child that does not exec cannot use gRPC again (its threads are gone); calls there fail and say so.

#ifndef CLIENT_COMMON_SERVICE_H_
#define CLIENT_COMMON_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/common/call_status.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

// Something that asks a running call to stop.
class CancelSource {
 public:
  virtual ~CancelSource() = default;
  // Polled for reading; becomes readable when the call shall stop. Valid for the whole call.
  virtual int fd() const = 0;
  // True if the call shall stop. Asked whenever fd() is readable; may consume the signal.
  virtual bool Take() = 0;
};

struct OperationOptions {
  // Called on the calling thread for the operation's snapshots (a slow callback misses some, never the last). May
  // throw: the operation is then cancelled and the exception goes on to the caller.
  std::function<void(const v1::Operation&)> on_snapshot;
  // Not owned; null: the operation cannot be cancelled.
  CancelSource* cancel = nullptr;
};

class Service {
 public:
  // `address`: as in address.h; empty: what the environment says at each call.
  explicit Service(std::string address = "");
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Operations. On success `*outcome` is the last snapshot (state SUCCEEDED). A cancellation is sent to the service,
  // and its outcome is what counts: an operation that was past its point of no return succeeds.
  CallStatus MountImage(const v1::MountImageRequest& request, const OperationOptions& options, v1::Operation* outcome);
  CallStatus UnmountImage(const v1::UnmountImageRequest& request, const OperationOptions& options,
                          v1::Operation* outcome);
  CallStatus CommitImage(const v1::CommitImageRequest& request, const OperationOptions& options,
                         v1::Operation* outcome);
  CallStatus RemountImage(const v1::RemountImageRequest& request, const OperationOptions& options,
                          v1::Operation* outcome);

  // Questions. `cancel` may be null.
  CallStatus GetImageInfo(const v1::GetImageInfoRequest& request, CancelSource* cancel,
                          v1::GetImageInfoResponse* response);
  CallStatus ListMounts(CancelSource* cancel, v1::ListMountsResponse* response);
  CallStatus GetMount(const v1::GetMountRequest& request, CancelSource* cancel, v1::GetMountResponse* response);
  CallStatus CleanupMountpoints(const v1::CleanupMountpointsRequest& request, CancelSource* cancel,
                                v1::CleanupMountpointsResponse* response);
  CallStatus GetServerInfo(CancelSource* cancel, v1::GetServerInfoResponse* response);

  // Calls `on_event` on the calling thread until it is cancelled (which counts as success) or the stream breaks.
  CallStatus WatchMounts(CancelSource* cancel, const std::function<void(const v1::WatchMountsResponse&)>& on_event);

 private:
  struct Connection;

  // The connection to use: a new one when there is none, when the last attempt failed (gRPC would otherwise wait before
  // it tries again), or when the address or the process's user has changed. Null: `*status` says why.
  std::shared_ptr<Connection> Connect(CallStatus* status);
  // What may be said of an operation that did not end in time after it was cancelled.
  enum class Abandoned { kIsCancelled, kOutcomeUnknown };
  template <typename Response, typename StartCall>
  CallStatus RunOperation(const OperationOptions& options, Abandoned abandoned, StartCall start_call,
                          v1::Operation* outcome);
  template <typename Response, typename StartCall>
  CallStatus RunUnary(CancelSource* cancel, int deadline_seconds, StartCall start_call, Response* response);

  const std::string address_;
  absl::Mutex mutex_;
  std::shared_ptr<Connection> connection_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // CLIENT_COMMON_SERVICE_H_
