// SPDX-License-Identifier: Apache-2.0
//
// RpcConnection: gRPC as a client speaks it on a Unix socket, HTTP/2 by nghttp2, and nothing else of gRPC. It works on
// the thread that uses it: no threads, no signals, nothing that outlives it. The gRPC library would bring threads,
// fork handlers, Protobuf and Abseil into every program that loads libdismapi, and 14 ms of linking into each start.
//
//   auto connection = RpcConnection::Open(path, &error);
//   RpcCall* call = connection->Begin("/dismd.v1.Dismd/ListMounts", request);
//   while (!call->ended) { poll(connection->fd(), connection->events()); connection->Pump(); }
//
// Thread safety: one thread at a time.

#ifndef CLIENT_COMMON_RPC_CONNECTION_H_
#define CLIENT_COMMON_RPC_CONNECTION_H_

#include <stdint.h>

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "client/common/call_status.h"
#include "client/common/unique_fd.h"

struct nghttp2_session;

namespace google::protobuf {
class MessageLite;
}

namespace dismd {

// One call: what has come of its answer.
struct RpcCall {
  std::deque<std::string> messages;  // whole ones, not yet taken by the caller
  bool ended = false;
  CallStatus status;  // once ended

  // For RpcConnection alone.
  std::string request;  // with its length before it, as it is sent
  size_t sent = 0;
  std::string partial;  // the beginning of the next message
  int http_status = 0;
  std::map<std::string, std::string> trailers;
};

class RpcConnection {
 public:
  // Null: `*error` is an errno; EAGAIN: the service has more connections waiting than it takes, try again.
  static std::unique_ptr<RpcConnection> Open(const std::string& socket_path, int* error);
  ~RpcConnection();
  RpcConnection(const RpcConnection&) = delete;
  RpcConnection& operator=(const RpcConnection&) = delete;

  int fd() const { return fd_.get(); }
  // What to poll for.
  short events() const;

  // `method`: "/package.Service/Method". The call is the connection's; it stays until Forget.
  RpcCall* Begin(const std::string& method, const google::protobuf::MessageLite& request);
  // Ends a call whatever its state, and frees it.
  void Forget(RpcCall* call);

  // Sends and receives what can be without waiting. When the connection has ended, so have its calls.
  void Pump();

  // Whether a further call may be made on it: pumps to see.
  bool Usable();

 private:
  struct Callbacks;

  explicit RpcConnection(UniqueFd fd);
  bool Start();
  void Send();
  void Receive();
  void Lose();
  RpcCall* Find(int32_t stream);
  void TakeData(RpcCall* call, const uint8_t* data, size_t size);

  UniqueFd fd_;
  nghttp2_session* session_ = nullptr;
  bool lost_ = false;
  bool going_away_ = false;
  std::string unsent_;
  std::map<int32_t, std::unique_ptr<RpcCall>> calls_;
};

}  // namespace dismd

#endif  // CLIENT_COMMON_RPC_CONNECTION_H_
