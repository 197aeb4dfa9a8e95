// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/worker_link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/front/broker_link.h"
#include "daemon/front/limits.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using internal::WorkerToFront;
using libmount::MakeError;
using libmount::Reason;

constexpr int kMessagesAtOnce = 16;

absl::Status Cancelled() { return MakeError(Reason::kCancelled, "the operation was cancelled"); }

absl::Status Silent(absl::Duration patience) {
  return MakeError(Reason::kPathTimedOut,
                   absl::StrCat("the process that reads the image gave no sign for ", absl::ToInt64Seconds(patience),
                                " s; check that the file system of the image answers, then try again"));
}

}  // namespace

std::shared_ptr<WorkerLink> WorkerLink::Start(EventLoop& loop, libmount::UniqueFd control, EventHandler on_event) {
  std::shared_ptr<WorkerLink> link(new WorkerLink(loop, std::move(control), std::move(on_event)));
  std::weak_ptr<WorkerLink> weak = link;
  // Without the link's lock: the loop's comes first.
  EventLoop::WatchId watch = loop.Add(link->channel_.fd(), EPOLLIN, [weak](uint32_t) {
    if (auto self = weak.lock()) self->OnReadable();
  });
  bool ended;
  {
    absl::MutexLock lock(&link->mutex_);
    link->watch_ = watch;
    ended = !link->state_.ok();
  }
  if (ended) link->Close();  // it did while there was no watch to remove
  return link;
}

WorkerLink::WorkerLink(EventLoop& loop, libmount::UniqueFd control, EventHandler on_event)
    : loop_(loop), channel_(std::move(control)), on_event_(std::move(on_event)) {
  fcntl(channel_.fd(), F_SETFL, fcntl(channel_.fd(), F_GETFL) | O_NONBLOCK);
}

WorkerLink::~WorkerLink() { Close(); }

absl::StatusOr<WorkerToFront> WorkerLink::Call(internal::FrontToWorker request, CancelToken& cancel,
                                               absl::Duration silence, ProgressHandler on_progress) {
  return CallAndWait(std::move(request), cancel, silence, std::move(on_progress), /*to_the_end=*/false);
}

absl::StatusOr<WorkerToFront> WorkerLink::CallToTheEnd(internal::FrontToWorker request, CancelToken& cancel,
                                                       absl::Duration silence, ProgressHandler on_progress) {
  return CallAndWait(std::move(request), cancel, silence, std::move(on_progress), /*to_the_end=*/true);
}

absl::StatusOr<WorkerToFront> WorkerLink::CallAndWait(internal::FrontToWorker request, CancelToken& cancel,
                                                      absl::Duration silence, ProgressHandler on_progress,
                                                      bool to_the_end) {
  Pending pending;
  pending.on_progress = std::move(on_progress);
  uint64_t id;
  {
    absl::MutexLock lock(&mutex_);
    if (!state_.ok()) return state_;
    id = ++last_id_;
    pending.last_sign = absl::Now();
    pending_[id] = &pending;
  }
  bool cancelled = false;  // under mutex_, so that the wake-up is not missed
  CancelToken::Subscription wake(cancel, [this, &cancelled] {
    absl::MutexLock lock(&mutex_);
    cancelled = true;
    changed_.SignalAll();
  });
  request.set_request_id(id);
  absl::Status sent = channel_.Send(request);
  absl::MutexLock lock(&mutex_);
  bool told = false;
  while (sent.ok() && !pending.done && absl::Now() < pending.last_sign + silence) {
    if (cancelled && !to_the_end) break;
    if (cancelled && !std::exchange(told, true)) {
      internal::FrontToWorker stop;
      stop.set_request_id(id);
      stop.mutable_cancel();
      SendWithoutWaiting(stop);
    }
    changed_.WaitWithDeadline(&mutex_, pending.last_sign + silence);
  }
  pending_.erase(id);
  if (pending.done) return std::move(pending.answer);
  if (!sent.ok())
    return MakeError(Reason::kWorkerDied, absl::StrCat("the process that reads the image: ", sent.ToString()));
  return cancelled && !to_the_end ? Cancelled() : Silent(silence);
}

uint64_t WorkerLink::Ask(internal::FrontToWorker request, std::function<void()> on_end) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = ++last_id_;
  request.set_request_id(id);
  if (state_.ok() && channel_.SendNow(request).ok()) {
    asked_[id] = std::move(on_end);
  } else {
    on_end();
  }
  return id;
}

bool WorkerLink::Forget(uint64_t ask, bool overdue) {
  absl::MutexLock lock(&mutex_);
  if (asked_.erase(ask) == 0) return false;
  if (overdue) overdue_ = ask;
  return true;
}

bool WorkerLink::mute() {
  absl::MutexLock lock(&mutex_);
  return overdue_ != 0;
}

absl::Status WorkerLink::AwaitServing(CancelToken& cancel, absl::Duration patience) {
  bool cancelled = false;
  CancelToken::Subscription wake(cancel, [this, &cancelled] {
    absl::MutexLock lock(&mutex_);
    cancelled = true;
    changed_.SignalAll();
  });
  absl::Time deadline = absl::Now() + patience;
  absl::MutexLock lock(&mutex_);
  while (state_.ok() && !serving_ && !cancelled && absl::Now() < deadline) changed_.WaitWithDeadline(&mutex_, deadline);
  if (cancelled) return Cancelled();
  if (!state_.ok()) return state_;
  return serving_ ? absl::OkStatus() : Silent(patience);
}

