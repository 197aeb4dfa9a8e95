// SPDX-License-Identifier: Apache-2.0

#include "client/common/rpc_connection.h"

#include <errno.h>
#include <google/protobuf/message_lite.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace dismd {
namespace {

// The service sends snapshots while a slow progress callback keeps this thread from reading.
constexpr int32_t kWindowBytes = 16 << 20;
constexpr size_t kMaxMessageBytes = 64 << 20;
constexpr size_t kMaxTrailerBytes = 64 << 10;
constexpr size_t kPrefixBytes = 5;  // "compressed" and the length, big-endian
constexpr size_t kReadBytes = 64 << 10;
// Of output that the socket does not take yet, beside what nghttp2 keeps.
constexpr size_t kMostUnsentBytes = 64 << 10;

nghttp2_nv Header(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

// What gRPC takes the end of a stream without a grpc-status for.
CallStatus StatusOfReset(uint32_t http2_error) {
  const std::string text = std::string("the service ended the call: ") + nghttp2_http2_strerror(http2_error);
  switch (http2_error) {
    case NGHTTP2_CANCEL: return CallStatus(Code::kCancelled, v1::REASON_UNSPECIFIED, text);
    case NGHTTP2_REFUSED_STREAM: return CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, text);
    case NGHTTP2_ENHANCE_YOUR_CALM: return CallStatus(Code::kResourceExhausted, v1::REASON_UNSPECIFIED, text);
    default: return CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED, text);
  }
}

CallStatus EndStatus(const RpcCall& call, uint32_t http2_error) {
  const auto code = call.trailers.find("grpc-status");
  if (code != call.trailers.end()) return CallStatus::FromTrailers(call.trailers);
  if (http2_error != NGHTTP2_NO_ERROR) return StatusOfReset(http2_error);
  return CallStatus(Code::kInternal, v1::REASON_UNSPECIFIED,
                    "the service answered without a status (HTTP " + std::to_string(call.http_status) + ")");
}

}  // namespace

// nghttp2 calls these from within Pump.
struct RpcConnection::Callbacks {
  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void* data) {
    RpcCall* call = static_cast<RpcConnection*>(data)->Find(frame->hd.stream_id);
    if (call == nullptr || value_size > kMaxTrailerBytes) return 0;
    std::string key(reinterpret_cast<const char*>(name), name_size);
    std::string text(reinterpret_cast<const char*>(value), value_size);
    if (key == ":status") {
      call->http_status = atoi(text.c_str());
    } else if (key.rfind("grpc-", 0) == 0) {
      call->trailers[key] = std::move(text);
    }
    return 0;
  }

  static int OnData(nghttp2_session*, uint8_t, int32_t stream, const uint8_t* bytes, size_t size, void* data) {
    auto* self = static_cast<RpcConnection*>(data);
    if (RpcCall* call = self->Find(stream); call != nullptr) self->TakeData(call, bytes, size);
    return 0;
  }

  static int OnClose(nghttp2_session*, int32_t stream, uint32_t error, void* data) {
    RpcCall* call = static_cast<RpcConnection*>(data)->Find(stream);
    if (call == nullptr || call->ended) return 0;
    call->status = EndStatus(*call, error);
    call->ended = true;
    return 0;
  }

  static int OnFrame(nghttp2_session*, const nghttp2_frame* frame, void* data) {
    if (frame->hd.type == NGHTTP2_GOAWAY) static_cast<RpcConnection*>(data)->going_away_ = true;
    return 0;
  }

  static ssize_t ReadRequest(nghttp2_session*, int32_t, uint8_t* buffer, size_t size, uint32_t* flags,
                             nghttp2_data_source* source, void*) {
    auto* call = static_cast<RpcCall*>(source->ptr);
    const size_t count = std::min(size, call->request.size() - call->sent);
    memcpy(buffer, call->request.data() + call->sent, count);
    call->sent += count;
    if (call->sent == call->request.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(count);
  }
};

std::unique_ptr<RpcConnection> RpcConnection::Open(const std::string& socket_path, int* error) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (socket_path.empty() || socket_path.size() >= sizeof(name.sun_path)) {
    *error = EINVAL;
    return nullptr;
  }
  memcpy(name.sun_path, socket_path.data(), socket_path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) {
    *error = errno;
    return nullptr;
  }
  std::unique_ptr<RpcConnection> connection(new RpcConnection(std::move(fd)));
  if (connection->Start()) return connection;
  *error = ENOMEM;
  return nullptr;
}

RpcConnection::RpcConnection(UniqueFd fd) : fd_(std::move(fd)) {}

RpcConnection::~RpcConnection() { nghttp2_session_del(session_); }

