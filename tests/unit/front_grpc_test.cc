// SPDX-License-Identifier: GPL-3.0-or-later
//
// The front's calls through gRPC, over connections that a played broker hands it.

#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>

#include "daemon/front/connections.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "dismd/internal/rpc_status.pb.h"
#include "dismd/reflection/reflection.grpc.pb.h"
#include "dismd/v1/dismd.grpc.pb.h"
#include "dismd/v1/errors.pb.h"
#include "google/protobuf/empty.pb.h"
#include "tests/unit/front_fake_broker.h"

namespace dismd {
namespace {

using testing::Contains;
using testing::Not;

constexpr uint32_t kAnna = 1000;
constexpr uint32_t kBert = 1001;

v1::Reason ReasonOf(const grpc::Status& status) {
  internal::RpcStatus details;
  v1::ErrorReason reason;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  if (details.details_size() != 1) return v1::REASON_UNSPECIFIED;
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/dismd.v1.ErrorReason");
  EXPECT_TRUE(reason.ParseFromString(details.details(0).value()));
  return reason.reason();
}

// One connected program.
struct Client {
  explicit Client(libmount::UniqueFd fd)
      : channel(grpc::CreateInsecureChannelFromFd("client", fd.release())), stub(v1::Dismd::NewStub(channel)) {}
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Dismd::Stub> stub;
};

class FrontGrpc : public testing::Test {
 protected:
  FrontGrpc() : service_(loop_, broker_.TakeFrontEnd()), connections_(loop_, service_) {
    service_.Start(
        [this](libmount::UniqueFd socket, Caller caller) { connections_.Serve(std::move(socket), std::move(caller)); });
  }
  ~FrontGrpc() override {
    broker_.Hangup();
    service_.WaitForEnd();
    service_.Close();
  }

  std::unique_ptr<Client> Connect(uint32_t uid) {
    return std::make_unique<Client>(broker_.Connect(++last_connection_, uid));
  }

