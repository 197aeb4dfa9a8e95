// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/client_fake_service.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

namespace dismd::testing {

grpc::Status ErrorStatus(grpc::StatusCode code, v1::Reason reason, const std::string& message) {
  v1::ErrorReason detail;
  detail.set_reason(reason);
  google::protobuf::Any any;
  any.PackFrom(detail);
  // google.rpc.Status: code = 1, message = 2, details = 3.
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.WriteTag(1 << 3);
    out.WriteVarint32(static_cast<uint32_t>(code));
    for (const auto& [tag, text] : {std::pair{2u << 3 | 2, message}, std::pair{3u << 3 | 2, any.SerializeAsString()}}) {
      out.WriteTag(tag);
      out.WriteVarint32(static_cast<uint32_t>(text.size()));
      out.WriteString(text);
    }
  }
  return grpc::Status(code, message, bytes);
}

v1::Operation Snapshot(uint32_t current, v1::OperationState state) {
  v1::Operation operation;
  operation.set_operation_id("op-1");
  operation.set_state(state);
  operation.mutable_progress()->set_phase(v1::PHASE_OPENING);
  operation.mutable_progress()->set_current(current);
  operation.mutable_progress()->set_total(100);
  return operation;
}

void WaitUntilCancelled(grpc::ServerContext* context) {
  while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

grpc::Status FakeService::MountImage(grpc::ServerContext* context, const v1::MountImageRequest* request,
                                     grpc::ServerWriter<v1::MountImageResponse>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    mounts_.push_back(*request);
  }
  const Send send = [writer](const v1::Operation& operation) {
    v1::MountImageResponse response;
    *response.mutable_operation() = operation;
    writer->Write(response);
  };
  if (on_mount) return on_mount(context, *request, send);
  v1::Operation done = Snapshot(100, v1::OPERATION_STATE_SUCCEEDED);
  done.mutable_mount()->set_mount_path(request->mount_path());
  done.mutable_mount()->set_image_path(request->image_path());
  done.mutable_mount()->set_image_index(request->image_index());
  done.mutable_mount()->set_read_only(request->read_only());
  done.mutable_mount()->set_status(v1::MOUNT_STATUS_OK);
  send(done);
  return grpc::Status::OK;
}

grpc::Status FakeService::UnmountImage(grpc::ServerContext* context, const v1::UnmountImageRequest* request,
                                       grpc::ServerWriter<v1::UnmountImageResponse>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    unmounts_.push_back(*request);
  }
  const Send send = [writer](const v1::Operation& operation) {
    v1::UnmountImageResponse response;
    *response.mutable_operation() = operation;
    writer->Write(response);
  };
  if (on_unmount) return on_unmount(context, *request, send);
  send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
  return grpc::Status::OK;
}

grpc::Status FakeService::CommitImage(grpc::ServerContext* context, const v1::CommitImageRequest* request,
                                      grpc::ServerWriter<v1::CommitImageResponse>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    commits_.push_back(*request);
  }
  const Send send = [writer](const v1::Operation& operation) {
    v1::CommitImageResponse response;
    *response.mutable_operation() = operation;
    writer->Write(response);
  };
  if (on_commit) return on_commit(context, *request, send);
  send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
  return grpc::Status::OK;
}

grpc::Status FakeService::RemountImage(grpc::ServerContext* context, const v1::RemountImageRequest* request,
                                       grpc::ServerWriter<v1::RemountImageResponse>* writer) {
  const Send send = [writer](const v1::Operation& operation) {
    v1::RemountImageResponse response;
    *response.mutable_operation() = operation;
    writer->Write(response);
  };
  if (on_remount) return on_remount(context, *request, send);
  send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
  return grpc::Status::OK;
}

grpc::Status FakeService::GetMount(grpc::ServerContext*, const v1::GetMountRequest* request,
                                   v1::GetMountResponse* response) {
  if (on_get_mount) return on_get_mount(*request, response);
  return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::NOT_MOUNTED, request->mount_path() + " is not a mount");
}

grpc::Status FakeService::CleanupMountpoints(grpc::ServerContext*, const v1::CleanupMountpointsRequest* request,
                                             v1::CleanupMountpointsResponse* response) {
  return on_cleanup ? on_cleanup(*request, response) : grpc::Status::OK;
}

grpc::Status FakeService::GetImageInfo(grpc::ServerContext*, const v1::GetImageInfoRequest* request,
                                       v1::GetImageInfoResponse* response) {
  return on_info ? on_info(*request, response) : grpc::Status::OK;
}

grpc::Status FakeService::ListMounts(grpc::ServerContext*, const v1::ListMountsRequest*,
                                     v1::ListMountsResponse* response) {
  return on_list ? on_list(response) : grpc::Status::OK;
}

grpc::Status FakeService::WatchMounts(grpc::ServerContext* context, const v1::WatchMountsRequest*,
                                      grpc::ServerWriter<v1::WatchMountsResponse>* writer) {
  return on_watch ? on_watch(context, writer) : grpc::Status::OK;
}

grpc::Status FakeService::CancelOperation(grpc::ServerContext*, const v1::CancelOperationRequest* request,
                                          v1::CancelOperationResponse*) {
  if (request->operation_id() != "op-1") {
    return ErrorStatus(grpc::StatusCode::NOT_FOUND, v1::OPERATION_NOT_FOUND, "no such operation");
  }
  cancelled->Notify();
  return grpc::Status::OK;
}

grpc::Status FakeService::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                        v1::GetServerInfoResponse* response) {
  response->set_version("9.8.7");
  response->set_caller_uid(1234);
  response->mutable_limits()->set_mounts(512);
  return grpc::Status::OK;
}

FakeServer::FakeServer() {
  std::string path = (std::filesystem::temp_directory_path() / "dismd-fake-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) abort();
  directory_ = path;
  setenv("DISMD_ADDRESS", ("unix:" + socket_path()).c_str(), 1);
  Start();
}

FakeServer::~FakeServer() {
  Stop();
  std::filesystem::remove_all(directory_);
}

void FakeServer::Start() {
  grpc::ServerBuilder builder;
  std::string target = "unix:" + directory_ + "/a%20socket%25.sock";
  builder.AddListeningPort(target, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || access(socket_path().c_str(), F_OK) != 0) abort();
}

void FakeServer::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  server_->Wait();
  server_.reset();
  unlink(socket_path().c_str());
}

}  // namespace dismd::testing
