// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/unmount_operation.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/front/commit_operation.h"
#include "daemon/front/judge.h"
#include "daemon/front/limits.h"
#include "daemon/front/slot.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;

absl::Status DescribeBusy(const v1::Mount& mount, const internal::BusyMount& busy) {
  std::vector<std::string> names;
  for (const internal::Process& process : busy.holders()) {
    names.push_back(absl::StrCat(BoundedText(process.name(), 64), " (", process.pid(), ")"));
  }
  std::string by = names.empty() ? std::string() : absl::StrCat(" by ", absl::StrJoin(names, ", "));
  return MakeError(Reason::kMountBusy, absl::StrCat(mount.mount_path(), " is in use", by,
                                                    "; close its files, leave its directories, and unmount again"));
}

absl::Status AskToUnmount(BrokerLink& broker, const MountView& view, bool detach, bool hold = false) {
  internal::FrontToBroker request;
  request.mutable_unmount()->set_slot_id(view.slot);
  request.mutable_unmount()->set_detach(detach);
  request.mutable_unmount()->set_hold(hold);
  absl::StatusOr<BrokerAnswer> answer = broker.Call(std::move(request));
  if (!answer.ok()) return answer.status();
  if (answer->reply.has_busy()) return DescribeBusy(view.mount, answer->reply.busy());
  return absl::OkStatus();
}

constexpr char kKept[] = "it was unmounted, and its edits are kept; remount it, or discard them";

void EndSlot(const Tools& tools, const MountView& view, Edits edits) {
  if (edits == Edits::kKeep) {
    ReleaseSlotKeepingStaging(tools.broker, view.slot, RecordOf(view));
  } else {
    ReleaseSlot(tools.broker, view.slot);
  }
  tools.budget.Remove(view.slot);
  if (view.worker != nullptr) view.worker->Close();
}

// One that is not mounted has nothing but its edits.
absl::Status DiscardDormant(const Tools& tools, const MountView& view, Edits edits,
                            const libmount::LogContext& context) {
  absl::Status discarded;
  if (edits == Edits::kDiscard) {
    internal::FrontToBroker request;
    request.mutable_discard_staging()->set_mount_id(view.mount.mount_id());
    discarded = tools.broker.Call(std::move(request)).status();
    if (libmount::ReasonOf(discarded) == Reason::kNotMounted) discarded = absl::OkStatus();
  }
  bool removed = edits == Edits::kDiscard && discarded.ok();
  tools.registry.EndUnmount(view.mount.mount_id(), removed);
  if (removed) {
    libmount::Log(Severity::kInfo, context, absl::StrCat("threw away the edits of ", view.mount.mount_path()));
  }
  return discarded;
}

// Without the edits of a broken-off commit a disk would stay as that one has left it.
absl::Status MayDiscard(const Tools& tools, MountView* view) {
  if (view->mount.commit_pending()) RenewCommitPending(tools, view);
  if (!view->mount.commit_pending()) return absl::OkStatus();
  return MakeError(Reason::kOperationInProgress,
                   absl::StrCat("a commit of ", view->mount.mount_path(), " into ", view->mount.image_path(),
                                " was broken off, and without the edits the disk would stay between two states; ",
                                view->slot == 0 ? "remount it, which finishes the commit" : "commit again",
                                ", or clean it up with force"));
}

absl::Status CheckServed(const MountView& view) {
  if (view.slot == 0) {
    return MakeError(Reason::kNeedsRemount,
                     absl::StrCat(view.mount.mount_path(), " must be remounted before it can be committed"));
  }
  if (view.worker == nullptr || view.mount.status() == v1::MOUNT_STATUS_INVALID) {
    return MakeError(Reason::kMountInvalid,
                     absl::StrCat(view.mount.mount_path(), " cannot be committed: ", view.mount.status_message()));
  }
  return absl::OkStatus();
}

// Of a worker that died the replacement does it, and is the view's then.
absl::Status UnmountForCommit(const Tools& tools, MountView* view) {
  CancelToken never;
  internal::FrontToWorker hold;
  hold.mutable_hold_after_unmount()->set_hold(true);
  absl::Status held = view->worker->Call(hold, never, kWorkerSilence).status();
  while (!held.ok() && view->worker->ended()) {
    std::shared_ptr<WorkerLink> replacement =
        tools.registry.AwaitOtherWorker(view->mount.mount_id(), view->worker, kReplacementDeadline);
    if (replacement == nullptr) break;
    view->worker = std::move(replacement);
    held = view->worker->Call(hold, never, kWorkerSilence).status();
  }
  if (!held.ok()) return held;
  absl::Status unmounted = AskToUnmount(tools.broker, *view, /*detach=*/false, /*hold=*/true);
  if (unmounted.ok()) return unmounted;
  hold.mutable_hold_after_unmount()->set_hold(false);
  view->worker->Call(hold, never, kNoticeDeadline).IgnoreError();
  return unmounted;
}

