// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/message_queue.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <utility>

#include "libmount/base/log.h"

namespace dismd {

using google::protobuf::MessageLite;
using libmount::UniqueFd;

MessageQueue::MessageQueue(EventLoop* loop, UniqueFd socket, std::unique_ptr<MessageLite> incoming, size_t max_waiting,
                           OnMessage on_message, std::function<void(absl::Status)> on_end)
    : loop_(loop),
      channel_(std::move(socket)),
      incoming_(std::move(incoming)),
      max_waiting_(max_waiting),
      on_message_(std::move(on_message)),
      on_end_(std::move(on_end)) {
  fcntl(channel_.fd(), F_SETFL, O_NONBLOCK);
  absl::Status watched = loop_->Watch(channel_.fd(), EPOLLIN, [this](uint32_t events) { OnEvent(events); });
  if (!watched.ok()) libmount::Log(libmount::Severity::kError, watched.ToString());
}

MessageQueue::~MessageQueue() { loop_->Unwatch(channel_.fd()); }

void MessageQueue::Send(const MessageLite& message, std::vector<UniqueFd> fds) {
  if (on_end_ == nullptr) return;  // ended
  Outgoing outgoing{std::unique_ptr<MessageLite>(message.New()), std::move(fds)};
  outgoing.message->CheckTypeAndMergeFrom(message);
  waiting_.push_back(std::move(outgoing));
  Flush();
}

void MessageQueue::Flush() {
  while (!waiting_.empty()) {
    std::vector<int> fds;
    for (const UniqueFd& fd : waiting_.front().fds) fds.push_back(fd.get());
    absl::Status sent = channel_.SendNow(*waiting_.front().message, fds);
    if (absl::IsDeadlineExceeded(sent)) break;  // full
    // A failure shows up as the end of the socket as well, and is told from there: Send's caller is not ready for it.
    waiting_.pop_front();
  }
  if (waiting_.size() > max_waiting_) waiting_.clear(), channel_.ShutDown();
  bool want = !waiting_.empty();
  if (want != watching_writes_) loop_->ChangeEvents(channel_.fd(), want ? EPOLLIN | EPOLLOUT : EPOLLIN);
  watching_writes_ = want;
}

void MessageQueue::OnEvent(uint32_t events) {
  if ((events & EPOLLOUT) != 0) Flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) ReadOne();
}

void MessageQueue::Drain() {
  while (on_end_ != nullptr && ReadOne()) {
  }
}

bool MessageQueue::ReadOne() {
  std::vector<UniqueFd> fds;
  absl::StatusOr<Channel::Received> received = channel_.Receive(incoming_.get(), &fds);
  if (!received.ok() || *received == Channel::Received::kEnd) {
    End(received.ok() ? absl::OkStatus() : received.status());
    return false;
  }
  bool more = *received == Channel::Received::kMessage;
  if (more) on_message_(*incoming_, std::move(fds));  // may destroy this object
  return more;
}

void MessageQueue::End(absl::Status status) {
  loop_->Unwatch(channel_.fd());
  waiting_.clear();
  // Moved out first: it may destroy this object.
  std::function<void(absl::Status)> on_end = std::exchange(on_end_, nullptr);
  if (on_end) on_end(std::move(status));
}

}  // namespace dismd
