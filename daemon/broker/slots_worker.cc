// SPDX-License-Identifier: GPL-3.0-or-later
//
// Workers of slots: started, and replaced when they die under a mount.
//
// A replacement gets the descriptors that the dead one had (copies of which are kept here): /dev/fuse, the image, the
// staging directory, and the record of requests under way. It starts when the old one is surely dead, since two that
// read from one /dev/fuse would take requests from each other.

#include <signal.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/mountinfo.h"
#include "daemon/broker/reply.h"
#include "daemon/broker/slots.h"
#include "libmount/fuse/inflight_table.h"

namespace dismd {

using internal::BrokerReply;
using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

// Messages that a worker may leave unread: descriptors that it asked for.
constexpr size_t kMaxWaitingForWorker = 64;
// Between the closing of a worker's descriptors and its end: mostly nothing.
constexpr std::chrono::milliseconds kDyingWorkerPatience(200);

}  // namespace

void Slots::StartWorker(Slot* slot, const internal::StartWorker& request, const Reply& reply) {
  if (slot->worker.running() || slot->state != State::kInspected || !slot->image ||
      request.mount_id().size() > kMaxMountIdLength || request.operation_id().size() > kMaxMountIdLength) {
    return ReplyError(reply, MakeError(Reason::kUnspecified, "this slot cannot have a worker now"));
  }
  slot->record.set_mount_id(request.mount_id());
  slot->operation_id = request.operation_id();
  TakeStaging(slot, request, [this, slot, reply](const absl::Status& taken) {
    if (!taken.ok()) return ReplyError(reply, taken);
    StartWorkerNow(slot, reply);
  });
}

void Slots::StartWorkerNow(Slot* slot, const Reply& reply) {
  absl::StatusOr<UniqueFd> control = StartWorkerProcess(slot);
  if (!control.ok()) {
    return ReplyError(reply, MakeError(Reason::kOutOfResources, std::string(control.status().message())));
  }
  Log(Severity::kInfo, {slot->operation_id, slot->record.mount_id(), slot->owner.uid()},
      absl::StrCat("worker ", slot->worker.pid(), " started for ", slot->record.image_path()));
  BrokerReply message;
  message.mutable_worker_started()->set_pid(slot->worker.pid());
  message.mutable_worker_started()->set_scratch_directory(slot->record.scratch_directory());
  std::vector<UniqueFd> fds;
  fds.push_back(*std::move(control));
  reply(std::move(message), std::move(fds));
}

absl::StatusOr<UniqueFd> Slots::StartWorkerProcess(Slot* slot) {
  auto control = Channel::CreatePair();
  auto broker = Channel::CreatePair();
  if (!control.ok() || !broker.ok()) return absl::ResourceExhaustedError("no descriptors are left for a worker");
  ProgramStart start;
  start.path = options_->worker_program;
  // For its log lines.
  start.arguments = {absl::StrCat("--mount-id=", slot->record.mount_id()),
                     absl::StrCat("--operation-id=", slot->operation_id)};
  // Root needs no leave to adopt it.
  if (options_->rootless) start.arguments.push_back("--adoptable");
  // It keeps our end of its socket as well, unread: a broker that takes over gets that from it, and goes on talking.
  start.fds = {control->second.get(), broker->second.get(), slot->image.get(), broker->first.get()};
  if (slot->staging) start.fds.push_back(slot->staging.get());
  // What parses an image has the rights of the user who asked, and never those of root.
  start.user = slot->owner.uid() == 0 ? UserIds{kRootsWorkerUid, kRootsWorkerUid, {}} : IdsOf(slot->owner);
  slot->worker = spare_.Become(start);
  if (!slot->worker.running()) {
    absl::StatusOr<Process> worker = StartProgram(start);
    if (!worker.ok()) return worker.status();
    slot->worker = *std::move(worker);
  }
  slot->record.set_worker_pid(slot->worker.pid());
  slot->record.set_worker_start_time(slot->worker.start_time());
  WatchWorker(slot, std::move(broker->first));
  return std::move(control->first);
}

void Slots::WatchWorker(Slot* slot, UniqueFd socket) {
  uint64_t id = slot->id;
  absl::Status watched = slot->worker.WatchExit(loop_, [this, id](int status) { OnWorkerExit(id, status); });
  if (!watched.ok()) Log(Severity::kError, ContextOf(*slot), watched.ToString());
  slot->worker_queue = std::make_unique<MessageQueue>(
      loop_, std::move(socket), std::make_unique<internal::WorkerToBroker>(), kMaxWaitingForWorker,
      [this, id](const google::protobuf::MessageLite& message, std::vector<UniqueFd> fds) {
        OnWorkerMessage(id, static_cast<const internal::WorkerToBroker&>(message), std::move(fds));
      },
      // Its exit tells more than its closed socket. One that sends nonsense is no worker any more.
      [this, id](absl::Status status) {
        if (status.ok()) return OnWorkerSocketClosed(id);
        if (Slot* ended = Find(id); ended != nullptr) ended->worker.Signal(SIGKILL);
      });
}