bool WorkerLink::SendWithoutWaiting(const internal::FrontToWorker& message) {
  pollfd entry = {channel_.fd(), POLLOUT, 0};
  if (poll(&entry, 1, 0) != 1 || (entry.revents & POLLOUT) == 0) return false;
  return channel_.Send(message).ok();
}

void WorkerLink::RequestStats() {
  internal::FrontToWorker request;
  request.mutable_get_stats();
  absl::MutexLock lock(&mutex_);
  if (!state_.ok() || stats_request_ != 0) return;
  request.set_request_id(++last_id_);
  if (SendWithoutWaiting(request)) stats_request_ = last_id_;
}

internal::WorkerStats WorkerLink::FreshStats(absl::Duration patience) {
  RequestStats();
  absl::Time deadline = absl::Now() + patience;
  absl::MutexLock lock(&mutex_);
  uint64_t before = stats_count_;
  while (state_.ok() && stats_count_ == before && stats_request_ != 0 && absl::Now() < deadline) {
    changed_.WaitWithDeadline(&mutex_, deadline);
  }
  return stats_;
}

internal::WorkerStats WorkerLink::LastStats() {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

void WorkerLink::LendCache(uint64_t bytes) {
  internal::FrontToWorker message;
  message.mutable_set_cache_budget()->set_bytes(bytes);
  absl::MutexLock lock(&mutex_);
  if (state_.ok()) SendWithoutWaiting(message);
}

void WorkerLink::Close() {
  EventLoop::WatchId watch;
  {
    absl::MutexLock lock(&mutex_);
    watch = std::exchange(watch_, 0);
    if (state_.ok()) state_ = MakeError(Reason::kWorkerDied, "the process that served the image was ended");
    changed_.SignalAll();
    for (auto& [id, pending] : pending_) {
      pending->done = true;
      pending->answer = state_;
    }
    pending_.clear();
    for (auto& [id, on_end] : asked_) on_end();
    asked_.clear();
  }
  if (watch != 0) loop_.Remove(watch);
}

bool WorkerLink::ended() {
  absl::MutexLock lock(&mutex_);
  return !state_.ok();
}

void WorkerLink::OnReadable() {
  for (int i = 0; i < kMessagesAtOnce; ++i) {
    WorkerToFront message;
    std::vector<libmount::UniqueFd> fds;  // none is wanted; what comes is closed
    absl::StatusOr<Channel::Received> received = channel_.Receive(&message, &fds);
    if (!received.ok()) {
      return Fail(MakeError(Reason::kWorkerDied, absl::StrCat("the process that reads the image sent nonsense: ",
                                                              received.status().ToString())));
    }
    if (*received == Channel::Received::kEnd) {
      return Fail(MakeError(Reason::kWorkerDied,
                            "the process that reads the image ended unexpectedly; the service's log has more"));
    }
    if (*received == Channel::Received::kNothing) return;
    Handle(message);
  }
}

void WorkerLink::Handle(WorkerToFront& message) {
  switch (message.message_case()) {
    case WorkerToFront::kDamage:
    case WorkerToFront::kImageChanged:
    case WorkerToFront::kStagingState:
    case WorkerToFront::kCacheWanted: on_event_(message); return;
    case WorkerToFront::kServingEnded: {
      on_event_(message);
      absl::MutexLock lock(&mutex_);
      if (serving_ || !message.serving_ended().has_error()) return;
      state_ = FromWire(message.serving_ended().error());  // it never served: why is what AwaitServing tells
      changed_.SignalAll();
      return;
    }
    default: break;
  }
  absl::MutexLock lock(&mutex_);
  if (message.has_serving()) {
    serving_ = true;
    changed_.SignalAll();
    return;
  }
  HandleAnswer(message);
}

void WorkerLink::HandleAnswer(WorkerToFront& message) {
  if (message.request_id() != 0 && message.request_id() == stats_request_) {
    stats_request_ = 0;
    ++stats_count_;
    if (message.has_stats()) stats_ = message.stats();
    changed_.SignalAll();
    return;
  }
  if (message.request_id() == overdue_) overdue_ = 0;
  if (auto asked = asked_.find(message.request_id()); asked != asked_.end()) {
    asked->second();
    asked_.erase(asked);
    return;
  }
  auto place = pending_.find(message.request_id());
  if (place == pending_.end()) return;
  Pending& pending = *place->second;
  if (message.has_progress()) {
    pending.last_sign = absl::Now();
    if (pending.on_progress) pending.on_progress(message.progress());
    return;
  }
  pending_.erase(place);
  pending.done = true;
  if (message.has_error()) {
    pending.answer = FromWire(message.error());
  } else {
    pending.answer = std::move(message);
  }
  changed_.SignalAll();
}

void WorkerLink::Fail(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    if (state_.ok()) state_ = why;
  }
  Close();
}

}  // namespace dismd
