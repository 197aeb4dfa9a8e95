// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/broker_link.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using internal::BrokerToFront;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

// Messages taken from a channel before others have their turn.
constexpr int kMessagesAtOnce = 64;

absl::Status BrokerGone() {
  return MakeError(Reason::kShuttingDown, "the service is ending: its broker process is gone");
}

UniqueFd TakeFirst(std::vector<UniqueFd>& fds) { return fds.empty() ? UniqueFd() : std::move(fds.front()); }

}  // namespace

absl::Status FromWire(const internal::Error& error) {
  auto reason = static_cast<Reason>(error.reason());
  std::string message = BoundedText(error.message(), kMaxWorkerTextBytes);
  if (message.empty()) message = absl::StrCat("failed: ", libmount::ReasonName(reason));
  return MakeError(reason, std::move(message));
}

BrokerLink::BrokerLink(EventLoop& loop, UniqueFd socket, BrokerEvents& events)
    : loop_(loop), channel_(std::move(socket)), events_(events) {
  fcntl(channel_.fd(), F_SETFL, fcntl(channel_.fd(), F_GETFL) | O_NONBLOCK);
}

BrokerLink::~BrokerLink() { loop_.Remove(watch_); }

void BrokerLink::Start() {
  watch_ = loop_.Add(channel_.fd(), EPOLLIN, [this](uint32_t) { OnReadable(); });
}

absl::StatusOr<BrokerAnswer> BrokerLink::Call(internal::FrontToBroker request, CancelToken* cancel) {
  Pending pending;
  uint64_t id;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return BrokerGone();
    id = ++last_id_;
    pending_[id] = &pending;
  }
  request.set_request_id(id);
  absl::Status sent = channel_.Send(request);
  if (!sent.ok()) {
    absl::MutexLock lock(&mutex_);
    pending_.erase(id);
    return MakeError(Reason::kShuttingDown, absl::StrCat("the broker process cannot be asked: ", sent.ToString()));
  }
  if (cancel != nullptr) {
    CancelToken::Subscription subscription(*cancel, [this, &pending] {
      absl::MutexLock lock(&mutex_);
      pending.cancelled = true;
      answered_.SignalAll();
    });
    if (!Await(pending)) {
      internal::FrontToBroker abandon;
      abandon.mutable_abandon_request()->set_request_id(id);
      Tell(abandon);
    }
  }
  absl::MutexLock lock(&mutex_);
  while (!pending.done) answered_.Wait(&mutex_);
  return std::move(pending.answer);
}

bool BrokerLink::Await(Pending& pending) {
  absl::MutexLock lock(&mutex_);
  while (!pending.done && !pending.cancelled) answered_.Wait(&mutex_);
  return pending.done;
}

void BrokerLink::Tell(const internal::FrontToBroker& message) {
  absl::Status sent = channel_.Send(message);
  if (!sent.ok())
    libmount::Log(Severity::kWarning, absl::StrCat("the broker process cannot be told: ", sent.ToString()));
}

void BrokerLink::OnReadable() {
  for (int i = 0; i < kMessagesAtOnce; ++i) {
    BrokerToFront message;
    std::vector<UniqueFd> fds;
    absl::StatusOr<Channel::Received> received = channel_.Receive(&message, &fds);
    if (!received.ok()) return End(received.status());
    if (*received == Channel::Received::kEnd) return End(absl::OkStatus());
    if (*received == Channel::Received::kNothing) return;
    Handle(message, fds);
  }
}

void BrokerLink::Handle(BrokerToFront& message, std::vector<UniqueFd>& fds) {
  switch (message.message_case()) {
    case BrokerToFront::kConfig: return events_.OnConfig(message.config());
    case BrokerToFront::kNewConnection: return events_.OnNewConnection(message.new_connection(), TakeFirst(fds));
    case BrokerToFront::kKnownSlot: return events_.OnKnownSlot(message.known_slot(), TakeFirst(fds));
    case BrokerToFront::kKnownOperation: return events_.OnKnownOperation(message.known_operation());
    case BrokerToFront::kReply: return HandleReply(*message.mutable_reply(), fds);
    case BrokerToFront::kWorkerExited: return events_.OnWorkerExited(message.worker_exited());
    case BrokerToFront::kWorkerReplaced: return events_.OnWorkerReplaced(message.worker_replaced(), TakeFirst(fds));
    case BrokerToFront::kMountGone: return events_.OnMountGone(message.mount_gone());
    case BrokerToFront::kStop: return events_.OnStop(message.stop());
    case BrokerToFront::MESSAGE_NOT_SET: break;
  }
  libmount::Log(Severity::kWarning, "the broker sent a message of no known kind");
}

void BrokerLink::HandleReply(internal::BrokerReply& reply, std::vector<UniqueFd>& fds) {
  absl::MutexLock lock(&mutex_);
  auto place = pending_.find(reply.request_id());
  if (place == pending_.end()) return;
  Pending& pending = *place->second;
  pending_.erase(place);
  pending.done = true;
  if (reply.has_error() && !reply.has_busy()) {
    pending.answer = FromWire(reply.error());
  } else {
    pending.answer = BrokerAnswer{std::move(reply), std::move(fds)};
  }
  answered_.SignalAll();
}

void BrokerLink::End(const absl::Status& why) {
  loop_.Remove(watch_);
  if (!why.ok()) libmount::Log(Severity::kError, absl::StrCat("the broker's socket: ", why.ToString()));
  FailCalls();
  events_.OnBrokerEnd();
}

void BrokerLink::Close() {
  loop_.Remove(watch_);
  FailCalls();
}

void BrokerLink::FailCalls() {
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  for (auto& [id, pending] : pending_) {
    pending->done = true;
    pending->answer = BrokerGone();
  }
  pending_.clear();
  answered_.SignalAll();
}

}  // namespace dismd
