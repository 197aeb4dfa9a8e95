// SPDX-License-Identifier: GPL-3.0-or-later
//
// What outlives processes: mounts that a new front is told of, mounts whose workers a new broker adopts, and dormant
// ones: not mounted, but their staged edits are kept until they are remounted or thrown away.

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/mountinfo.h"
#include "daemon/broker/reply.h"
#include "daemon/broker/slots.h"

namespace dismd {

using internal::BrokerReply;
using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

// Where a worker has what (daemon/worker/sandbox.h).
constexpr int kWorkerImageFd = 5;
constexpr int kWorkerBrokerEndFd = 6;
constexpr int kWorkerStagingFd = 7;

// glibc 2.36 has no pidfd_getfd for C++.
UniqueFd TakeFrom(const UniqueFd& process, int fd) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
}

internal::KnownSlot Describe(const internal::SlotRecord& record) {
  internal::KnownSlot known;
  known.set_mount_id(record.mount_id());
  *known.mutable_owner() = record.owner();
  known.set_image_path(record.image_path());
  known.set_mount_path(record.mount_path());
  known.set_read_only(record.read_only());
  known.set_allow_other(record.allow_other());
  known.set_mount_time(record.mount_time());
  known.set_registry_record(record.registry_record());
  known.set_image_device(record.image_device());
  known.set_image_inode(record.image_inode());
  known.set_scratch_directory(record.scratch_directory());
  return known;
}

}  // namespace

void Slots::Introduce(const std::function<void(const internal::KnownSlot&, std::vector<UniqueFd>)>& tell) {
  for (auto& [id, slot] : slots_) {
    const bool held = IsHeld(*slot);
    if (slot->state != State::kMounted && !held) continue;
    internal::KnownSlot known = Describe(slot->record);
    known.set_slot_id(id);
    known.set_held(held);
    std::vector<UniqueFd> for_front;
    auto control = Channel::CreatePair();
    if (slot->worker_queue && control.ok()) {
      known.set_worker_pid(slot->worker.pid());
      for_front.push_back(std::move(control->first));
      internal::BrokerToWorker message;
      message.mutable_new_control();
      std::vector<UniqueFd> for_worker;
      for_worker.push_back(std::move(control->second));
      slot->worker_queue->Send(message, std::move(for_worker));
    }
    tell(known, std::move(for_front));
  }
  for (const auto& [id, record] : dormant_) {
    internal::KnownSlot known = Describe(record);
    known.set_needs_remount(true);
    tell(known, {});
  }
}

void Slots::InspectDormant(uint64_t request_id, const internal::InspectPaths& request, Reply reply) {
  auto dormant = dormant_.find(request.remount_of());
  if (dormant == dormant_.end()) return ReplyError(reply, MakeError(Reason::kNotMounted, "there is no such mount"));
  // Nothing but what the owner has named: a front that was taken over gets no other files with somebody's rights.
  internal::InspectPaths own = request;
  own.set_image_path(dormant->second.image_path());
  own.set_mount_path(dormant->second.mount_path());
  Inspect(dormant->second.owner(), request_id, own, &dormant->second, reply);
}

void Slots::DiscardStaging(const internal::DiscardStaging& request, const Reply& reply) {
  auto dormant = dormant_.find(request.mount_id());
  if (dormant == dormant_.end()) return ReplyError(reply, MakeError(Reason::kNotMounted, "there is no such mount"));
  Log(Severity::kInfo, {"", request.mount_id(), dormant->second.owner().uid()},
      absl::StrCat("throwing away the staged edits of ", dormant->second.mount_path()));
  internal::SlotRecord record = std::move(dormant->second);
  dormant_.erase(dormant);
  if (!record.scratch_directory().empty()) return RemoveScratch(record, [reply] { reply(BrokerReply(), {}); });
  // The record last: one without a directory can be told from a mount, a directory without a record is a stray one.
  RemoveStaging(request.mount_id(), record.owner().uid(), [this, id = record.slot_id(), reply] {
    records_->Remove(id);
    reply(BrokerReply(), {});
  });
}

// A slot goes whose edits are kept: its record stays, as that of a dormant mount.
void Slots::BecomeDormant(Slot* slot) {
  slot->staging.reset();
  if (slot->remounted_from != 0) return;  // a remount that came to nothing: still dormant, as it was
  slot->record.clear_mount();
  slot->record.clear_serving_state();
  slot->record.set_worker_pid(0);
  slot->record.set_needs_remount(true);
  if (absl::Status saved = records_->Save(slot->record); !saved.ok()) {
    Log(Severity::kError, ContextOf(*slot), saved.ToString());
  }
  Log(Severity::kInfo, ContextOf(*slot), absl::StrCat("keeping the staged edits of ", slot->record.mount_path()));
  dormant_[slot->record.mount_id()] = slot->record;
}

void Slots::ForgetDormant(uint64_t record_id) {
  records_->Remove(record_id);
  std::erase_if(dormant_, [record_id](const auto& entry) { return entry.second.slot_id() == record_id; });
}

