// SPDX-License-Identifier: GPL-3.0-or-later
//
// The way down: unmounting, workers that end, and leaving nothing behind.

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
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

bool IsDisk(const std::string& image_path) {
  return absl::EndsWithIgnoreCase(image_path, ".vhd") || absl::EndsWithIgnoreCase(image_path, ".vhdx");
}

}  // namespace

void Slots::Unmount(Slot* slot, bool detach, UnmountDone done) {
  UnmountRequest request;
  request.owner = slot->owner;
  request.mount = slot->record.mount();
  request.parent_fd = slot->mount_parent.get();
  request.name = slot->mount_name;
  request.path = slot->record.mount_path();
  request.detach = detach;
  request.rootless = options_->rootless;
  RunUnmount(request, slot->owner.uid(),
             [this, slot, done](const internal::UnmountAnswer& answer, absl::Status status) {
               if (status.ok()) MarkUnmounted(slot);
               done(answer, status);
             });
}

void Slots::RunUnmount(const UnmountRequest& request, uint32_t uid, UnmountDone done) {
  auto answer = std::make_shared<internal::UnmountAnswer>();
  ChildRunner::Job job;
  job.uid = uid;
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.unlimited = when_empty_ != nullptr || request.parent_fd < 0;  // cleaning up does not stand in the user's queue
  if (request.parent_fd >= 0) job.keep = {request.parent_fd};
  job.work = [request, answer](google::protobuf::MessageLite*, std::vector<int>*) { UnmountAs(request, answer.get()); };
  job.done = [answer, request, done](ChildOutcome outcome) {
    absl::Status status = StatusOf(outcome, request.path);
    if (status.ok() && answer->has_error()) {
      status = MakeError(static_cast<Reason>(answer->error().reason()), answer->error().message());
    }
    done(*answer, status);
  };
  children_.Run(std::move(job));
}

void Slots::MarkUnmounted(Slot* slot) {
  slot->state = State::kUnmounted;
  slot->detached_mount.reset();
  slot->fuse.reset();
  slot->mount_parent.reset();
  if (!slot->keep_staging) return ForgetRecord(*slot);
  // Whatever becomes of its edits is decided when the slot is released. Until then they belong to nobody but this.
  slot->record.clear_mount();
  slot->record.set_needs_remount(true);
  if (absl::Status saved = records_->Save(slot->record); !saved.ok()) {
    Log(Severity::kError, ContextOf(*slot), saved.ToString());
  }
}

bool Slots::IsVisible(const Slot& slot) const {
  return slot.state == State::kMounted || (slot.state == State::kCreated && options_->rootless);
}

void Slots::HandleUnmount(Slot* slot, const internal::Unmount& request, const Reply& reply) {
  slot->held = request.hold();
  if (slot->state == State::kInspected) {
    return ReplyError(reply, MakeError(Reason::kNotMounted, "this slot is not mounted"));
  }
  if (!IsVisible(*slot)) {
    MarkUnmounted(slot);
    return reply(BrokerReply(), {});
  }
  Unmount(slot, request.detach(),
          [this, slot, reply, detach = request.detach()](const internal::UnmountAnswer& answer,
                                                         const absl::Status& status) {
            BrokerReply message;
            if (status.ok()) {
              // Where the kernel offers no way to abort the connection (fusectl is not mounted), the worker's end does
              // it: whoever still waits for the detached mount gets an error.
              if (detach) slot->worker.Signal(SIGKILL);
              Log(Severity::kInfo, ContextOf(*slot),
                  absl::StrCat(answer.was_gone() ? "found unmounted: "
                               : detach          ? "detached "
                                                 : "unmounted ",
                               slot->record.mount_path()));
            } else {
              SetError(status, message.mutable_error());
              if (answer.has_busy()) *message.mutable_busy() = answer.busy();
            }
            reply(std::move(message), {});
          });
}

// An attach that hangs in the kernel may still succeed after its deadline: then the mount, whose slot is long gone, is
// taken away as soon as the child has ended.
void Slots::DetachLateMount(const Slot& slot, ChildRunner::Job* job) {
  UnmountRequest request;
  request.owner = slot.owner;
  request.mount = slot.record.mount();
  request.path = slot.record.mount_path();
  request.detach = true;
  job->ended_late = [this, request] {
    if (!IsAttached(ReadMountinfo(), request.mount)) return;
    RunUnmount(request, request.owner.uid(), [request](const internal::UnmountAnswer&, const absl::Status& status) {
      Log(Severity::kWarning, absl::StrCat("a mount that was given up appeared late at ", request.path,
                                           status.ok() ? " and was detached" : " and could not be detached"));
    });
  };
}

