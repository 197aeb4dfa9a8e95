// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/siblings.h"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

// The broker's own deadline for opening is shorter.
constexpr absl::Duration kOpenTimeout = absl::Seconds(60);
constexpr absl::Duration kCancelInterval = absl::Milliseconds(5);
constexpr int kReplaceAttempts = 3;

absl::StatusOr<UniqueFd> Judge(const internal::OpenedSibling& answer, std::vector<UniqueFd> fds, bool expects_file) {
  if (answer.has_error()) {
    // The reason is what matters; a number that is none is kUnspecified's business.
    return MakeError(static_cast<Reason>(answer.error().reason()), answer.error().message());
  }
  if (!expects_file) return UniqueFd();
  struct stat st;
  if (fds.size() != 1 || fstat(fds[0].get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    return MakeError(Reason::kPartMissing, "what lies beside the image is not a regular file");
  }
  return std::move(fds[0]);
}

// What the image says, to be turned down here already; the broker takes care by itself.
bool IsBeneath(std::string_view path) {
  if (path.empty() || path.find('\0') != path.npos) return false;
  const std::vector<std::string> parts = absl::StrSplit(std::string(path), '/');
  return std::all_of(parts.begin(), parts.end(),
                     [](const std::string& part) { return !part.empty() && part != "." && part != ".."; });
}

}  // namespace

absl::StatusOr<UniqueFd> Siblings::Open(std::string_view name, const libmount::OperationMonitor& monitor) {
  if (!IsBeneath(name)) {
    return MakeError(Reason::kInvalidPath,
                     absl::StrCat("not a path beneath the image's directory: ", std::string(name)));
  }
  internal::WorkerToBroker request;
  request.mutable_open_sibling()->set_name(std::string(name));
  return Ask(std::move(request), absl::StrCat("opening ", std::string(name)), nullptr, monitor);
}

absl::StatusOr<UniqueFd> Siblings::CreateTemporary(const libmount::OperationMonitor& monitor) {
  internal::WorkerToBroker request;
  request.mutable_create_temporary();
  return Ask(std::move(request), "making a file beside the image", nullptr, monitor);
}

absl::Status Siblings::ReplaceImage(const UniqueFd& file) {
  absl::Status status;
  for (int attempt = 0; attempt < kReplaceAttempts; ++attempt) {
    internal::WorkerToBroker request;
    request.mutable_replace_image();
    libmount::NullMonitor nobody;
    status = Ask(std::move(request), "putting the new image file in its place", &file, nobody).status();
    if (libmount::ReasonOf(status) != Reason::kPathTimedOut) break;
  }
  return status;
}

void Siblings::DropTemporary() {
  internal::WorkerToBroker message;
  message.mutable_drop_temporary();
  broker_->Send(message).IgnoreError();  // the next broker finds it
}

absl::StatusOr<UniqueFd> Siblings::Ask(internal::WorkerToBroker request, const std::string& what, const UniqueFd* fd,
                                       const libmount::OperationMonitor& monitor) {
  std::vector<int> fds;
  if (fd != nullptr) fds.push_back(fd->get());
  {
    absl::MutexLock lock(&mutex_);
    if (gone_) return MakeError(Reason::kShuttingDown, "the service is ending; no further file can be opened");
    ++last_request_;
    if (request.has_open_sibling()) request.mutable_open_sibling()->set_request_id(last_request_);
    if (request.has_create_temporary()) request.mutable_create_temporary()->set_request_id(last_request_);
    if (request.has_replace_image()) request.mutable_replace_image()->set_request_id(last_request_);
    expects_file_ = fd == nullptr;
    again_ = false;
    answer_.reset();
  }
  if (absl::Status sent = broker_->Send(request, fds); !sent.ok()) return sent;

  const absl::Time deadline = absl::Now() + kOpenTimeout;
  absl::MutexLock lock(&mutex_);
  while (!answer_.has_value()) {
    auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return answer_.has_value() || gone_ || again_; };
    mutex_.AwaitWithTimeout(absl::Condition(&done), kCancelInterval);
    if (answer_.has_value()) break;
    if (monitor.cancelled()) return CheckCancelled(monitor);
    if (gone_) return MakeError(Reason::kShuttingDown, "the service is ending; no further file can be opened");
    if (absl::Now() > deadline) return MakeError(Reason::kPathTimedOut, absl::StrCat(what, " took too long"));
    if (std::exchange(again_, false)) {
      if (absl::Status sent = broker_->Send(request, fds); !sent.ok()) return sent;
    }
  }
  absl::StatusOr<UniqueFd> answer = *std::move(answer_);
  answer_.reset();
  return answer;
}

void Siblings::OnOpened(const internal::OpenedSibling& answer, std::vector<UniqueFd> fds) {
  absl::MutexLock lock(&mutex_);
  if (answer.request_id() == last_request_) answer_ = Judge(answer, std::move(fds), expects_file_);
}

void Siblings::AskAgain() {
  absl::MutexLock lock(&mutex_);
  again_ = true;
}

void Siblings::GiveUp() {
  absl::MutexLock lock(&mutex_);
  gone_ = true;
}

}  // namespace dismd