  static v1::MountImageRequest Request() {
    v1::MountImageRequest request;
    request.set_image_path("/home/install.wim");
    request.set_mount_path("/home/mnt");
    request.set_image_index(1);
    request.set_read_only(true);
    return request;
  }
  static grpc::Status Mount(Client& client, const v1::MountImageRequest& request, v1::Operation* last) {
    grpc::ClientContext context;
    auto stream = client.stub->MountImage(&context, request);
    v1::MountImageResponse response;
    while (stream->Read(&response)) *last = response.operation();
    return stream->Finish();
  }
  static v1::ListMountsResponse List(Client& client) {
    grpc::ClientContext context;
    v1::ListMountsResponse response;
    grpc::Status status = client.stub->ListMounts(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  FakeBroker broker_;
  EventLoop loop_;
  Service service_;
  Connections connections_;
  uint64_t last_connection_ = 0;
};

TEST_F(FrontGrpc, MountsWatchesAndUnmounts) {
  auto client = Connect(kAnna);
  grpc::ClientContext watch_context;
  auto watch = client->stub->WatchMounts(&watch_context, {});
  v1::WatchMountsResponse event;
  ASSERT_TRUE(watch->Read(&event));
  EXPECT_EQ(event.event(), v1::MOUNT_EVENT_SYNCED);

  v1::Operation last;
  grpc::Status mounted = Mount(*client, Request(), &last);
  ASSERT_TRUE(mounted.ok()) << mounted.error_message();
  EXPECT_EQ(last.state(), v1::OPERATION_STATE_SUCCEEDED);
  EXPECT_EQ(last.mount().mount_path(), "/home/mnt");
  ASSERT_TRUE(watch->Read(&event));
  EXPECT_EQ(event.event(), v1::MOUNT_EVENT_ADDED);
  EXPECT_EQ(List(*client).mounts_size(), 1);

  // An ended operation can be watched: its last snapshot, then OK.
  {
    grpc::ClientContext context;
    v1::WatchOperationRequest request;
    request.set_operation_id(last.operation_id());
    auto stream = client->stub->WatchOperation(&context, request);
    v1::WatchOperationResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.operation().state(), v1::OPERATION_STATE_SUCCEEDED);
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_TRUE(stream->Finish().ok());
  }

  grpc::ClientContext context;
  v1::UnmountImageRequest unmount;
  unmount.set_mount_id(last.mount().mount_id());
  auto stream = client->stub->UnmountImage(&context, unmount);
  v1::UnmountImageResponse response;
  while (stream->Read(&response)) last = response.operation();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(last.state(), v1::OPERATION_STATE_SUCCEEDED);
  ASSERT_TRUE(watch->Read(&event));
  EXPECT_EQ(event.event(), v1::MOUNT_EVENT_REMOVED);
  watch_context.TryCancel();
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(FrontGrpc, ErrorsCarryTheirReason) {
  auto client = Connect(kAnna);
  broker_.open_error = libmount::Reason::kBadImageFormat;
  v1::Operation last;
  grpc::Status failed = Mount(*client, Request(), &last);
  EXPECT_EQ(failed.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(failed), v1::BAD_IMAGE_FORMAT);
  EXPECT_FALSE(failed.error_message().empty());

  grpc::ClientContext context;
  v1::GetOperationRequest request;
  request.set_operation_id("op-000000000000");
  v1::GetOperationResponse response;
  grpc::Status unknown = client->stub->GetOperation(&context, request, &response);
  EXPECT_EQ(ReasonOf(unknown), v1::OPERATION_NOT_FOUND);
}

// A message that quotes a path of 4095 bytes must still fit into the trailers that a client takes.
TEST_F(FrontGrpc, AnErrorAboutALongPathArrives) {
  auto client = Connect(kAnna);
  broker_.facts = [](const internal::InspectPaths& paths) {
    internal::PathFacts facts = FakeBroker::GoodFacts(paths);
    facts.set_mount_errno(ENOENT);
    return facts;
  };
  v1::MountImageRequest request = Request();
  std::string path;
  while (path.size() < 4090) path += "/\xc3\xa4";
  request.set_mount_path(path);
  v1::Operation last;
  grpc::Status failed = Mount(*client, request, &last);
  EXPECT_EQ(ReasonOf(failed), v1::MOUNT_POINT_NOT_FOUND) << failed.error_message();
  EXPECT_NE(failed.error_message().find("cannot find the mount point /\xc3\xa4/"), std::string::npos);
  EXPECT_NE(failed.error_message().find("No such file or directory"), std::string::npos) << failed.error_message();
}

TEST_F(FrontGrpc, EachConnectionHasItsOwnIdentity) {
  auto anna = Connect(kAnna);
  auto bert = Connect(kBert);
  v1::Operation last;
  ASSERT_TRUE(Mount(*anna, Request(), &last).ok());
  EXPECT_EQ(List(*anna).mounts_size(), 1);
  EXPECT_EQ(List(*bert).mounts_size(), 0);
  for (auto [client, uid] : {std::pair{anna.get(), kAnna}, std::pair{bert.get(), kBert}}) {
    grpc::ClientContext context;
    v1::GetServerInfoResponse info;
    ASSERT_TRUE(client->stub->GetServerInfo(&context, {}, &info).ok());
    EXPECT_EQ(info.caller_uid(), uid);
  }
}

TEST_F(FrontGrpc, ACancelledCallCancelsItsMount) {
  auto client = Connect(kAnna);
  broker_.Hold("open");
  grpc::ClientContext context;
  auto stream = client->stub->MountImage(&context, Request());
  v1::MountImageResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.operation().state(), v1::OPERATION_STATE_RUNNING);
  broker_.WaitFor("open");
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  broker_.WaitFor("release");
  broker_.Release("open");
  EXPECT_THAT(broker_.journal(), Not(Contains("attach")));
}

TEST_F(FrontGrpc, ALostConnectionCancelsItsMount) {
  auto client = Connect(kAnna);
  broker_.Hold("open");
  {
    libmount::UniqueFd socket = broker_.Connect(++last_connection_, kBert);
    libmount::UniqueFd hold = socket.Duplicate();
    Client lost(std::move(socket));
    grpc::ClientContext context;
    auto stream = lost.stub->MountImage(&context, Request());
    v1::MountImageResponse response;
    ASSERT_TRUE(stream->Read(&response));
    broker_.WaitFor("open");
    shutdown(hold.get(), SHUT_RDWR);  // as when the program is killed
    broker_.WaitFor("release");
    stream->Finish();
  }
  broker_.WaitFor("closed");  // the broker is told, once nothing runs in its name
  broker_.Release("open");
  EXPECT_EQ(List(*client).mounts_size(), 0);
}

TEST_F(FrontGrpc, AnUnmountGoesOnWithoutItsStream) {
  auto client = Connect(kAnna);
  v1::Operation last;
  ASSERT_TRUE(Mount(*client, Request(), &last).ok());
  broker_.Hold("unmount");
  grpc::ClientContext context;
  v1::UnmountImageRequest unmount;
  unmount.set_mount_path("/home/mnt");
  auto stream = client->stub->UnmountImage(&context, unmount);
  broker_.WaitFor("unmount");
  context.TryCancel();
  EXPECT_FALSE(stream->Finish().ok());
  broker_.Release("unmount");
  broker_.WaitFor("release");
}

TEST_F(FrontGrpc, TooLargeAMessageIsRefused) {
  auto client = Connect(kAnna);
  v1::MountImageRequest request = Request();
  request.set_image_path("/" + std::string(kMaxRequestBytes, 'a'));
  v1::Operation last;
  EXPECT_EQ(Mount(*client, request, &last).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(List(*client).mounts_size(), 0);  // the connection lives
}

TEST_F(FrontGrpc, Reflection) {
  auto client = Connect(kAnna);
  auto stub = grpc::reflection::v1alpha::ServerReflection::NewStub(client->channel);
  grpc::ClientContext context;
  auto stream = stub->ServerReflectionInfo(&context);
  grpc::reflection::v1alpha::ServerReflectionRequest request;
  grpc::reflection::v1alpha::ServerReflectionResponse response;
  request.set_list_services("");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.list_services_response().service_size(), 3);
  request.set_file_containing_symbol("dismd.v1.Dismd");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.file_descriptor_response().file_descriptor_proto_size(), 4);  // and what it imports
  request.set_file_containing_symbol("no.such.Thing");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// grpc.health.v1.HealthCheckRequest for all is an empty message; the answer is {1: 1} (SERVING).
TEST_F(FrontGrpc, Health) {
  auto client = Connect(kAnna);
  grpc::ClientContext context;
  google::protobuf::Empty request;
  v1::GetServerInfoResponse answer;  // any message keeps unknown fields
  auto status = grpc::internal::BlockingUnaryCall<grpc::protobuf::MessageLite, grpc::protobuf::MessageLite>(
      client->channel.get(),
      grpc::internal::RpcMethod("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC), &context,
      request, &answer);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer.SerializeAsString(), std::string("\x08\x01"));
}

}  // namespace
}  // namespace dismd
