// SPDX-License-Identifier: GPL-3.0-or-later
//
// MessageQueue: a Channel in an event loop that is written to without waiting.
//
// The broker waits for nobody: what a peer does not read is kept, up to a bound; a peer beyond the bound is given up.
// The same holds for a peer that sends what is no message.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_MESSAGE_QUEUE_H_
#define DAEMON_BROKER_MESSAGE_QUEUE_H_

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "daemon/broker/event_loop.h"
#include "daemon/ipc/channel.h"
#include "google/protobuf/message_lite.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class MessageQueue {
 public:
  using OnMessage = std::function<void(const google::protobuf::MessageLite&, std::vector<libmount::UniqueFd> fds)>;

  // `incoming` is filled and `on_message` called for each message that comes; `on_end` once, when the peer has closed
  // or is given up (the reason; OK when it closed). Either may destroy this object.
  MessageQueue(EventLoop* loop, libmount::UniqueFd socket, std::unique_ptr<google::protobuf::MessageLite> incoming,
               size_t max_waiting, OnMessage on_message, std::function<void(absl::Status)> on_end);
  ~MessageQueue();
  MessageQueue(const MessageQueue&) = delete;
  MessageQueue& operator=(const MessageQueue&) = delete;

  // Reads what a peer that has ended left behind. Neither callback may destroy this object meanwhile.
  void Drain();

  // The descriptors are closed when they have been sent.
  void Send(const google::protobuf::MessageLite& message, std::vector<libmount::UniqueFd> fds = {});

 private:
  struct Outgoing {
    std::unique_ptr<google::protobuf::MessageLite> message;
    std::vector<libmount::UniqueFd> fds;
  };

  void OnEvent(uint32_t events);
  bool ReadOne();  // whether there may be more
  void Flush();
  void End(absl::Status status);

  EventLoop* const loop_;
  Channel channel_;
  std::unique_ptr<google::protobuf::MessageLite> incoming_;
  const size_t max_waiting_;
  const OnMessage on_message_;
  std::function<void(absl::Status)> on_end_;
  std::deque<Outgoing> waiting_;
  bool watching_writes_ = false;
};

}  // namespace dismd

#endif  // DAEMON_BROKER_MESSAGE_QUEUE_H_
