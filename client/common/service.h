// SPDX-License-Identifier: Apache-2.0
//
// Service: the calls of dismd.v1.Dismd, made and waited for on the calling thread.
//
// There are no threads but the callers': one sleeps in poll() until a message or its own cancel source wakes it, so
// that progress is reported on its thread and a cancellation is acted on within a millisecond or two. While a callback
// runs, nothing is read: the service keeps just the newest snapshot for who does not read.
//
// Thread safety: any number of threads may call at once, each on a connection of its own, which is kept for later
// calls. What a call is given (requests, callbacks, cancel source) belongs to that call.
//
// fork: a child must leave its parent's Services alone, and make its own.

#ifndef CLIENT_COMMON_SERVICE_H_
#define CLIENT_COMMON_SERVICE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/common/call_status.h"
#include "client/common/mutex.h"
#include "client/common/unique_fd.h"
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
  // and its outcome is what counts: an operation that was past its point of no return succeeds. Where the service is
  // lost in the middle, it is waited for some seconds, and then tells the outcome.
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
  class Lease;

  // What may be said of an operation that did not end in time after it was cancelled.
  enum class Abandoned { kIsCancelled, kOutcomeUnknown };
  template <typename Response>
  CallStatus RunOperation(const char* method, const google::protobuf::MessageLite& request,
                          const OperationOptions& options, Abandoned abandoned, v1::Operation* outcome);
  // One call of an operation's stream, to its end.
  template <typename Response>
  CallStatus Follow(const char* method, const google::protobuf::MessageLite& request, const OperationOptions& options,
                    Abandoned abandoned, bool* cancel_wanted, v1::Operation* outcome);
  CallStatus FindAgain(const OperationOptions& options, Abandoned abandoned, bool cancel_wanted,
                       v1::Operation* outcome);
  template <typename Response>
  CallStatus RunUnary(const char* method, const google::protobuf::MessageLite& request, CancelSource* cancel,
                      int deadline_seconds, Response* response);

  // A connection of nobody's: one that is idle, of the same address and user, or a new one.
  CallStatus Connect(CancelSource* cancel, std::unique_ptr<Connection>* connection);
  std::unique_ptr<Connection> TakeIdle(const std::string& socket_path);
  void GiveBack(std::unique_ptr<Connection> connection);

  const std::string address_;
  // A semaphore that can be polled: how many more connections there may be.
  UniqueFd slots_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // CLIENT_COMMON_SERVICE_H_
