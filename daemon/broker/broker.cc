// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/broker.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/notify.h"
#include "daemon/broker/reply.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using internal::BrokerToFront;
using internal::FrontToBroker;
using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

// Each mount takes about eight descriptors.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string DirectoryOf(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Broker::Broker(BrokerOptions options) : options_(std::move(options)) {}

Broker::~Broker() = default;

absl::Status Broker::Start() {
  RaiseDescriptorLimit();
  umask(022);
  absl::Status made = MakeDirectories(DirectoryOf(options_.socket_path), 0755);
  if (made.ok()) made = MakeDirectories(options_.state_dir, 0755);
  if (!made.ok()) return made;

  absl::StatusOr<UniqueFd> lock = LockFile(options_.socket_path + ".lock", "the socket " + options_.socket_path);
  if (!lock.ok()) return lock.status();
  socket_lock_ = *std::move(lock);
  lock = LockFile(options_.state_dir + "/lock", "the state directory " + options_.state_dir);
  if (!lock.ok()) return lock.status();
  state_lock_ = *std::move(lock);

  absl::StatusOr<RecordStore> records = RecordStore::Open(options_.state_dir);
  if (!records.ok()) return records.status();
  records_ = std::make_unique<RecordStore>(*std::move(records));
  absl::StatusOr<StagingStore> staging = StagingStore::Open(options_.state_dir);
  if (!staging.ok()) return staging.status();
  staging_ = std::make_unique<StagingStore>(*std::move(staging));
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Bind(&loop_, options_.socket_path, options_.rootless);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);

  ProgramStart program;
  program.path = options_.front_program;
  if (options_.rootless) {
    program.user = {geteuid(), getegid(), {}};
  } else {
    absl::StatusOr<FrontUser> user = FindFrontUser(options_.front_user);
    if (!user.ok()) return user.status();
    program.user = {user->uid, user->gid, {}};
  }
  front_ = std::make_unique<FrontProcess>(
      &loop_, std::move(program),
      FrontProcess::Events{[this] { OnFrontStarted(); },
                           [this](const FrontToBroker& message) { OnFrontMessage(message); }, [this] { OnFrontLost(); },
                           [this] {
                             result_ = absl::UnavailableError("dismd-front cannot be kept running");
                             BeginStop();
                           }});
  slots_ = std::make_unique<Slots>(&loop_, &options_, records_.get(), staging_.get(),
                                   Slots::Events{[this](uint64_t slot_id, int status) {
                                                   BrokerToFront message;
                                                   message.mutable_worker_exited()->set_slot_id(slot_id);
                                                   message.mutable_worker_exited()->set_exit_status(status);
                                                   front_->Send(message);
                                                 },
                                                 [this](uint64_t slot_id, int pid, UniqueFd control) {
                                                   BrokerToFront message;
                                                   message.mutable_worker_replaced()->set_slot_id(slot_id);
                                                   message.mutable_worker_replaced()->set_pid(pid);
                                                   std::vector<UniqueFd> fds;
                                                   fds.push_back(std::move(control));
                                                   front_->Send(message, std::move(fds));
                                                 },
                                                 [this](uint64_t slot_id) {
                                                   BrokerToFront message;
                                                   message.mutable_mount_gone()->set_slot_id(slot_id);
                                                   front_->Send(message);
                                                 }});
  return TakeSignals();
}

absl::Status Broker::TakeSignals() {
  sigset_t mask;
  sigemptyset(&mask);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
  if (sigprocmask(SIG_BLOCK, &mask, nullptr) != 0) return absl::ErrnoToStatus(errno, "sigprocmask");
  signal(SIGPIPE, SIG_IGN);
  signals_.reset(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return absl::ErrnoToStatus(errno, "signalfd");
  return loop_.Watch(signals_.get(), EPOLLIN, [this](uint32_t) { OnSignal(); });
}

absl::Status Broker::Run() {
  slots_->TakeOver([this] {
    if (phase_ == Phase::kServing) front_->Start();
  });
  loop_.Run();
  loop_.Unwatch(signals_.get());
  return result_;
}

void Broker::OnSignal() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGHUP) {
      if (phase_ == Phase::kServing) HandOver();
    } else if (phase_ == Phase::kServing) {
      Log(Severity::kInfo, absl::StrCat("stopping; mounts in use have ", options_.grace.count(), " ms"));
      BeginStop();
    } else {
      DetachRest("a second signal");
    }
  }
}

// ------------------------------------------------------------------------------------------------------- the front

void Broker::OnFrontStarted() {
  BrokerToFront message;
  message.mutable_config()->set_rootless(options_.rootless);
  message.mutable_config()->set_version(DISMD_VERSION);
  front_->Send(message);
  slots_->Introduce([this](const internal::KnownSlot& known, std::vector<UniqueFd> fds) {
    BrokerToFront introduction;
    *introduction.mutable_known_slot() = known;
    front_->Send(introduction, std::move(fds));
  });
  for (const auto& [id, record] : records_->operations()) {
    BrokerToFront introduction;
    introduction.mutable_known_operation()->set_operation_id(id);
    introduction.mutable_known_operation()->set_record(record);
    front_->Send(introduction);
  }
}

void Broker::OnFrontLost() {
  listener_->StopAccepting();
  listener_->AllClosed();
  slots_->ReleaseUnfinished();
  if (phase_ == Phase::kStopping) DetachRest("dismd-front has ended");
}

