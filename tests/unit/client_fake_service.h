// SPDX-License-Identifier: GPL-3.0-or-later
//
// The service as clients see it, in the test's own process: dismd.v1.Dismd on a Unix socket, answering what the test
// says. Built with the full protobuf runtime while libdismapi has the lite one: that both live in one process is
// part of what is tested.

#ifndef TESTS_UNIT_CLIENT_FAKE_SERVICE_H_
#define TESTS_UNIT_CLIENT_FAKE_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "dismd/v1/dismd.grpc.pb.h"

namespace dismd::testing {

// A status with the ErrorReason detail, as the service sends it.
grpc::Status ErrorStatus(grpc::StatusCode code, v1::Reason reason, const std::string& message);

// A snapshot: progress of 100, and the state.
v1::Operation Snapshot(uint32_t current, v1::OperationState state = v1::OPERATION_STATE_RUNNING);

// For the end of a call that the client has given up. The synchronous API can only be asked, so this asks until it is
// so.
void WaitUntilCancelled(grpc::ServerContext* context);

class FakeService final : public v1::Dismd::Service {
 public:
  // Sends one snapshot of the operation.
  using Send = std::function<void(const v1::Operation&)>;

  // What the calls do; set before the call. Unset: success at once.
  std::function<grpc::Status(grpc::ServerContext*, const v1::MountImageRequest&, const Send&)> on_mount;
  std::function<grpc::Status(grpc::ServerContext*, const v1::UnmountImageRequest&, const Send&)> on_unmount;
  std::function<grpc::Status(grpc::ServerContext*, const v1::CommitImageRequest&, const Send&)> on_commit;
  std::function<grpc::Status(grpc::ServerContext*, const v1::RemountImageRequest&, const Send&)> on_remount;
  // Unset: nothing is mounted anywhere.
  std::function<grpc::Status(const v1::GetMountRequest&, v1::GetMountResponse*)> on_get_mount;
  std::function<grpc::Status(const v1::CleanupMountpointsRequest&, v1::CleanupMountpointsResponse*)> on_cleanup;
  std::function<grpc::Status(const v1::GetImageInfoRequest&, v1::GetImageInfoResponse*)> on_info;
  std::function<grpc::Status(v1::ListMountsResponse*)> on_list;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerWriter<v1::WatchMountsResponse>*)> on_watch;
  // Notified by CancelOperation for "op-1"; renewed by the test.
  std::unique_ptr<absl::Notification> cancelled = std::make_unique<absl::Notification>();

  // The requests so far.
  std::vector<v1::MountImageRequest> Mounts() const {
    absl::MutexLock lock(&mutex_);
    return mounts_;
  }
  std::vector<v1::UnmountImageRequest> Unmounts() const {
    absl::MutexLock lock(&mutex_);
    return unmounts_;
  }
  std::vector<v1::CommitImageRequest> Commits() const {
    absl::MutexLock lock(&mutex_);
    return commits_;
  }

 private:
  grpc::Status MountImage(grpc::ServerContext* context, const v1::MountImageRequest* request,
                          grpc::ServerWriter<v1::MountImageResponse>* writer) override;
  grpc::Status UnmountImage(grpc::ServerContext* context, const v1::UnmountImageRequest* request,
                            grpc::ServerWriter<v1::UnmountImageResponse>* writer) override;
  grpc::Status CommitImage(grpc::ServerContext* context, const v1::CommitImageRequest* request,
                           grpc::ServerWriter<v1::CommitImageResponse>* writer) override;
  grpc::Status RemountImage(grpc::ServerContext* context, const v1::RemountImageRequest* request,
                            grpc::ServerWriter<v1::RemountImageResponse>* writer) override;
  grpc::Status GetMount(grpc::ServerContext* context, const v1::GetMountRequest* request,
                        v1::GetMountResponse* response) override;
  grpc::Status CleanupMountpoints(grpc::ServerContext* context, const v1::CleanupMountpointsRequest* request,
                                  v1::CleanupMountpointsResponse* response) override;
  grpc::Status GetImageInfo(grpc::ServerContext* context, const v1::GetImageInfoRequest* request,
                            v1::GetImageInfoResponse* response) override;
  grpc::Status ListMounts(grpc::ServerContext* context, const v1::ListMountsRequest* request,
                          v1::ListMountsResponse* response) override;
  grpc::Status WatchMounts(grpc::ServerContext* context, const v1::WatchMountsRequest* request,
                           grpc::ServerWriter<v1::WatchMountsResponse>* writer) override;
  grpc::Status CancelOperation(grpc::ServerContext* context, const v1::CancelOperationRequest* request,
                               v1::CancelOperationResponse* response) override;
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::GetServerInfoResponse* response) override;

  mutable absl::Mutex mutex_;
  std::vector<v1::MountImageRequest> mounts_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::UnmountImageRequest> unmounts_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CommitImageRequest> commits_ ABSL_GUARDED_BY(mutex_);
};

// FakeService on a socket in a directory of its own, named by DISMD_ADDRESS.
class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  // Stops and starts serving on the same path.
  void Stop();
  void Start();

  FakeService service;
  const std::string& directory() const { return directory_; }
  std::string socket_path() const { return directory_ + "/a socket%.sock"; }  // names that a URI must escape

 private:
  std::string directory_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace dismd::testing

#endif  // TESTS_UNIT_CLIENT_FAKE_SERVICE_H_
