// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/unmount_operation.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/front/judge.h"
#include "daemon/front/slot.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

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

absl::Status AskToUnmount(BrokerLink& broker, const MountView& view, bool detach) {
  internal::FrontToBroker request;
  request.mutable_unmount()->set_slot_id(view.slot);
  request.mutable_unmount()->set_detach(detach);
  absl::StatusOr<BrokerAnswer> answer = broker.Call(std::move(request));
  if (!answer.ok()) return answer.status();
  if (answer->reply.has_busy()) return DescribeBusy(view.mount, answer->reply.busy());
  return absl::OkStatus();
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
                        const libmount::LogContext& log_context) {
  absl::StatusOr<MountView> view = tools.registry.BeginUnmount(mount_id, cancel);
  if (!view.ok()) return view.status();
  absl::Status unmounted = AskToUnmount(tools.broker, *view, /*detach=*/false);
  if (libmount::ReasonOf(unmounted) == Reason::kMountBusy && view->mount.status() == v1::MOUNT_STATUS_INVALID) {
    // Its readers only get errors any more: there is nothing to wait for.
    unmounted = AskToUnmount(tools.broker, *view, /*detach=*/true);
  }
  libmount::LogContext context = log_context;
  context.mount_id = mount_id;
  if (!context.uid.has_value()) context.uid = view->mount.owner_uid();
  // NOT_MOUNTED: somebody else's umount was faster.
  if (!unmounted.ok() && libmount::ReasonOf(unmounted) != Reason::kNotMounted) {
    tools.registry.EndUnmount(mount_id, /*removed=*/false);
    libmount::Log(Severity::kInfo, context, absl::StrCat("not unmounted: ", std::string(unmounted.message())));
    return unmounted;
  }
  ReleaseSlot(tools.broker, view->slot);
  tools.budget.Remove(view->slot);
  if (view->worker != nullptr) view->worker->Close();
  tools.registry.EndUnmount(mount_id, /*removed=*/true);
  libmount::Log(Severity::kInfo, context, absl::StrCat("unmounted ", view->mount.mount_path()));
  return absl::OkStatus();
}

}  // namespace dismd
