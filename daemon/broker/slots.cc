// SPDX-License-Identifier: GPL-3.0-or-later
//
// The way up: from two paths to a visible mount. The way down is in slots_release.cc.

#include "daemon/broker/slots.h"

#include <limits.h>
#include <signal.h>
#include <time.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/mount_fuse.h"
#include "daemon/broker/mountinfo.h"
#include "daemon/broker/reply.h"
#include "daemon/broker/rootless_mount.h"
#include "daemon/broker/scratch_directory.h"

namespace dismd {

using internal::BrokerReply;
using internal::FrontToBroker;
using libmount::Log;
using libmount::LogContext;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

uint64_t SlotIdOf(const FrontToBroker& request) {
  switch (request.message_case()) {
    case FrontToBroker::kStartWorker: return request.start_worker().slot_id();
    case FrontToBroker::kCreateMount: return request.create_mount().slot_id();
    case FrontToBroker::kAttachMount: return request.attach_mount().slot_id();
    case FrontToBroker::kUnmount: return request.unmount().slot_id();
    case FrontToBroker::kReleaseSlot: return request.release_slot().slot_id();
    case FrontToBroker::kUpdateRecord: return request.update_record().slot_id();
    default: return 0;
  }
}

}  // namespace

Slots::Slots(EventLoop* loop, const BrokerOptions* options, const RecordStore* records, const StagingStore* staging,
             Events events)
    : loop_(loop),
      options_(options),
      records_(records),
      staging_(staging),
      events_(std::move(events)),
      spare_(loop, options->worker_program),
      children_(loop) {}

Slots::~Slots() {
  for (auto& [id, slot] : slots_) slot->worker.Forget(loop_);
}

Slots::Slot* Slots::Find(uint64_t id) {
  auto found = slots_.find(id);
  return found == slots_.end() ? nullptr : found->second.get();
}

LogContext Slots::ContextOf(const Slot& slot) const { return {"", slot.record.mount_id(), slot.owner.uid()}; }

std::vector<OwnMount> Slots::OwnMounts() const {
  std::vector<OwnMount> mounts;
  for (const auto& [id, slot] : slots_) {
    if (slot->state == State::kMounted) mounts.push_back({id, slot->record.mount()});
  }
  return mounts;
}

void Slots::InspectPaths(const internal::Identity& caller, uint64_t request_id, const internal::InspectPaths& request,
                         Reply reply) {
  Inspect(caller, request_id, request, nullptr, reply);
}

void Slots::Inspect(const internal::Identity& caller, uint64_t request_id, const internal::InspectPaths& request,
                    const internal::SlotRecord* dormant, const Reply& reply) {
  if (slots_.size() >= kMaxSlots) {
    return ReplyError(reply, MakeError(Reason::kTooManyMounts,
                                       absl::StrCat("there are ", kMaxSlots, " mounts already; unmount some first")));
  }
  if (!IsAbsolutePath(request.image_path()) ||
      (!request.mount_path().empty() && !IsAbsolutePath(request.mount_path()))) {
    return ReplyError(reply, MakeError(Reason::kInvalidPath, "a path must be absolute and shorter than 4096 bytes"));
  }
  auto answer = std::make_shared<internal::InspectAnswer>();
  ChildRunner::Job job;
  job.uid = caller.uid();
  job.ticket = request_id;
  job.deadline = options_->path_deadline;
  job.answer = answer;
  internal::SlotRecord left = dormant != nullptr ? *dormant : internal::SlotRecord();
  job.work = [this, caller, request, left, answer](google::protobuf::MessageLite*, std::vector<int>* fds) {
    InspectPathsAs(caller, request, OwnMounts(), answer.get(), fds);
    if (!left.scratch_directory().empty()) InspectScratch(left, answer->mutable_facts());
  };
  job.done = [this, caller, answer, request, reply](ChildOutcome outcome) {
    if (absl::Status failed = StatusOf(outcome, request.image_path() + " or " + request.mount_path()); !failed.ok()) {
      return ReplyError(reply, failed);
    }
    OnInspected(caller, *answer, std::move(outcome), reply);
  };
  children_.Run(std::move(job));
}

