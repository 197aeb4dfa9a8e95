// SPDX-License-Identifier: GPL-3.0-or-later
//
// Operations that outlive the front: the broker keeps a record of each, from its beginning on, and tells a front that
// takes over. One that has ended can still be asked for; a commit or an unmount goes on; of the others it is seen what
// they came to.

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/front/commit_operation.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "daemon/front/unmount_operation.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;

ProgressPlan PlanOf(v1::OperationKind kind, bool commits) {
  switch (kind) {
    case v1::OPERATION_KIND_COMMIT: return ProgressPlan::kCommit;
    case v1::OPERATION_KIND_REMOUNT: return ProgressPlan::kRemount;
    case v1::OPERATION_KIND_UNMOUNT: return commits ? ProgressPlan::kCommittingUnmount : ProgressPlan::kUnmount;
    default: return ProgressPlan::kMount;
  }
}

}  // namespace

void Service::SaveBegun(const Operation& operation, const Caller& caller, const std::string& mount_id, bool commits,
                        const v1::CommitOptions& options) {
  internal::OperationRecord record;
  record.set_owner_gid(caller.gid);
  record.set_mount_id(mount_id);
  record.set_commits(commits);
  record.set_commit_options(options.SerializeAsString());
  Save(operation, std::move(record), operation.State());
}

void Service::SaveEnd(const Operation& operation, const absl::Status& outcome, absl::Time end) {
  Save(operation, internal::OperationRecord(), operation.StateWith(outcome, end));
}

void Service::Save(const Operation& operation, internal::OperationRecord record, v1::Operation state) {
  state.mutable_mount()->clear_damaged_files();  // they are told with the mount
  record.set_operation(state.SerializeAsString());
  record.set_owner_uid(operation.owner());
  internal::FrontToBroker request;
  request.mutable_save_operation()->set_operation_id(operation.id());
  request.mutable_save_operation()->set_record(record.SerializeAsString());
  absl::Status saved = broker_.Call(std::move(request)).status();
  if (saved.ok() || stopping_) return;
  libmount::Log(Severity::kWarning, operation.log_context(),
                absl::StrCat("would be forgotten with this process: ", saved.ToString()));
}

void Service::ForgetOperation(const std::string& id) {
  internal::FrontToBroker message;
  message.mutable_save_operation()->set_operation_id(id);
  broker_.Tell(message);
}

void Service::OnKnownOperation(const internal::KnownOperation& known) {
  internal::OperationRecord record;
  v1::Operation state;
  if (!record.ParseFromString(known.record()) || !state.ParseFromString(record.operation()) ||
      state.operation_id() != known.operation_id()) {
    return ForgetOperation(known.operation_id());
  }
  auto operation = operations_.Restore(state, record.owner_uid(), PlanOf(state.kind(), record.commits()));
  if (!operation->ended()) ResumeOperation(operation, record);
}

// Before any of them runs: one that only waited for its turn must not come before the one that had it.
CommitShare Service::ShareFile(const absl::StatusOr<MountView>& view) {
  return view.ok() ? CommitShare(file_locks_.Share(view->file)) : nullptr;
}

// On the loop's thread, after the mounts are known and before any client is: the mount is the operation's as it was.
void Service::ResumeOperation(const std::shared_ptr<Operation>& operation, const internal::OperationRecord& record) {
  libmount::Log(Severity::kInfo, operation->log_context(), "goes on with what a front before this one had begun");
  Caller caller;
  caller.uid = record.owner_uid();
  caller.gid = record.owner_gid();
  v1::CommitOptions options;
  if (!options.ParseFromString(record.commit_options())) options.Clear();
  const std::string& mount_id = record.mount_id();
  const v1::OperationKind kind = operation->State().kind();
  if (kind == v1::OPERATION_KIND_UNMOUNT) return ResumeUnmount(operation, caller, record, options);
  if (kind == v1::OPERATION_KIND_COMMIT) {
    absl::StatusOr<MountView> view = registry_.BeginCommit(mount_id);
    return Launch(*commit_pool_, operation, [this, operation, view, options, share = ShareFile(view)] {
      if (libmount::ReasonOf(view.status()) != Reason::kNeedsRemount) {
        return RunCommit(tools(), *operation, view, options, share);
      }
      return MakeError(Reason::kNeedsRemount,
                       "the service was ended while it committed, with all its processes; all edits are kept: remount "
                       "the image, and commit again");
    });
  }
  absl::StatusOr<MountView> mounted = registry_.FindById(Caller(), mount_id);
  if (mounted.ok() && mounted->slot != 0) operation->SetMount(mounted->mount);
  const char* left = kind == v1::OPERATION_KIND_REMOUNT
                         ? "the service was ended while it remounted the image; all edits are kept: try again"
                         : "the service was ended while it mounted the image; nothing was left of it: try again";
  Launch(*unmount_pool_, operation, [done = mounted.ok() && mounted->slot != 0, left] {
    return done ? absl::OkStatus() : MakeError(Reason::kShuttingDown, left);
  });
}

void Service::ResumeUnmount(const std::shared_ptr<Operation>& operation, const Caller& caller,
                            const internal::OperationRecord& record, const v1::CommitOptions& options) {
  absl::StatusOr<MountView> view = registry_.FindById(Caller(), record.mount_id());
  // The mount goes last.
  if (!view.ok()) return Launch(*unmount_pool_, operation, [] { return absl::OkStatus(); });
  // Were it another's already, nobody could end that one while this thread waits.
  view = registry_.BeginUnmountNow(record.mount_id());
  if (record.commits()) {
    return Launch(*commit_pool_, operation, [this, operation, caller, view, options, share = ShareFile(view)] {
      return RunCommittingUnmount(tools(), *operation, caller, view, options, share);
    });
  }
  Launch(*unmount_pool_, operation,
         [this, operation, view] { return RunUnmount(tools(), view, operation->log_context(), Edits::kDiscard); });
}

bool Service::LeavesWork() { return !told_to_stop_ && !operations_.Running().empty(); }

}  // namespace dismd
