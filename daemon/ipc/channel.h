// SPDX-License-Identifier: GPL-3.0-or-later
//
// Channel: one protobuf message at a time, with descriptors, over a SOCK_SEQPACKET socket between two processes of the
// service.
//
// A message travels as one packet. One larger than kInlineBytes travels in a memfd, passed as an extra descriptor
// (the kernel bounds a packet by the socket's send buffer). The receiver bounds everything: a peer that is compromised
// can send nonsense, but no more than kMaxMessageBytes and kMaxDescriptors of it; whoever reads the messages checks
// their content.
//
// Thread safety: Send and SendNow may be called from several threads at once (packets do not mix); Receive from one
// thread.

#ifndef DAEMON_IPC_CHANNEL_H_
#define DAEMON_IPC_CHANNEL_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "google/protobuf/message_lite.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

inline constexpr size_t kInlineBytes = size_t{48} << 10;
inline constexpr size_t kMaxMessageBytes = size_t{64} << 20;
inline constexpr size_t kMaxDescriptors = 8;

class Channel {
 public:
  // Takes a connected SOCK_SEQPACKET socket. Whether Receive blocks is the socket's O_NONBLOCK.
  explicit Channel(libmount::UniqueFd socket) : socket_(std::move(socket)) {}

  // Both ends, close-on-exec, blocking.
  static absl::StatusOr<std::pair<libmount::UniqueFd, libmount::UniqueFd>> CreatePair();

  // Sends a message and copies of `fds`. Waits (at most kSendTimeout) while the peer's queue is full.
  // UNAVAILABLE: the peer is gone. RESOURCE_EXHAUSTED: it does not read.
  absl::Status Send(const google::protobuf::MessageLite& message, absl::Span<const int> fds = {});

  // The same without waiting. DEADLINE_EXCEEDED: the queue is full; nothing was sent.
  absl::Status SendNow(const google::protobuf::MessageLite& message, absl::Span<const int> fds = {});

  // Ends the conversation in both directions: the peer, and Receive here, get kEnd.
  void ShutDown();

  enum class Received { kMessage, kEnd, kNothing };
  // kMessage: `message` and `fds` (close-on-exec) are filled. kEnd: the peer has closed. kNothing: a non-blocking
  // socket has no message now. An error: what came was no message; the channel should be closed.
  absl::StatusOr<Received> Receive(google::protobuf::MessageLite* message, std::vector<libmount::UniqueFd>* fds);

  int fd() const { return socket_.get(); }

 private:
  absl::Status SendPacket(const google::protobuf::MessageLite& message, absl::Span<const int> fds, bool wait);

  libmount::UniqueFd socket_;
};

}  // namespace dismd

#endif  // DAEMON_IPC_CHANNEL_H_