// Goes on with a mount whose worker lives: its descriptors are copied out of it, and so is the other end of its socket
// to the broker, with whatever it has sent since.
bool Slots::Adopt(const internal::SlotRecord& record) {
  if (record.worker_pid() <= 0 || record.worker_start_time() == 0 || !record.has_serving_state()) return false;
  auto slot = std::make_unique<Slot>();
  UniqueFd worker = PidfdOpen(record.worker_pid());
  // Only a process that is surely the worker of then: a pid alone may be anyone's by now.
  if (!worker || ProcessStartTime(record.worker_pid()) != record.worker_start_time()) return false;
  UniqueFd socket = TakeFrom(worker, kWorkerBrokerEndFd);
  slot->fuse = TakeFrom(worker, record.serving_state().fuse_fd());
  slot->image = TakeFrom(worker, kWorkerImageFd);
  bool complete = socket && slot->fuse && slot->image;
  if (!record.read_only()) slot->staging = TakeFrom(worker, kWorkerStagingFd);
  if (record.serving_state().recovery_fd() != 0) {
    slot->recovery = TakeFrom(worker, record.serving_state().recovery_fd());
    complete = complete && slot->recovery;
  }
  if (!complete || (!record.read_only() && !slot->staging)) {
    Log(Severity::kWarning, {"", record.mount_id(), record.owner().uid()},
        absl::StrCat("cannot take the descriptors of worker ", record.worker_pid()));
    return false;
  }
  slot->id = record.slot_id();
  slot->state = State::kMounted;
  slot->owner = record.owner();
  slot->record = record;
  slot->keep_staging = slot->staging.valid();
  slot->image_unknown = record.temporary();  // until the worker says what has become of it
  slot->answered = AnsweredRequests(slot->recovery.get());
  slot->worker = Process::Adopt(record.worker_pid(), record.worker_start_time(), std::move(worker));
  Slot* adopted = slot.get();
  slots_.emplace(record.slot_id(), std::move(slot));
  WatchWorker(adopted, std::move(socket));
  // Of a remount that was just being done.
  if (auto before = dormant_.find(record.mount_id()); before != dormant_.end()) ForgetDormant(before->second.slot_id());
  Log(Severity::kInfo, ContextOf(*adopted), absl::StrCat("adopted ", record.mount_path()));
  return true;
}

void Slots::TakeOver(std::function<void()> done) {
  // Counts the records being worked on, and one for this function itself.
  auto left = std::make_shared<int>(1);
  auto finish_one = [this, left, done] {
    if (--*left != 0) return;
    ForgetStrayStaging();
    done();
  };
  for (const internal::SlotRecord& record : records_->LoadAll()) {
    next_id_ = std::max(next_id_, record.slot_id() + 1);
    std::optional<MountinfoEntry> entry = FindMount(ReadMountinfo(), record.mount().mount_id());
    bool mounted = !record.needs_remount() && entry.has_value() && entry->type == "fuse.dismd" &&
                   IsAttached(ReadMountinfo(), record.mount());
    if (mounted && Adopt(record)) continue;
    if (record.temporary()) RemoveTemporary(record);
    UniqueFd worker = record.worker_pid() > 0 ? PidfdOpen(record.worker_pid()) : UniqueFd();
    if (worker && record.worker_start_time() != 0 &&
        ProcessStartTime(record.worker_pid()) == record.worker_start_time()) {
      PidfdSignal(worker, SIGKILL);
    }
    if (!mounted) {
      KeepLeftover(record);
      continue;
    }
    ++*left;
    internal::SlotRecord now = record;
    now.set_mount_path(entry->mount_point);
    TakeAwayLeftover(now, [this, record, finish_one] {
      KeepLeftover(record);
      finish_one();
    });
  }
  finish_one();
}

void Slots::TakeAwayLeftover(const internal::SlotRecord& record, std::function<void()> done) {
  UnmountRequest request;
  request.owner = record.owner();
  request.mount = record.mount();
  request.path = record.mount_path();
  request.detach = true;
  request.rootless = options_->rootless;
  RunUnmount(request, record.owner().uid(), [record, done](const internal::UnmountAnswer&, const absl::Status& status) {
    Log(Severity::kWarning, {"", record.mount_id(), record.owner().uid()},
        absl::StrCat("left by a dismd that died: ", record.mount_path(),
                     status.ok() ? ", now detached" : ", which cannot be detached: ", std::string(status.message())));
    done();
  });
}

// A record whose mount is not there any more: of its edits, where it has any, it stays the record.
void Slots::KeepLeftover(internal::SlotRecord record) {
  if (record.staging_unwanted()) return RemoveScratch(std::move(record), [] {});
  // One in a directory of the owner's is looked for when it is wanted.
  const bool staged =
      !record.read_only() && (!record.scratch_directory().empty() || staging_->Find(record.mount_id()).ok());
  bool superseded =
      dormant_.count(record.mount_id()) != 0 || std::any_of(slots_.begin(), slots_.end(), [&](const auto& entry) {
        return entry.second->record.mount_id() == record.mount_id();
      });
  if (!staged || superseded) return records_->Remove(record.slot_id());
  record.clear_mount();
  record.clear_serving_state();
  record.set_worker_pid(0);
  record.set_temporary(false);
  record.set_needs_remount(true);
  records_->Save(record).IgnoreError();  // what was there before says the same, to a broker that looks
  dormant_[record.mount_id()] = std::move(record);
}

// Of mounts that were never seen: the record is there before.
void Slots::ForgetStrayStaging() {
  std::set<std::string> known;
  for (const auto& [id, record] : dormant_) known.insert(id);
  for (const auto& [id, slot] : slots_) known.insert(slot->record.mount_id());
  for (const std::string& mount_id : staging_->List()) {
    if (known.count(mount_id) == 0) RemoveStaging(mount_id, geteuid(), [] {});
  }
}

void Slots::LetGo() {
  for (auto& [id, slot] : slots_) slot->worker.Forget(loop_);
}

}  // namespace dismd