void Slots::Release(Slot* slot, std::function<void()> done) {
  uint64_t id = slot->id;
  auto end = [this, id, done = std::move(done)] {
    EndWorker(Find(id), [this, id, done] {
      DropStaging(Find(id), [this, id, done] {
        Erase(id);
        done();
      });
    });
  };
  if (!IsVisible(*slot)) {
    if (slot->state != State::kInspected) MarkUnmounted(slot);
    return end();
  }
  Unmount(slot, false, [this, slot, end](const internal::UnmountAnswer&, const absl::Status& status) {
    if (status.ok()) return end();
    Log(Severity::kWarning, ContextOf(*slot),
        absl::StrCat("detaching ", slot->record.mount_path(), ": ", std::string(status.message())));
    Unmount(slot, true, [this, slot, end](const internal::UnmountAnswer&, const absl::Status& detached) {
      if (!detached.ok()) {
        // Its record stays, for the next broker. Its readers are let go at least.
        Log(Severity::kError, ContextOf(*slot),
            absl::StrCat("left behind: ", slot->record.mount_path(), ": ", std::string(detached.message())));
        if (IsAttached(ReadMountinfo(), slot->record.mount())) AbortConnection(slot->record.mount());
      }
      end();
    });
  });
}

void Slots::EndWorker(Slot* slot, std::function<void()> done) {
  if (!slot->worker.running()) return done();
  slot->when_worker_ended = std::move(done);
  slot->worker.Signal(SIGKILL);
  slot->worker_exit_timer = loop_->After(kWorkerExitDeadline, [this, id = slot->id] {
    Slot* late = Find(id);
    if (late == nullptr || !late->when_worker_ended) return;
    Log(Severity::kError, ContextOf(*late),
        absl::StrCat("worker ", late->worker.pid(), " was killed and does not end: a file system holds it"));
    late->worker.Forget(loop_);
    std::exchange(late->when_worker_ended, nullptr)();
  });
}

void Slots::Erase(uint64_t slot_id) {
  auto found = slots_.find(slot_id);
  if (found == slots_.end()) return;
  if (found->second->record.temporary()) {
    RemoveTemporary(found->second->record);
    found->second->record.set_temporary(false);
  }
  if (found->second->staging) BecomeDormant(found->second.get());
  std::unique_ptr<Slot> slot = std::move(found->second);
  slots_.erase(found);
  for (Pending& pending : slot->waiting) {
    // A second release of the same slot is as good as done.
    if (pending.request.message_case() == internal::FrontToBroker::kReleaseSlot) {
      pending.reply(BrokerReply(), {});
    } else {
      ReplyError(pending.reply, MakeError(Reason::kNotMounted, "there is no such slot"));
    }
  }
  if (slots_.empty() && when_empty_) loop_->After(std::chrono::milliseconds(0), when_empty_);
  PrepareWorker();
}

void Slots::OnWorkerExit(uint64_t slot_id, int status) {
  Slot* slot = Find(slot_id);
  if (slot == nullptr) return;
  // One that takes its place must have the right image file.
  if (slot->replacing && slot->when_worker_ended == nullptr) {
    slot->exit_status = status;
    return;
  }
  int pid = slot->record.worker_pid();
  slot->record.set_worker_pid(0);
  if (slot->worker_queue) slot->worker_queue->Drain();
  slot->worker_queue.reset();
  if (slot->worker_exit_timer.has_value()) loop_->Cancel(*slot->worker_exit_timer);
  bool expected = slot->when_worker_ended != nullptr || slot->state == State::kUnmounted;
  bool attached = IsVisible(*slot) && IsAttached(ReadMountinfo(), slot->record.mount());
  Log(expected ? Severity::kInfo : Severity::kWarning, ContextOf(*slot),
      absl::StrCat("worker ", pid, " has ended: ", DescribeExit(status)));
  if (attached && !expected && IsReplaceable(slot) && ReplaceWorker(slot)) return;
  if (attached && !expected) {
    // Nobody serves the mount any more: whoever waits for it gets an error now instead of waiting for ever. Closing the
    // last descriptor does that, unless the user has taken a copy out of the worker, which is theirs to look into.
    AbortConnection(slot->record.mount());
  }
  if (slot->state == State::kCreated || slot->state == State::kMounted) slot->fuse.reset();
  events_.worker_exited(slot_id, status);
  if (slot->state == State::kMounted && !attached && !slot->busy) {
    Log(Severity::kInfo, ContextOf(*slot), absl::StrCat("unmounted by someone else: ", slot->record.mount_path()));
    MarkUnmounted(slot);
    events_.mount_gone(slot_id);
  } else if (attached) {
    absl::Status saved = records_->Save(slot->record);
    if (!saved.ok()) Log(Severity::kWarning, ContextOf(*slot), saved.ToString());
  }
  if (slot->when_worker_ended) std::exchange(slot->when_worker_ended, nullptr)();
}