// After a commit that failed when its mount was gone already: as before the call.
absl::Status BringBack(const Tools& tools, Operation& operation, const Caller& caller, const std::string& mount_id,
                       const absl::Status& failed) {
  MountView view;
  absl::StatusOr<std::unique_ptr<MountSeat>> seat = tools.registry.BeginRemount(mount_id, &view);
  if (!seat.ok()) return failed;
  // Whoever cancelled the commit wants the mount back.
  Operation remount("", v1::OPERATION_KIND_REMOUNT, operation.owner(), ProgressPlan::kRemount, [] {});
  internal::Committed last_commit;
  absl::Status remounted = RunRemount(tools, remount, caller, view, *std::move(seat), &last_commit);
  if (remounted.ok() && last_commit.commit_id() == operation.id() && last_commit.done()) {
    // Its process died when all was done but the telling.
    SetCommittedFields(last_commit, &view.mount);
    operation.SetMount(view.mount);
    CancelToken never;
    return RunUnmount(tools, mount_id, never, operation.log_context(), Edits::kDiscard);
  }
  if (remounted.ok()) return failed;
  return MakeError(
      libmount::ReasonOf(failed),
      absl::StrCat(std::string(failed.message()),
                   "; the image is unmounted and needs a remount, which failed: ", std::string(remounted.message())));
}

}  // namespace

absl::StatusOr<MountView> FindMount(const Tools& tools, const Caller& caller, const std::string& mount_path,
                                    const std::string& mount_id, CancelToken& cancel) {
  if (!mount_id.empty()) return tools.registry.FindById(caller, mount_id);
  if (absl::Status well_formed = CheckPath(mount_path, "mount point"); !well_formed.ok()) return well_formed;
  if (std::optional<MountView> exact = tools.registry.FindByPath(caller, mount_path)) return *std::move(exact);
  internal::FrontToBroker request;
  request.mutable_resolve_path()->set_connection_id(caller.connection->id());
  request.mutable_resolve_path()->set_path(mount_path);
  absl::StatusOr<BrokerAnswer> answer = tools.broker.Call(std::move(request), &cancel);
  if (!answer.ok()) {
    Reason reason = libmount::ReasonOf(answer.status());
    // Nothing of the caller's is mounted where the caller cannot go; of everything else the caller hears.
    bool not_there = reason == Reason::kAccessDenied || reason == Reason::kMountPointNotFound;
    return not_there ? NotMounted(mount_path) : answer.status();
  }
  const internal::PathsResolved& resolved = answer->reply.paths_resolved();
  if (auto in_slot = tools.registry.FindBySlot(caller, resolved.slot_id())) return *std::move(in_slot);
  if (auto at_path = tools.registry.FindByPath(caller, resolved.real_path())) return *std::move(at_path);
  return NotMounted(mount_path);
}

absl::Status RunUnmount(const Tools& tools, const std::string& mount_id, CancelToken& cancel,
                        const libmount::LogContext& log_context, Edits edits, bool force) {
  return RunUnmount(tools, tools.registry.BeginUnmount(mount_id, cancel), log_context, edits, force);
}

bool RefreshStaging(const Tools& tools, MountView* view) {
  if (view->worker == nullptr || view->mount.read_only()) return false;
  internal::WorkerStats stats = view->worker->FreshStats(kStatsDeadline);
  if (!stats.has_staging()) return false;
  SetStagingFields(stats.staging(), &view->mount);
  tools.registry.SetStaging(view->slot, stats.staging());
  return true;
}