void Slots::OnInspected(const internal::Identity& caller, const internal::InspectAnswer& answer, ChildOutcome outcome,
                        const Reply& reply) {
  if (when_empty_) return ReplyError(reply, MakeError(Reason::kShuttingDown, "the service is stopping"));
  auto slot = std::make_unique<Slot>();
  slot->id = next_id_++;
  slot->owner = caller;
  slot->owner.set_pid(0);
  size_t next = 0;
  auto take = [&](bool present) {
    return present && next < outcome.fds.size() ? std::move(outcome.fds[next++]) : UniqueFd();
  };
  slot->image = take(answer.has_image());
  slot->image_directory = take(answer.has_image_directory());
  slot->mount_point = take(answer.has_mount_point());
  slot->mount_parent = take(answer.has_mount_parent());
  slot->mount_name = answer.mount_name();
  slot->record.set_version(kRecordVersion);
  slot->record.set_slot_id(slot->id);
  *slot->record.mutable_owner() = slot->owner;
  slot->record.set_image_path(answer.facts().image_real_path());
  slot->record.set_image_device(answer.facts().image_device());
  slot->record.set_image_inode(answer.facts().image_inode());
  slot->record.set_mount_path(answer.facts().mount_real_path());

  BrokerReply message;
  *message.mutable_path_facts() = answer.facts();
  message.mutable_path_facts()->set_slot_id(slot->id);
  slots_.emplace(slot->id, std::move(slot));
  reply(std::move(message), {});
}

void Slots::ResolvePath(const internal::Identity& caller, uint64_t request_id, const internal::ResolvePath& request,
                        Reply reply) {
  if (!IsAbsolutePath(request.path())) {
    return ReplyError(reply, MakeError(Reason::kInvalidPath, "a path must be absolute and shorter than 4096 bytes"));
  }
  auto answer = std::make_shared<internal::ResolveAnswer>();
  ChildRunner::Job job;
  job.uid = caller.uid();
  job.ticket = request_id;
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.work = [this, caller, path = request.path(), answer](google::protobuf::MessageLite*, std::vector<int>*) {
    ResolvePathAs(caller, path, OwnMounts(), answer.get());
  };
  job.done = [answer, reply, path = request.path()](ChildOutcome outcome) {
    if (absl::Status failed = StatusOf(outcome, path); !failed.ok()) return ReplyError(reply, failed);
    BrokerReply message;
    if (answer->has_error()) *message.mutable_error() = answer->error();
    if (answer->has_resolved()) *message.mutable_paths_resolved() = answer->resolved();
    reply(std::move(message), {});
  };
  children_.Run(std::move(job));
}

void Slots::Handle(const FrontToBroker& request, Reply reply) {
  if (request.has_discard_staging()) return DiscardStaging(request.discard_staging(), reply);
  Slot* slot = Find(SlotIdOf(request));
  if (slot == nullptr) return ReplyError(reply, MakeError(Reason::kNotMounted, "there is no such slot"));
  if (!slot->busy) return Begin(slot, Pending{request, std::move(reply)});
  if (slot->waiting.size() >= kMaxRequestsWaiting) {
    return ReplyError(reply, MakeError(Reason::kTooManyOperations, "too many requests wait for this mount"));
  }
  slot->waiting.push_back(Pending{request, std::move(reply)});
}

