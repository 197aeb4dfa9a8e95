// SPDX-License-Identifier: GPL-3.0-or-later
//
// Slots: an image file that is written anew by its worker, and takes the old one's place (replace_image.h).
//
// The record tells, on the disk, that there may be a temporary file, from before it is made until it is gone. While the
// two change places it is not known which one the image is: a worker that dies then is replaced when it is.

#include <signal.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/replace_image.h"
#include "daemon/broker/reply.h"
#include "daemon/broker/slots.h"

namespace dismd {

using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

void SetSiblingError(const absl::Status& status, const internal::TemporaryAnswer& answer,
                     internal::OpenedSibling* opened) {
  if (!status.ok()) SetError(status, opened->mutable_error());
  if (status.ok() && answer.has_error()) *opened->mutable_error() = answer.error();
}

}  // namespace

absl::Status Slots::SetTemporary(Slot* slot, bool temporary) {
  if (slot->record.temporary() == temporary) return absl::OkStatus();
  slot->record.set_temporary(temporary);
  // One that was never mounted has none, nor a temporary file.
  absl::Status saved = records_->Save(slot->record);
  if (saved.ok()) return saved;
  Log(Severity::kWarning, ContextOf(*slot), saved.ToString());
  return MakeError(Reason::kOutOfResources, std::string(saved.message()));
}

void Slots::CreateTemporary(Slot* slot, const internal::CreateTemporary& request) {
  internal::BrokerToWorker message;
  message.mutable_opened_sibling()->set_request_id(request.request_id());
  absl::Status allowed;
  if (!slot->staging || !slot->image) allowed = MakeError(Reason::kAccessDenied, "the image is not to be written to");
  if (++slot->sibling_requests > kMaxSiblingRequests) {
    allowed = MakeError(Reason::kTooManyOperations, "too many files were asked for");
  }
  if (allowed.ok()) allowed = SetTemporary(slot, true);
  if (!allowed.ok()) {
    SetError(allowed, message.mutable_opened_sibling()->mutable_error());
    return slot->worker_queue->Send(message);
  }
  auto answer = std::make_shared<internal::TemporaryAnswer>();
  auto image = std::make_shared<UniqueFd>(slot->image.Duplicate());
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.keep = {image->get()};
  job.work = [owner = slot->owner, image, name = TemporaryName(slot->record.mount_id()), answer](
                 google::protobuf::MessageLite*, std::vector<int>* fds) {
    CreateTemporaryAs(owner, image->get(), name, answer.get(), fds);
  };
  job.done = [this, id = slot->id, image, message, answer](ChildOutcome outcome) mutable {
    Slot* asking = Find(id);
    if (asking == nullptr || !asking->worker_queue) return;
    SetSiblingError(StatusOf(outcome, asking->record.image_path()), *answer, message.mutable_opened_sibling());
    asking->worker_queue->Send(message, std::move(outcome.fds));
  };
  children_.Run(std::move(job));
}

void Slots::ReplaceImage(Slot* slot, const internal::ReplaceImage& request, std::vector<UniqueFd> fds) {
  if (slot->replacing) return;  // asked again, where no answer came; the first one goes on
  internal::BrokerToWorker message;
  message.mutable_opened_sibling()->set_request_id(request.request_id());
  absl::Status allowed;
  if (!slot->staging || !slot->image) allowed = MakeError(Reason::kAccessDenied, "the image is not to be written to");
  if (fds.size() != 1) allowed = MakeError(Reason::kAccessDenied, "a file without its descriptor");
  if (allowed.ok()) allowed = SetTemporary(slot, true);
  if (!allowed.ok()) {
    SetError(allowed, message.mutable_opened_sibling()->mutable_error());
    return slot->worker_queue->Send(message);
  }
  slot->replacing = true;
  auto answer = std::make_shared<internal::TemporaryAnswer>();
  auto image = std::make_shared<UniqueFd>(slot->image.Duplicate());
  auto file = std::make_shared<UniqueFd>(std::move(fds[0]));
  ChildRunner::Job job;
  job.uid = slot->owner.uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.keep = {image->get(), file->get()};
  job.work = [owner = slot->owner, image, file, name = TemporaryName(slot->record.mount_id()), answer](
                 google::protobuf::MessageLite*, std::vector<int>*) {
    ReplaceImageAs(owner, image->get(), file->get(), name, answer.get());
  };
  job.done = [this, id = slot->id, image, file, message, answer](ChildOutcome outcome) mutable {
    if (Slot* asking = Find(id)) OnReplaced(asking, std::move(*file), message, *answer, outcome);
  };
  children_.Run(std::move(job));
}

void Slots::OnReplaced(Slot* slot, UniqueFd file, internal::BrokerToWorker message,
                       const internal::TemporaryAnswer& answer, const ChildOutcome& outcome) {
  slot->replacing = false;
  absl::Status status = StatusOf(outcome, slot->record.image_path());
  // Killed half way: it may be done. The worker asks again.
  slot->image_unknown = outcome.end == ChildOutcome::End::kTimedOut || outcome.end == ChildOutcome::End::kFailed;
  if (slot->image_unknown) status = MakeError(Reason::kPathTimedOut, std::string(status.message()));
  SetSiblingError(status, answer, message.mutable_opened_sibling());
  if (status.ok() && !answer.has_error()) {
    slot->image = std::move(file);
    slot->record.set_image_device(answer.device());
    slot->record.set_image_inode(answer.inode());
    slot->record.set_temporary(true);
    SetTemporary(slot, false).IgnoreError();  // it is logged; the old record leads to the image as well
    Log(Severity::kInfo, ContextOf(*slot), absl::StrCat("written anew: ", slot->record.image_path()));
  }
  if (slot->worker_queue) slot->worker_queue->Send(message);
  // It has died meanwhile.
  if (slot->exit_status.has_value()) OnWorkerExit(slot->id, *std::exchange(slot->exit_status, std::nullopt));
}

void Slots::DropTemporary(Slot* slot) {
  if (slot->replacing || !slot->record.temporary()) return;
  slot->image_unknown = false;
  RemoveTemporary(slot->record);
  SetTemporary(slot, false).IgnoreError();  // then it is removed once more, some time
}

// Nobody waits for it.
void Slots::RemoveTemporary(const internal::SlotRecord& record) {
  auto answer = std::make_shared<internal::TemporaryAnswer>();
  ChildRunner::Job job;
  job.uid = record.owner().uid();
  job.deadline = options_->path_deadline;
  job.answer = answer;
  job.unlimited = true;
  job.work = [owner = record.owner(), path = record.image_path(), name = TemporaryName(record.mount_id())](
                 google::protobuf::MessageLite*, std::vector<int>*) { RemoveTemporaryAs(owner, path, name); };
  job.done = [](const ChildOutcome&) {};
  children_.Run(std::move(job));
}

}  // namespace dismd