// All threads of the worker have let their descriptors go: it has ended, but for one thread perhaps that told the
// kernel something, and waits there for what only a replacement can answer (libmount/fuse/notifying_thread.h).
void Slots::OnWorkerSocketClosed(uint64_t slot_id) {
  Slot* slot = Find(slot_id);
  if (slot == nullptr || !slot->worker.running()) return;
  slot->worker.Signal(SIGKILL);
  loop_->After(kDyingWorkerPatience, [this, slot_id, pid = slot->worker.pid()] {
    Slot* late = Find(slot_id);
    if (late == nullptr || late->worker.pid() != pid || !IsReplaceableNow(*late)) return;
    Log(Severity::kWarning, ContextOf(*late),
        absl::StrCat("worker ", pid, " has ended but for a thread that waits in the kernel"));
    auto dying = dying_.insert(dying_.end(), late->worker.TakeOut(loop_));
    absl::Status watched = dying->WatchExit(loop_, [this, dying](int) { dying_.erase(dying); });
    if (!watched.ok()) Log(Severity::kError, ContextOf(*late), watched.ToString());
    OnWorkerExit(slot_id, SIGKILL);
  });
}

void Slots::OnServingState(Slot* slot, const internal::ServingState& state, std::vector<UniqueFd> fds) {
  if (state.ByteSizeLong() > kMaxServingState || fds.size() > 1) return slot->worker.Signal(SIGKILL);
  *slot->record.mutable_serving_state() = state;
  if (!fds.empty()) slot->recovery = std::move(fds[0]);
  if (slot->state != State::kMounted) return;  // saved when it is
  absl::Status saved = records_->Save(slot->record);
  if (!saved.ok()) Log(Severity::kWarning, ContextOf(*slot), saved.ToString());
}

// What the dead workers of a mount have got done, as the record of requests under way counts it.
uint64_t Slots::AnsweredRequests(int recovery_fd) {
  absl::StatusOr<uint64_t> answered = libmount::InflightTable::CountAnswered(recovery_fd);
  return answered.ok() ? *answered : 0;
}

// Whether a worker that dies now is to be replaced, as far as the slot's state tells.
bool Slots::IsReplaceableNow(const Slot& slot) const {
  return !slot.image_unknown && slot.state == State::kMounted && when_empty_ == nullptr &&
         slot.when_worker_ended == nullptr && slot.fuse && slot.record.has_serving_state();
}

// Whether a worker that has died just now is to be replaced. Counts deaths that nothing came of.
bool Slots::IsReplaceable(Slot* slot) const {
  if (!IsReplaceableNow(*slot)) return false;
  uint64_t answered = AnsweredRequests(slot->recovery.get());
  slot->fruitless_deaths = answered == slot->answered ? slot->fruitless_deaths + 1 : 0;
  slot->answered = answered;
  return slot->fruitless_deaths <= kMaxFruitlessDeaths;
}

bool Slots::ReplaceWorker(Slot* slot) {
  UniqueFd fuse = slot->fuse.Duplicate();
  UniqueFd recovery = slot->recovery ? slot->recovery.Duplicate() : UniqueFd();
  absl::StatusOr<UniqueFd> control = absl::ResourceExhaustedError("no descriptors are left for a worker");
  if (fuse && (recovery.valid() || !slot->recovery)) control = StartWorkerProcess(slot);
  if (!control.ok()) {
    Log(Severity::kError, ContextOf(*slot), absl::StrCat("cannot replace the worker: ", control.status().ToString()));
    return false;
  }
  internal::BrokerToWorker message;
  *message.mutable_resume()->mutable_state() = slot->record.serving_state();
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(fuse));
  if (recovery) fds.push_back(std::move(recovery));
  slot->worker_queue->Send(message, std::move(fds));
  Log(Severity::kWarning, ContextOf(*slot),
      absl::StrCat("worker ", slot->worker.pid(), " replaces the one that died under ", slot->record.mount_path()));
  if (absl::Status saved = records_->Save(slot->record); !saved.ok()) {
    Log(Severity::kWarning, ContextOf(*slot), saved.ToString());
  }
  events_.worker_replaced(slot->id, slot->worker.pid(), *std::move(control));
  return true;
}

}  // namespace dismd