void Slots::Begin(Slot* slot, Pending pending) {
  slot->busy = true;
  uint64_t id = slot->id;
  const FrontToBroker& request = pending.request;
  if (request.message_case() == FrontToBroker::kReleaseSlot) {
    const internal::ReleaseSlot& release = request.release_slot();
    slot->keep_staging = release.keep_staging() && slot->staging.valid();
    if (!release.registry_record().empty() && release.registry_record().size() <= kMaxRegistryRecord) {
      slot->record.set_registry_record(release.registry_record());
    }
    return Release(slot, [reply = pending.reply] { reply(BrokerReply(), {}); });
  }
  Reply reply = [this, id, to = std::move(pending.reply)](BrokerReply message, std::vector<UniqueFd> fds) {
    to(std::move(message), std::move(fds));
    EndStep(id);
  };
  switch (request.message_case()) {
    case FrontToBroker::kStartWorker: return StartWorker(slot, request.start_worker(), reply);
    case FrontToBroker::kCreateMount: return CreateMount(slot, request.create_mount(), reply);
    case FrontToBroker::kAttachMount: return AttachMount(slot, request.attach_mount(), reply);
    case FrontToBroker::kUnmount: return HandleUnmount(slot, request.unmount(), reply);
    case FrontToBroker::kUpdateRecord: return UpdateRecord(slot, request.update_record(), reply);
    default: return ReplyError(reply, MakeError(Reason::kNotImplemented, "an unknown request"));
  }
}

void Slots::UpdateRecord(Slot* slot, const internal::UpdateRecord& request, const Reply& reply) {
  if (slot->state != State::kMounted || request.registry_record().size() > kMaxRegistryRecord) {
    return ReplyError(reply, MakeError(Reason::kNotMounted, "this slot is not mounted"));
  }
  slot->record.set_registry_record(request.registry_record());
  absl::Status saved = records_->Save(slot->record);
  if (!saved.ok()) return ReplyError(reply, MakeError(Reason::kOutOfResources, std::string(saved.message())));
  reply(BrokerReply(), {});
}

void Slots::EndStep(uint64_t slot_id) {
  Slot* slot = Find(slot_id);
  if (slot == nullptr) return;
  slot->busy = false;
  if (std::exchange(slot->release_unless_mounted, false) && slot->state != State::kMounted && !IsHeld(*slot)) {
    QueueRelease(slot_id);
    return RunQueuedReleases();
  }
  if (slot->waiting.empty()) return;
  Pending next = std::move(slot->waiting.front());
  slot->waiting.pop_front();
  Begin(slot, std::move(next));
}

void Slots::CreateMount(Slot* slot, const internal::CreateMount& request, const Reply& reply) {
  if (slot->state != State::kInspected || !slot->worker.running() || !slot->mount_point || !slot->mount_parent ||
      (!request.read_only() && !slot->staging)) {
    return ReplyError(reply, MakeError(slot->worker.running() ? Reason::kMountPointNotFound : Reason::kWorkerDied,
                                       "this slot cannot be mounted now"));
  }
  slot->record.set_read_only(request.read_only());
  slot->record.set_allow_other(request.allow_other());
  FuseMountRequest mount{slot->owner, request.read_only(), request.allow_other(), request.description()};
  auto answer = std::make_shared<internal::CreateAnswer>();
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  if (options_->rootless) {
    job.keep = {slot->mount_point.get(), slot->mount_parent.get()};
    job.work = [mount, answer, slot](google::protobuf::MessageLite*, std::vector<int>* fds) {
      CreateRootlessMount(mount, slot->mount_point.get(), slot->mount_parent.get(), slot->mount_name, answer.get(),
                          fds);
    };
  } else {
    job.work = [mount, answer](google::protobuf::MessageLite*, std::vector<int>* fds) {
      CreateFuseMount(mount, answer.get(), fds);
    };
  }
  job.done = [this, slot, answer, reply](ChildOutcome outcome) { OnCreated(slot, *answer, std::move(outcome), reply); };
  children_.Run(std::move(job));
}

