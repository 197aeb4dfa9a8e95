// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/slot.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using internal::FrontToBroker;
using libmount::MakeError;
using libmount::Reason;

absl::Status UnexpectedAnswer(const char* request) {
  return MakeError(Reason::kUnspecified, absl::StrCat("the broker process answered ", request, " with something else"));
}

void Release(BrokerLink& broker, internal::ReleaseSlot release) {
  uint64_t slot_id = release.slot_id();
  FrontToBroker request;
  *request.mutable_release_slot() = std::move(release);
  absl::Status released = broker.Call(std::move(request)).status();
  // The broker takes everything away when it ends itself; then there is nothing to say.
  if (!released.ok() && libmount::ReasonOf(released) != Reason::kShuttingDown) {
    libmount::Log(libmount::Severity::kWarning, absl::StrCat("slot ", slot_id, ": ", released.ToString()));
  }
}

}  // namespace

void ReleaseSlot(BrokerLink& broker, uint64_t slot_id) {
  internal::ReleaseSlot release;
  release.set_slot_id(slot_id);
  Release(broker, std::move(release));
}

void ReleaseSlotKeepingStaging(BrokerLink& broker, uint64_t slot_id, const std::string& record) {
  internal::ReleaseSlot release;
  release.set_slot_id(slot_id);
  release.set_keep_staging(true);
  release.set_registry_record(record);
  Release(broker, std::move(release));
}

absl::StatusOr<std::unique_ptr<Slot>> Slot::Inspect(BrokerLink& broker, const internal::InspectPaths& paths,
                                                    CancelToken& cancel) {
  FrontToBroker request;
  *request.mutable_inspect_paths() = paths;
  absl::StatusOr<BrokerAnswer> answer = broker.Call(std::move(request), &cancel);
  if (!answer.ok()) return answer.status();
  if (!answer->reply.has_path_facts()) return UnexpectedAnswer("InspectPaths");
  return std::unique_ptr<Slot>(new Slot(broker, std::move(*answer->reply.mutable_path_facts())));
}

Slot::~Slot() {
  if (kept_) return;
  if (worker_ != nullptr) worker_->Close();
  if (id_ != 0) ReleaseSlot(broker_, id_);
}

absl::Status Slot::StartWorker(EventLoop& loop, internal::StartWorker start, WorkerLink::EventHandler on_event) {
  FrontToBroker request;
  *request.mutable_start_worker() = std::move(start);
  request.mutable_start_worker()->set_slot_id(id_);
  absl::StatusOr<BrokerAnswer> answer = broker_.Call(std::move(request));
  if (!answer.ok()) return answer.status();
  if (!answer->reply.has_worker_started() || answer->fds.empty()) return UnexpectedAnswer("StartWorker");
  worker_pid_ = answer->reply.worker_started().pid();
  scratch_directory_ = answer->reply.worker_started().scratch_directory();
  worker_ = WorkerLink::Start(loop, std::move(answer->fds.front()), std::move(on_event));
  return absl::OkStatus();
}

absl::Status Slot::CreateMount(const internal::CreateMount& mount) {
  FrontToBroker request;
  *request.mutable_create_mount() = mount;
  request.mutable_create_mount()->set_slot_id(id_);
  return broker_.Call(std::move(request)).status();
}

absl::Status Slot::AttachMount(const std::string& record) {
  FrontToBroker request;
  request.mutable_attach_mount()->set_slot_id(id_);
  request.mutable_attach_mount()->set_registry_record(record);
  return broker_.Call(std::move(request)).status();
}

}  // namespace dismd