bool RpcConnection::Start() {
  nghttp2_session_callbacks* callbacks = nullptr;
  if (nghttp2_session_callbacks_new(&callbacks) != 0) return false;
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Callbacks::OnHeader);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::OnData);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::OnClose);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::OnFrame);
  const int made = nghttp2_session_client_new(&session_, callbacks, this);
  nghttp2_session_callbacks_del(callbacks);
  if (made != 0) return false;
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindowBytes}};
  return nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings)) == 0 &&
         nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindowBytes) == 0;
}

RpcCall* RpcConnection::Find(int32_t stream) {
  auto found = calls_.find(stream);
  return found == calls_.end() ? nullptr : found->second.get();
}

short RpcConnection::events() const {
  return static_cast<short>(POLLIN | (unsent_.empty() && nghttp2_session_want_write(session_) == 0 ? 0 : POLLOUT));
}

RpcCall* RpcConnection::Begin(const std::string& method, const google::protobuf::MessageLite& request) {
  auto call = std::make_unique<RpcCall>();
  const auto size = static_cast<uint32_t>(request.ByteSizeLong());
  call->request = {'\0', static_cast<char>(size >> 24), static_cast<char>(size >> 16), static_cast<char>(size >> 8),
                   static_cast<char>(size)};
  request.AppendToString(&call->request);
  const nghttp2_nv headers[] = {
      Header(":method", "POST"),
      Header(":scheme", "http"),
      Header(":path", method),
      Header(":authority", "localhost"),
      Header("te", "trailers"),
      Header("content-type", "application/grpc"),
      Header("user-agent", "dismd-client/" DISMD_VERSION),
  };
  nghttp2_data_provider body = {};
  body.source.ptr = call.get();
  body.read_callback = Callbacks::ReadRequest;
  const int32_t stream = nghttp2_submit_request(session_, nullptr, headers, std::size(headers), &body, nullptr);
  RpcCall* begun = call.get();
  // A stream that could not be made has a negative number, and ends as a lost connection's would.
  calls_[stream] = std::move(call);
  if (stream < 0) Lose();
  Pump();
  return begun;
}

void RpcConnection::Forget(RpcCall* call) {
  auto found =
      std::find_if(calls_.begin(), calls_.end(), [call](const auto& item) { return item.second.get() == call; });
  if (found == calls_.end()) return;
  if (!call->ended && !lost_) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, found->first, NGHTTP2_CANCEL);
    Pump();  // before it goes: its body may be asked for
  }
  calls_.erase(found);
}

void RpcConnection::TakeData(RpcCall* call, const uint8_t* data, size_t size) {
  std::string& bytes = call->partial;
  bytes.append(reinterpret_cast<const char*>(data), size);
  size_t at = 0;
  while (bytes.size() - at >= kPrefixBytes && !call->ended) {
    uint32_t length = 0;
    for (size_t i = 1; i < kPrefixBytes; ++i) length = length << 8 | static_cast<uint8_t>(bytes[at + i]);
    if (bytes[at] != 0 || length > kMaxMessageBytes) {
      call->ended = true;
      call->status = CallStatus(
          Code::kInternal, v1::REASON_UNSPECIFIED,
          "the service's answer is compressed or longer than " + std::to_string(kMaxMessageBytes) + " bytes");
    } else if (bytes.size() - at < kPrefixBytes + length) {
      break;
    } else {
      call->messages.emplace_back(bytes, at + kPrefixBytes, length);
      at += kPrefixBytes + length;
    }
  }
  bytes.erase(0, at);
}

void RpcConnection::Lose() {
  lost_ = true;
  for (auto& [stream, call] : calls_) {
    if (call->ended) continue;
    call->ended = true;
    call->status = CallStatus(Code::kUnavailable, v1::REASON_UNSPECIFIED, "the connection was lost");
  }
}

void RpcConnection::Send() {
  while (!lost_) {
    while (unsent_.size() < kMostUnsentBytes) {
      const uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size < 0) return Lose();
      if (size == 0) break;
      unsent_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    if (unsent_.empty()) return;
    const ssize_t sent = send(fd_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) {
      Receive();  // what the service said before it went
      return Lose();
    }
    unsent_.erase(0, static_cast<size_t>(sent));
  }
}

void RpcConnection::Receive() {
  std::string buffer(kReadBytes, '\0');
  while (!lost_) {
    const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return Lose();
    if (nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(buffer.data()), static_cast<size_t>(got)) <
        0) {
      return Lose();
    }
  }
}

void RpcConnection::Pump() {
  Receive();
  Send();
}

bool RpcConnection::Usable() {
  Pump();
  return !lost_ && !going_away_;
}

}  // namespace dismd