void Slots::OnWorkerMessage(uint64_t slot_id, const internal::WorkerToBroker& message, std::vector<UniqueFd> fds) {
  Slot* slot = Find(slot_id);
  if (slot == nullptr) return;
  if (message.has_open_sibling()) OpenSibling(slot, message.open_sibling());
  if (message.has_create_temporary()) CreateTemporary(slot, message.create_temporary());
  if (message.has_replace_image()) return ReplaceImage(slot, message.replace_image(), std::move(fds));
  if (message.has_drop_temporary()) DropTemporary(slot);
  if (message.has_serving_state()) OnServingState(slot, message.serving_state(), std::move(fds));
}

void Slots::OpenSibling(Slot* slot, const internal::OpenSibling& request) {
  internal::BrokerToWorker message;
  internal::OpenedSibling* opened = message.mutable_opened_sibling();
  opened->set_request_id(request.request_id());
  // The worker may be under an image's control: it gets files beneath its image's directory (a disk's, also beneath
  // those that --parents names) that its user can read, and no others.
  absl::Status allowed;
  if (!IsPlainPath(request.name())) allowed = MakeError(Reason::kInvalidPath, "not a plain path");
  if (!slot->image_directory) allowed = MakeError(Reason::kAccessDenied, "the image's directory cannot be entered");
  if (++slot->sibling_requests > kMaxSiblingRequests) {
    allowed = MakeError(Reason::kTooManyOperations, "too many files were asked for");
  }
  if (!allowed.ok()) {
    SetError(allowed, opened->mutable_error());
    return slot->worker_queue->Send(message);
  }
  auto answer = std::make_shared<internal::OpenSiblingAnswer>();
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  // A copy: the slot may be released while the child waits its turn.
  auto directory = std::make_shared<UniqueFd>(slot->image_directory.Duplicate());
  job.keep = {directory->get()};
  std::vector<std::string> others;
  if (IsDisk(slot->record.image_path())) others = options_->parent_directories;
  job.work = [this, owner = slot->owner, directory, others, name = request.name(), answer](
                 google::protobuf::MessageLite*, std::vector<int>* fds) {
    OpenSiblingAs(owner, directory->get(), others, name, OwnMounts(), answer.get(), fds);
  };
  job.done = [this, id = slot->id, directory, message, answer, name = request.name()](ChildOutcome outcome) {
    Slot* asking = Find(id);
    if (asking == nullptr || !asking->worker_queue) return;
    internal::BrokerToWorker reply = message;
    absl::Status status = StatusOf(outcome, name);
    if (!status.ok()) SetError(status, reply.mutable_opened_sibling()->mutable_error());
    if (answer->has_error()) *reply.mutable_opened_sibling()->mutable_error() = answer->error();
    asking->worker_queue->Send(reply, std::move(outcome.fds));
  };
  children_.Run(std::move(job));
}

void Slots::ReleaseUnfinished() {
  // What is being looked at would become a slot that nobody knows.
  children_.AbandonAll();
  for (auto& [id, slot] : slots_) {
    if ((slot->state == State::kMounted && !slot->busy) || IsHeld(*slot)) continue;
    slot->waiting.clear();  // nobody is there to be answered
    if (slot->state == State::kMounted) {
      slot->release_unless_mounted = true;  // being unmounted
    } else {
      QueueRelease(id);
    }
  }
  RunQueuedReleases();
}

void Slots::QueueRelease(uint64_t slot_id) { to_release_.push_back(slot_id); }

void Slots::RunQueuedReleases() {
  for (uint64_t id : std::exchange(to_release_, {})) {
    internal::FrontToBroker request;
    request.mutable_release_slot()->set_slot_id(id);
    // Edits of what was mounted once are nobody's to throw away who is not asked to.
    Slot* slot = Find(id);
    request.mutable_release_slot()->set_keep_staging(slot != nullptr && slot->keep_staging);
    Handle(request, [](BrokerReply, std::vector<UniqueFd>) {});
  }
}

void Slots::DetachAll(std::function<void()> done) {
  when_empty_ = std::move(done);
  if (slots_.empty()) return when_empty_();
  for (auto& [id, slot] : slots_) {
    slot->waiting.clear();
    QueueRelease(id);
  }
  RunQueuedReleases();
}

}  // namespace dismd
