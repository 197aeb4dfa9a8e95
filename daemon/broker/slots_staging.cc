// SPDX-License-Identifier: GPL-3.0-or-later
//
// Staging directories of slots: the service's own (staging_store.h), and those in a directory that a caller named
// (scratch_directory.h).
//
// Of the latter a record tells, on the disk, from before one is made until it is gone: the next broker finds it there,
// or has it removed.

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/reply.h"
#include "daemon/broker/scratch_directory.h"
#include "daemon/broker/slots.h"
#include "libmount/base/test_seam.h"

namespace dismd {

using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

absl::Status ScratchStatus(const ChildOutcome& outcome, const internal::ScratchAnswer& answer,
                           const std::string& path) {
  absl::Status status = StatusOf(outcome, path);
  if (!status.ok() || !answer.has_error()) return status;
  return MakeError(static_cast<Reason>(answer.error().reason()), answer.error().message());
}

}  // namespace

void Slots::TakeStaging(Slot* slot, const internal::StartWorker& request, const StagingDone& done) {
  if (request.remount()) return TakeDormant(slot, request.mount_id(), done);
  if (!request.read_write()) return done(absl::OkStatus());
  if (!request.scratch_directory().empty()) return MakeScratch(slot, request.scratch_directory(), done);
  const bool for_root = slot->owner.uid() == 0;
  absl::StatusOr<UniqueFd> staging =
      staging_->Create(request.mount_id(), for_root ? kRootsWorkerUid : slot->owner.uid(),
                       for_root ? kRootsWorkerUid : slot->owner.gid());
  if (!staging.ok()) return done(staging.status());
  slot->staging = *std::move(staging);
  done(absl::OkStatus());
}

void Slots::TakeDormant(Slot* slot, const std::string& mount_id, const StagingDone& done) {
  auto dormant = dormant_.find(mount_id);
  // Its edits are the owner's alone: a remount by anyone else would serve them as that one's.
  if (dormant == dormant_.end() || dormant->second.owner().uid() != slot->owner.uid()) {
    return done(MakeError(Reason::kNotMounted, "there is no such mount that needs a remount"));
  }
  auto take = [slot, before = dormant->second.slot_id(), done](absl::StatusOr<UniqueFd> staging) {
    if (!staging.ok()) return done(staging.status());
    slot->staging = *std::move(staging);
    slot->remounted_from = before;
    slot->keep_staging = true;
    done(absl::OkStatus());
  };
  if (dormant->second.scratch_directory().empty()) return take(staging_->Find(mount_id));
  slot->record.set_scratch_directory(dormant->second.scratch_directory());
  auto answer = std::make_shared<internal::ScratchAnswer>();
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.work = [record = slot->record, answer](google::protobuf::MessageLite*, std::vector<int>* fds) {
    OpenScratchAs(record, answer.get(), fds);
  };
  job.done = [answer, take, path = slot->record.scratch_directory()](ChildOutcome outcome) {
    if (absl::Status opened = ScratchStatus(outcome, *answer, path); !opened.ok()) return take(opened);
    if (outcome.fds.size() != 1) return take(MakeError(Reason::kOutOfResources, "no descriptors are left for a mount"));
    take(std::move(outcome.fds[0]));
  };
  children_.Run(std::move(job));
}