absl::Status RunUnmount(const Tools& tools, absl::StatusOr<MountView> view, const libmount::LogContext& log_context,
                        Edits edits, bool force) {
  if (!view.ok()) return view.status();
  if (edits == Edits::kKeep) RefreshStaging(tools, &*view);
  const std::string& mount_id = view->mount.mount_id();
  libmount::LogContext context = log_context;
  context.mount_id = mount_id;
  if (!context.uid.has_value()) context.uid = view->mount.owner_uid();
  if (edits == Edits::kDiscard && !force) {
    if (absl::Status may = MayDiscard(tools, &*view); !may.ok()) {
      tools.registry.EndUnmount(mount_id, /*removed=*/false);
      return may;
    }
  }
  if (view->slot == 0) return DiscardDormant(tools, *view, edits, context);
  absl::Status unmounted = AskToUnmount(tools.broker, *view, /*detach=*/false);
  if (libmount::ReasonOf(unmounted) == Reason::kMountBusy &&
      (force || view->mount.status() == v1::MOUNT_STATUS_INVALID)) {
    // Of an invalid mount its readers only get errors any more: there is nothing to wait for.
    unmounted = AskToUnmount(tools.broker, *view, /*detach=*/true);
  }
  // NOT_MOUNTED: somebody else's umount was faster.
  if (!unmounted.ok() && libmount::ReasonOf(unmounted) != Reason::kNotMounted) {
    tools.registry.EndUnmount(mount_id, /*removed=*/false);
    // The service's stop tries again and again, and tells of it itself.
    if (edits == Edits::kDiscard) {
      libmount::Log(Severity::kInfo, context, absl::StrCat("not unmounted: ", std::string(unmounted.message())));
    }
    return unmounted;
  }
  EndSlot(tools, *view, edits);
  if (edits == Edits::kKeep && !view->mount.read_only()) {
    tools.registry.EndUnmountDormant(mount_id, kKept);
  } else {
    tools.registry.EndUnmount(mount_id, /*removed=*/true);
  }
  libmount::Log(Severity::kInfo, context, absl::StrCat("unmounted ", view->mount.mount_path()));
  return absl::OkStatus();
}

absl::Status RunCommittingUnmount(const Tools& tools, Operation& operation, const Caller& caller,
                                  absl::StatusOr<MountView> view, const v1::CommitOptions& options,
                                  const CommitShare& share) {
  if (!view.ok()) return view.status();
  const std::string& mount_id = view->mount.mount_id();
  if (operation.resumed() && view->slot == 0) {
    // The process that committed was ended with the service. The image file tells what it came to.
    tools.registry.EndUnmount(mount_id, /*removed=*/false);
    return BringBack(tools, operation, caller, mount_id,
                     MakeError(Reason::kWorkerDied,
                               "the service was ended before the commit was done; the image is mounted again with all "
                               "edits: unmount it again"));
  }
  // Before anything is noted or taken away; and again when it is this commit's turn.
  absl::Status may = view->held ? absl::OkStatus() : CheckServed(*view);
  if (may.ok() && !view->held && ChangesWholeFile(view->mount, options)) may = tools.registry.CheckAlone(mount_id);
  if (!may.ok()) {
    tools.registry.EndUnmount(mount_id, /*removed=*/false);
    return may;
  }
  NoteCommitPending(tools, *view, operation.log_context());
  absl::Status unmounted = view->held ? absl::OkStatus() : UnmountForCommit(tools, &*view);
  if (!unmounted.ok()) {
    RenewCommitPending(tools, &*view);
    SaveRecord(tools, mount_id, operation.log_context());
    tools.registry.EndUnmount(mount_id, /*removed=*/false);
    return unmounted;
  }
  libmount::TestSeam("front-unmounted", [&operation] { return operation.cancelled(); });
  absl::StatusOr<internal::Committed> done = MakeError(Reason::kWorkerDied, "the process that wrote the image died");
  if (view->worker != nullptr) {
    done = CommitOccupied(tools, operation, *view, options, /*wait_for_replacement=*/false, share);
  }
  if (done.ok()) {
    EndSlot(tools, *view, Edits::kDiscard);
    tools.registry.EndUnmount(mount_id, /*removed=*/true);
    SetCommittedFields(*done, &view->mount);
    operation.SetMount(view->mount);
    libmount::Log(Severity::kInfo, operation.log_context(),
                  absl::StrCat("committed ", view->mount.mount_path(), " as image ", done->image_index(), " of ",
                               view->mount.image_path()));
    return absl::OkStatus();
  }
  RenewCommitPending(tools, &*view);
  EndSlot(tools, *view, Edits::kKeep);
  tools.registry.EndUnmountDormant(mount_id, kKept);
  return BringBack(tools, operation, caller, mount_id, done.status());
}

}  // namespace dismd
