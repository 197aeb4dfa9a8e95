// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/spare_worker.h"

#include <poll.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/ipc/spare_arguments.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/log.h"

namespace dismd {

using libmount::Log;
using libmount::Severity;

void SpareWorker::Prepare() {
  if (process_.running() || timer_.has_value()) return;
  timer_ = loop_->After(kSpareWorkerDelay, [this] {
    timer_.reset();
    Start();
  });
}

void SpareWorker::Start() {
  auto pair = Channel::CreatePair();
  ProgramStart start;
  start.path = program_;
  start.arguments = {SpareArgument()};
  start.becomes_user_itself = true;
  if (pair.ok()) start.fds = {pair->second.get()};
  absl::StatusOr<Process> process = pair.ok() ? StartProgram(start) : absl::StatusOr<Process>(pair.status());
  if (!process.ok()) return Log(Severity::kWarning, absl::StrCat("no spare worker: ", process.status().ToString()));
  process_ = *std::move(process);
  channel_ = std::make_unique<Channel>(std::move(pair->first));
  absl::Status watched = process_.WatchExit(loop_, [this](int status) {
    channel_.reset();
    Log(Severity::kInfo, absl::StrCat("the spare worker has ended: ", DescribeExit(status)));
  });
  if (!watched.ok()) Dismiss();
}

Process SpareWorker::Become(const ProgramStart& start) {
  if (!process_.running()) return Process();
  internal::BecomeWorker message;
  message.set_uid(start.user.uid);
  message.set_gid(start.user.gid);
  message.mutable_groups()->Add(start.user.groups.begin(), start.user.groups.end());
  message.mutable_arguments()->Add(start.arguments.begin(), start.arguments.end());
  if (!channel_->SendNow(message, start.fds).ok() || !IsTaken()) {
    Dismiss();  // it has died just now, or does not get on
    return Process();
  }
  channel_.reset();
  return process_.TakeOut(loop_);
}

bool SpareWorker::IsTaken() {
  pollfd entry = {channel_->fd(), POLLIN, 0};
  if (poll(&entry, 1, static_cast<int>(kSpareWorkerPatience.count())) != 1) return false;
  internal::WorkerTaken taken;
  std::vector<libmount::UniqueFd> fds;
  absl::StatusOr<Channel::Received> received = channel_->Receive(&taken, &fds);
  return received.ok() && *received == Channel::Received::kMessage;
}

void SpareWorker::Dismiss() {
  if (timer_.has_value()) loop_->Cancel(*std::exchange(timer_, std::nullopt));
  channel_.reset();
  process_.KillAndWait(loop_);
}

}  // namespace dismd