void Broker::OnReady() {
  front_->WasReady();
  if (phase_ != Phase::kServing) return;
  listener_->StartAccepting([this](uint64_t id, const Peer& peer, UniqueFd socket) {
    BrokerToFront message;
    message.mutable_new_connection()->set_connection_id(id);
    *message.mutable_new_connection()->mutable_identity() = peer.identity;
    std::vector<UniqueFd> fds;
    fds.push_back(std::move(socket));
    front_->Send(message, std::move(fds));
  });
  Log(Severity::kInfo, absl::StrCat("serving ", options_.socket_path, options_.rootless ? " without root" : ""));
  Notify(absl::StrCat("READY=1\nSTATUS=Serving ", options_.socket_path));
  slots_->PrepareWorker();
}

Reply Broker::ReplyTo(uint64_t request_id) {
  return [this, request_id, generation = front_->generation()](internal::BrokerReply reply, std::vector<UniqueFd> fds) {
    if (request_id == 0 || generation != front_->generation()) return;
    reply.set_request_id(request_id);
    BrokerToFront message;
    *message.mutable_reply() = std::move(reply);
    front_->Send(message, std::move(fds));
  };
}

const Peer* Broker::PeerOf(uint64_t connection_id, const Reply& reply) const {
  const Peer* peer = listener_->Find(connection_id);
  // New work is begun for somebody who is there: not for an identity of the front's own invention.
  if (peer == nullptr) ReplyError(reply, MakeError(Reason::kCancelled, "the connection is closed"));
  return peer;
}

void Broker::SaveOperation(const internal::SaveOperation& request, const Reply& reply) {
  absl::Status saved = records_->SaveOperation(request.operation_id(), request.record());
  if (saved.ok()) return reply(internal::BrokerReply(), {});
  ReplyError(reply, MakeError(Reason::kOutOfResources, std::string(saved.message())));
}

void Broker::OnFrontMessage(const FrontToBroker& message) {
  Reply reply = ReplyTo(message.request_id());
  switch (message.message_case()) {
    case FrontToBroker::kReady: return OnReady();
    case FrontToBroker::kConnectionClosed: return listener_->Closed(message.connection_closed().connection_id());
    case FrontToBroker::kStopDone:
      if (phase_ == Phase::kStopping) DetachRest("dismd-front is done");
      return;
    case FrontToBroker::kSaveOperation: return SaveOperation(message.save_operation(), reply);
    case FrontToBroker::kInspectPaths: {
      if (!message.inspect_paths().remount_of().empty()) {
        return slots_->InspectDormant(message.request_id(), message.inspect_paths(), reply);
      }
      const Peer* peer = PeerOf(message.inspect_paths().connection_id(), reply);
      if (peer == nullptr) return;
      if (!peer->other_namespace) {
        return slots_->InspectPaths(peer->identity, message.request_id(), message.inspect_paths(), reply);
      }
      // Its paths mean other files here: nothing is opened.
      internal::BrokerReply refusal;
      refusal.mutable_path_facts()->set_other_namespace(true);
      return reply(std::move(refusal), {});
    }
    case FrontToBroker::kResolvePath: {
      const Peer* peer = PeerOf(message.resolve_path().connection_id(), reply);
      if (peer == nullptr) return;
      if (!peer->other_namespace) {
        return slots_->ResolvePath(peer->identity, message.request_id(), message.resolve_path(), reply);
      }
      return ReplyError(reply, MakeError(Reason::kOtherNamespace,
                                         "this program sees other mounts than the service (a container, perhaps)"));
    }
    case FrontToBroker::kAbandonRequest: return slots_->Abandon(message.abandon_request().request_id());
    case FrontToBroker::MESSAGE_NOT_SET:
      return ReplyError(reply, MakeError(Reason::kNotImplemented, "an unknown request"));
    default: return slots_->Handle(message, std::move(reply));
  }
}

// ------------------------------------------------------------------------------------------------------- stopping

void Broker::HandOver() {
  Log(Severity::kInfo, "handing over to a new dismd; mounts go on");
  Notify("RELOADING=1");
  phase_ = Phase::kEnding;
  handing_over_ = true;
  listener_->StopAccepting();
  slots_->ReleaseUnfinished();
  front_->Stop([this] {
    slots_->LetGo();
    loop_.Quit();
  });
}

void Broker::BeginStop() {
  if (phase_ != Phase::kServing) return;
  phase_ = Phase::kStopping;
  front_->DoNotRestart();
  Notify("STOPPING=1\nSTATUS=Unmounting");
  listener_->Close();
  if (!result_.ok()) return DetachRest("there is no dismd-front");
  BrokerToFront message;
  message.mutable_stop()->set_grace_milliseconds(static_cast<uint32_t>(options_.grace.count()));
  front_->Send(message);
  loop_.After(options_.grace + kStopSlack, [this] { DetachRest("the time to stop is over"); });
}

void Broker::DetachRest(const char* why) {
  if (phase_ != Phase::kStopping) return;
  phase_ = Phase::kDetaching;
  if (!slots_->empty()) Log(Severity::kInfo, absl::StrCat(why, "; taking away what is left"));
  loop_.After(kDetachDeadline, [this] {
    if (phase_ != Phase::kDetaching) return;
    Log(Severity::kError, "some mounts could not be taken away in time; they are named above");
    EndFront();
  });
  slots_->DetachAll([this] { EndFront(); });
}

void Broker::EndFront() {
  if (phase_ != Phase::kDetaching) return;
  phase_ = Phase::kEnding;
  front_->Stop([this] {
    Log(Severity::kInfo, "stopped");
    loop_.Quit();
  });
}

}  // namespace dismd
