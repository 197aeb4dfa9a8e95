// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the broker tells the service, and the service's stop.

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/front/limits.h"
#include "daemon/front/service.h"
#include "daemon/front/unmount_operation.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::Severity;
using libmount::UniqueFd;

// Between two tries to unmount what is in use; nobody tells when a file is closed.
constexpr absl::Duration kRetryInterval = absl::Milliseconds(200);
// Of the grace time, left to the broker to take what is busy away by force.
constexpr double kOwnShareOfGrace = 0.8;

}  // namespace

void Service::OnConfig(const internal::ServerConfig& config) {
  absl::MutexLock lock(&mutex_);
  config_ = config;
}

void Service::OnNewConnection(const internal::NewConnection& connection, UniqueFd socket) {
  Caller caller;
  caller.uid = connection.identity().uid();
  caller.gid = connection.identity().gid();
  caller.pid = connection.identity().pid();
  caller.connection = std::make_shared<ConnectionLease>(connection.connection_id(), [this](uint64_t id) {
    internal::FrontToBroker message;
    message.mutable_connection_closed()->set_connection_id(id);
    broker_.Tell(message);
  });
  if (!socket) return libmount::Log(Severity::kError, "the broker sent a connection without its socket");
  if (stopping_) return;
  serve_(std::move(socket), std::move(caller));
}

void Service::OnKnownSlot(const internal::KnownSlot& slot, UniqueFd control) {
  uint64_t slot_id = slot.slot_id();
  std::shared_ptr<WorkerLink> worker;
  if (control) {
    worker = WorkerLink::Start(loop_, std::move(control), HandlerOf(slot_id));
    budget_.Add(slot_id, worker);
  }
  // Events of the worker come on this thread, so none can precede this.
  registry_.Restore(slot, std::move(worker));
  libmount::Log(Severity::kInfo, LogContext{"", slot.mount_id(), slot.owner().uid()},
                absl::StrCat("found the mount at ", slot.mount_path()));
}

void Service::OnWorkerExited(const internal::WorkerExited& event) {
  registry_.OnWorkerExited(event.slot_id(), event.exit_status());
}

WorkerLink::EventHandler Service::HandlerOf(uint64_t slot_id) {
  return [this, slot_id](const internal::WorkerToFront& event) {
    if (event.has_cache_wanted()) {
      budget_.Want(slot_id, event.cache_wanted().bytes());
    } else {
      registry_.OnWorkerEvent(slot_id, event);
    }
  };
}

void Service::OnWorkerReplaced(const internal::WorkerReplaced& event, UniqueFd control) {
  if (!control) return libmount::Log(Severity::kError, "the broker sent a new worker without its socket");
  std::shared_ptr<WorkerLink> worker = WorkerLink::Start(loop_, std::move(control), HandlerOf(event.slot_id()));
  budget_.Remove(event.slot_id());
  budget_.Add(event.slot_id(), worker);
  registry_.OnWorkerReplaced(event.slot_id(), event.pid(), std::move(worker));
}

void Service::OnMountGone(const internal::MountGone& event) { registry_.OnMountGone(event.slot_id()); }

void Service::OnBrokerEnd() {
  stopping_ = true;
  End();
}

void Service::OnStop(const internal::StopService& event) {
  if (told_to_stop_.exchange(true)) return;
  stopping_ = true;
  absl::Duration grace = absl::Milliseconds(event.grace_milliseconds());
  libmount::Log(Severity::kInfo, absl::StrCat("stopping within ", absl::FormatDuration(grace)));
  stopper_ = std::thread([this, grace] { Stop(grace); });
}

std::vector<MountView> Service::Served() {
  std::vector<MountView> served = registry_.List(Caller());
  std::erase_if(served, [](const MountView& view) { return view.slot == 0; });
  return served;
}

void Service::Stop(absl::Duration grace) {
  absl::Time deadline = absl::Now() + grace * kOwnShareOfGrace;
  for (const auto& operation : operations_.Running()) {
    if (operation->snapshot()->kind() == v1::OPERATION_KIND_MOUNT) operation->Cancel();
  }
  CancelToken late;
  auto is_making = [this] {
    std::vector<std::shared_ptr<Operation>> running = operations_.Running();
    return std::any_of(running.begin(), running.end(),
                       [](const auto& op) { return op->snapshot()->kind() == v1::OPERATION_KIND_MOUNT; });
  };
  std::vector<MountView> left;
  std::set<std::string> told;
  while (true) {
    bool making = is_making();  // before the list: a mount past its point of no return gets into it
    left = Served();
    std::reverse(left.begin(), left.end());  // the newest first
    if (left.empty() && !making) break;
    for (const MountView& view : left) {
      if (absl::Now() >= deadline) break;
      const std::string& id = view.mount.mount_id();
      absl::Status unmounted = RunUnmount(tools(), id, late, LogContext{}, Edits::kKeep);
      if (unmounted.ok() || !told.insert(id).second) continue;
      libmount::Log(Severity::kInfo, LogContext{"", id, view.mount.owner_uid()},
                    absl::StrCat("not unmounted yet: ", std::string(unmounted.message())));
    }
    left = Served();
    if ((left.empty() && !is_making()) || absl::Now() >= deadline) break;
    absl::MutexLock lock(&mutex_);
    // Without a broker, which then takes away itself what is left, there is nothing to try again.
    if (mutex_.AwaitWithTimeout(absl::Condition(&ended_), std::min(kRetryInterval, deadline - absl::Now()))) return;
  }
  internal::FrontToBroker message;
  message.mutable_stop_done();
  for (const MountView& view : left) {
    message.mutable_stop_done()->add_busy_slots(view.slot);
    libmount::Log(Severity::kWarning, LogContext{"", view.mount.mount_id(), view.mount.owner_uid()},
                  absl::StrCat(view.mount.mount_path(), " is in use; it is taken away by force"));
  }
  broker_.Tell(message);
  End();
}

}  // namespace dismd
