// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/control_link.h"

#include <string>
#include <utility>

#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {

using libmount::Log;
using libmount::Severity;

internal::Error ToError(const absl::Status& status) {
  internal::Error error;
  error.set_reason(static_cast<int>(libmount::ReasonOf(status)));
  error.set_message(std::string(status.message().data(), status.message().size()));
  return error;
}

void ControlLink::Replace(std::shared_ptr<Channel> channel) {
  std::vector<internal::WorkerToFront> kept;
  {
    absl::MutexLock lock(&mutex_);
    channel_ = std::move(channel);
    if (channel_ != nullptr) kept = kept_;
  }
  for (const internal::WorkerToFront& event : kept) Send(event);
}

void ControlLink::Send(const internal::WorkerToFront& message) {
  std::shared_ptr<Channel> to = channel();
  if (to == nullptr) return;
  absl::Status sent = to->Send(message);
  if (!sent.ok() && !absl::IsUnavailable(sent)) Log(Severity::kWarning, "telling the front: " + sent.ToString());
}

void ControlLink::SendError(uint64_t request_id, const absl::Status& status) {
  internal::WorkerToFront answer;
  answer.set_request_id(request_id);
  *answer.mutable_error() = ToError(status);
  Send(answer);
}

void ControlLink::SendKept(const internal::WorkerToFront& event) {
  {
    absl::MutexLock lock(&mutex_);
    if (kept_.size() >= kMostKeptEvents) return;
    kept_.push_back(event);
  }
  Send(event);
}

std::shared_ptr<Channel> ControlLink::channel() const {
  absl::MutexLock lock(&mutex_);
  return channel_;
}

}  // namespace dismd
