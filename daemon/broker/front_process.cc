// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/front_process.h"

#include <pwd.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/identity.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

// A front that leaves more than this unread has stopped reading.
constexpr size_t kMaxWaitingForFront = 16384;

constexpr char kDefaultFrontUser[] = "dismd";

}  // namespace

FrontProcess::FrontProcess(EventLoop* loop, ProgramStart program, Events events)
    : loop_(loop), program_(std::move(program)), events_(std::move(events)) {}

FrontProcess::~FrontProcess() {
  process_.Signal(SIGKILL);
  process_.Forget(loop_);
}

void FrontProcess::Start() {
  auto pair = Channel::CreatePair();
  ProgramStart start = program_;
  if (pair.ok()) start.fds = {pair->second.get()};
  absl::StatusOr<Process> process = pair.ok() ? StartProgram(start) : absl::StatusOr<Process>(pair.status());
  if (!process.ok()) {
    Log(Severity::kError, absl::StrCat("cannot start dismd-front: ", std::string(process.status().message())));
    return Restart();
  }
  ++generation_;
  process_ = *std::move(process);
  absl::Status watched = process_.WatchExit(loop_, [this](int status) { OnExit(status); });
  if (!watched.ok()) Log(Severity::kError, watched.ToString());
  queue_ = std::make_unique<MessageQueue>(
      loop_, std::move(pair->first), std::make_unique<internal::FrontToBroker>(), kMaxWaitingForFront,
      [this](const google::protobuf::MessageLite& message, std::vector<UniqueFd>) {
        events_.message(static_cast<const internal::FrontToBroker&>(message));
      },
      // A front that cannot be talked to is of no use, dead or alive. One that is done closes its socket when it ends.
      [this](const absl::Status& status) {
        if (!last_ || !status.ok()) process_.Signal(SIGKILL);
      });
  events_.started();
}

void FrontProcess::Send(const internal::BrokerToFront& message, std::vector<UniqueFd> fds) {
  if (queue_) queue_->Send(message, std::move(fds));
}

void FrontProcess::WasReady() { failed_starts_ = 0; }

void FrontProcess::OnExit(int status) {
  queue_.reset();
  if (when_stopped_) return std::exchange(when_stopped_, nullptr)();
  if (!last_ || status != 0) Log(Severity::kError, absl::StrCat("dismd-front has ended: ", DescribeExit(status)));
  events_.lost();
  if (!last_) Restart();
}

void FrontProcess::Restart() {
  if (++failed_starts_ > kMaxFailedStarts) {
    Log(Severity::kError, absl::StrCat("dismd-front has died ", failed_starts_, " times in a row; giving up"));
    return events_.gave_up();
  }
  auto delay = std::min(kFirstRestartDelay * (1 << (failed_starts_ - 1)), kMaxRestartDelay);
  loop_->After(delay, [this] {
    if (!when_stopped_ && !last_) Start();
  });
}

void FrontProcess::Stop(std::function<void()> done) {
  if (!process_.running()) return done();
  when_stopped_ = std::move(done);
  queue_.reset();
  process_.Signal(SIGTERM);
  loop_->After(kFrontExitDeadline, [this] { process_.Signal(SIGKILL); });
}

absl::StatusOr<FrontUser> FindFrontUser(const std::string& name) {
  const passwd* entry = getpwnam(name.empty() ? kDefaultFrontUser : name.c_str());
  if (entry == nullptr && name.empty()) return FrontUser{kFrontUid, kFrontUid};
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat("there is no user \"", name, "\" (--user)"));
  // The front parses what strangers send: never as root.
  if (entry->pw_uid == 0) return absl::InvalidArgumentError("--user must not be root");
  return FrontUser{entry->pw_uid, entry->pw_gid};
}

}  // namespace dismd