void Slots::OnCreated(Slot* slot, const internal::CreateAnswer& answer, ChildOutcome outcome, const Reply& reply) {
  if (absl::Status failed = StatusOf(outcome, slot->record.mount_path()); !failed.ok()) {
    return ReplyError(reply, failed);
  }
  if (answer.has_error()) return ReplyError(reply, answer.error());
  if (outcome.fds.size() != (options_->rootless ? 1U : 2U)) {
    return ReplyError(reply, MakeError(Reason::kOutOfResources, "no descriptors are left for a mount"));
  }
  slot->state = State::kCreated;
  *slot->record.mutable_mount() = answer.mount();
  slot->fuse = std::move(outcome.fds[0]);
  if (!options_->rootless) slot->detached_mount = std::move(outcome.fds[1]);
  if (!answer.warning().empty()) Log(Severity::kWarning, ContextOf(*slot), answer.warning());
  UniqueFd for_worker = slot->fuse.Duplicate();
  if (!for_worker || !slot->worker_queue) {
    return ReplyError(reply, MakeError(Reason::kWorkerDied, "the worker has ended while its mount was made"));
  }
  internal::BrokerToWorker message;
  message.mutable_fuse_descriptor();
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(for_worker));
  slot->worker_queue->Send(message, std::move(fds));
  reply(BrokerReply(), {});
}

void Slots::AttachMount(Slot* slot, const internal::AttachMount& request, const Reply& reply) {
  if (slot->state != State::kCreated || request.registry_record().size() > kMaxRegistryRecord) {
    return ReplyError(reply, MakeError(Reason::kUnspecified, "this slot has no mount to attach"));
  }
  if (!slot->worker.running()) {
    return ReplyError(reply, MakeError(Reason::kWorkerDied, "the worker has ended while its mount was made"));
  }
  slot->record.set_registry_record(request.registry_record());
  slot->record.set_mount_time(time(nullptr));
  // On disk before anyone can see the mount: a broker that dies in between leaves nothing unknown.
  slot->keep_staging = slot->staging.valid();
  slot->record.set_staging_unwanted(false);
  if (absl::Status saved = records_->Save(slot->record); !saved.ok()) {
    return ReplyError(reply, MakeError(Reason::kOutOfResources, std::string(saved.message())));
  }
  auto answer = std::make_shared<internal::AttachAnswer>();
  if (options_->rootless) {  // visible already
    ChildOutcome outcome;
    outcome.end = ChildOutcome::End::kAnswered;
    if (!IsAttached(ReadMountinfo(), slot->record.mount())) {
      SetError(MakeError(Reason::kNotMounted, "the mount was taken away while it was made"), answer->mutable_error());
    }
    return OnAttached(slot, *answer, outcome, reply);
  }
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.keep = {slot->detached_mount.get(), slot->mount_point.get(), slot->mount_parent.get()};
  job.work = [slot, answer](google::protobuf::MessageLite*, std::vector<int>*) {
    AttachFuseMount(slot->owner, slot->detached_mount.get(), slot->mount_point.get(), slot->mount_parent.get(),
                    slot->mount_name, answer.get());
  };
  job.done = [this, slot, answer, reply](ChildOutcome outcome) { OnAttached(slot, *answer, outcome, reply); };
  DetachLateMount(*slot, &job);
  children_.Run(std::move(job));
}

void Slots::OnAttached(Slot* slot, const internal::AttachAnswer& answer, const ChildOutcome& outcome,
                       const Reply& reply) {
  absl::Status failed = StatusOf(outcome, slot->record.mount_path());
  if (!failed.ok() || answer.has_error()) {
    if (!options_->rootless) {
      // Still ours alone: the descriptor keeps its device number from being anyone else's.
      if (slot->detached_mount) AbortConnection(slot->record.mount());
      slot->detached_mount.reset();
      slot->fuse.reset();
      slot->state = State::kUnmounted;
      // A remount that did not work leaves the mount as it was before: its record is the one before, too.
      slot->keep_staging = slot->remounted_from != 0;
      ForgetRecord(*slot);
    }
    return failed.ok() ? ReplyError(reply, answer.error()) : ReplyError(reply, failed);
  }
  slot->state = State::kMounted;
  if (slot->remounted_from != 0) ForgetDormant(std::exchange(slot->remounted_from, 0));
  slot->detached_mount.reset();
  slot->mount_point.reset();
  Log(Severity::kInfo, ContextOf(*slot),
      absl::StrCat("mounted ", slot->record.image_path(), " at ", slot->record.mount_path()));
  reply(BrokerReply(), {});
  PrepareWorker();
}

}  // namespace dismd