void Slots::MakeScratch(Slot* slot, const std::string& path, const StagingDone& done) {
  if (!IsAbsolutePath(path) || !StagingStore::IsMountId(slot->record.mount_id())) {
    return done(MakeError(Reason::kInvalidPath, "a path must be absolute and shorter than 4096 bytes"));
  }
  slot->record.set_scratch_directory(path);
  slot->record.set_staging_unwanted(true);  // until the mount can be seen
  if (absl::Status saved = records_->Save(slot->record); !saved.ok()) {
    return done(MakeError(Reason::kOutOfResources, std::string(saved.message())));
  }
  auto answer = std::make_shared<internal::ScratchAnswer>();
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.work = [record = slot->record, answer](google::protobuf::MessageLite*, std::vector<int>* fds) {
    MakeScratchAs(record, answer.get(), fds);
  };
  job.done = [this, slot, answer, path, done](ChildOutcome outcome) {
    absl::Status made = ScratchStatus(outcome, *answer, path);
    if (made.ok() && outcome.fds.size() != 1) {
      made = MakeError(Reason::kOutOfResources, "no descriptors are left for a mount");
    }
    if (made.ok()) {
      slot->staging = std::move(outcome.fds[0]);
      slot->record.set_scratch_directory(answer->directory());
    } else if (outcome.end == ChildOutcome::End::kFailed) {
      RemoveScratch(slot->record, [] {});
    } else if (outcome.end != ChildOutcome::End::kTimedOut) {  // refused, or nothing was left
      records_->Remove(slot->id);
    }
    done(made);
  };
  job.ended_late = [this, record = slot->record] { RemoveScratch(record, [] {}); };
  children_.Run(std::move(job));
}

// Of a slot whose edits nobody wants.
void Slots::ForgetRecord(const Slot& slot) {
  if (slot.record.scratch_directory().empty() || slot.remounted_from != 0) return records_->Remove(slot.id);
  internal::SlotRecord record = slot.record;
  record.set_staging_unwanted(true);
  absl::Status saved = records_->Save(record);
  if (!saved.ok()) Log(Severity::kWarning, ContextOf(slot), saved.ToString());
}

// A slot goes, and its worker has ended. What a remount that came to nothing had taken is left as it was.
void Slots::DropStaging(Slot* slot, const std::function<void()>& done) {
  if (!slot->staging || slot->keep_staging || slot->remounted_from != 0) return done();
  slot->staging.reset();
  if (!slot->record.scratch_directory().empty()) return RemoveScratch(slot->record, done);
  RemoveStaging(slot->record.mount_id(), slot->owner.uid(), [this, id = slot->id, done] {
    records_->Remove(id);
    done();
  });
}

// Freeing a large file may take a file system seconds. What a child has not removed by its deadline is a stray one for
// the next broker.
void Slots::RemoveStaging(const std::string& mount_id, uint32_t uid, const std::function<void()>& done) {
  ChildRunner::Job job;
  job.uid = uid;
  job.deadline = options_->path_deadline;
  job.answer = std::make_shared<internal::ScratchAnswer>();
  job.keep = {staging_->descriptor()};
  job.unlimited = true;
  job.work = [this, mount_id](google::protobuf::MessageLite*, std::vector<int>*) {
    libmount::TestSeam("broker-removing-staging");
    staging_->Remove(mount_id);
  };
  job.done = [done](const ChildOutcome&) { done(); };
  children_.Run(std::move(job));
}

// The record stays where the file system does not answer: the next broker tries again.
void Slots::RemoveScratch(internal::SlotRecord record, std::function<void()> done) {
  const libmount::LogContext context{"", record.mount_id(), record.owner().uid()};
  record.set_staging_unwanted(true);
  if (absl::Status saved = records_->Save(record); !saved.ok()) Log(Severity::kWarning, context, saved.ToString());
  auto answer = std::make_shared<internal::ScratchAnswer>();
  ChildRunner::Job job;
  job.uid = record.owner().uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.unlimited = true;
  job.work = [record, answer](google::protobuf::MessageLite*, std::vector<int>*) {
    RemoveScratchAs(record, answer.get());
  };
  job.done = [this, record, context, answer, done = std::move(done)](const ChildOutcome& outcome) {
    absl::Status removed = ScratchStatus(outcome, *answer, record.scratch_directory());
    if (!removed.ok()) {
      Log(Severity::kWarning, context,
          absl::StrCat("edits that nobody wants are left in ", record.scratch_directory(), ": ",
                       std::string(removed.message())));
    }
    if (outcome.end == ChildOutcome::End::kAnswered) records_->Remove(record.slot_id());
    done();
  };
  children_.Run(std::move(job));
}

}  // namespace dismd
