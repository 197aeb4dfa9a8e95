// SPDX-License-Identifier: GPL-3.0-or-later
//
// MountRegistry: what workers and the broker tell of mounts.

#include <sys/wait.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/front/limits.h"
#include "daemon/front/registry.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::Severity;

std::string DescribeExit(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("was killed by signal ", WTERMSIG(status));
  if (WIFEXITED(status)) return absl::StrCat("ended with status ", WEXITSTATUS(status));
  return "ended";
}

void Warn(const v1::Mount& mount, const std::string& message) {
  libmount::Log(Severity::kWarning, LogContext{"", mount.mount_id(), mount.owner_uid()}, message);
}

}  // namespace

void MountRegistry::OnWorkerReplaced(uint64_t slot, int pid, std::shared_ptr<WorkerLink> worker) {
  Notices notices;
  std::shared_ptr<WorkerLink> before;  // ended without the lock
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr) return;
    before = std::exchange(entry->worker, std::move(worker));
    entry->mount.set_worker_pid(pid);
    Queue(*entry, v1::MOUNT_EVENT_CHANGED, &notices);
    changed_.SignalAll();
  }
  Notify(notices);
}

void MountRegistry::SetStaging(uint64_t slot, const internal::StagingState& staging) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr) return;
    bool news = entry->mount.has_changes() != staging.has_changes();
    SetStagingFields(staging, &entry->mount);
    if (news) Queue(*entry, v1::MOUNT_EVENT_CHANGED, &notices);
  }
  Notify(notices);
}

void MountRegistry::OnWorkerEvent(uint64_t slot, const internal::WorkerToFront& event) {
  if (event.has_staging_state()) return SetStaging(slot, event.staging_state());
  if (event.has_damage()) return AddDamage(slot, event.damage());
  if (event.has_image_changed()) {
    return Invalidate(slot, absl::StrCat("the image file was changed by another program: ",
                                         BoundedText(event.image_changed().message(), kMaxWorkerTextBytes),
                                         "; unmount it and mount the image again"));
  }
  if (!event.has_serving_ended()) return;
  if (event.serving_ended().has_error()) {
    return Invalidate(slot, absl::StrCat("the mount can no longer be served: ",
                                         BoundedText(event.serving_ended().error().message(), kMaxWorkerTextBytes),
                                         "; unmount it and mount the image again"));
  }
  absl::MutexLock lock(&mutex_);
  if (Entry* entry = EntryOfSlot(slot)) entry->served_to_the_end = true;
}

void MountRegistry::OnWorkerExited(uint64_t slot, int exit_status) {
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr || entry->state == State::kUnmounting) return;  // just what an unmount wants
    entry->mount.set_worker_pid(0);
    // Unmounted by hand: the broker, who knows, says next that the mount is gone.
    if (entry->served_to_the_end && exit_status == 0) return;
  }
  Invalidate(slot, absl::StrCat("the process that served the mount ", DescribeExit(exit_status),
                                "; unmount it and mount the image again"));
}

void MountRegistry::OnMountGone(uint64_t slot) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr) return;
    if (entry->state != State::kMounted) {
      entry->gone = true;  // seen once its maker or unmounter is done with it
      return;
    }
    Warn(entry->mount, absl::StrCat("somebody else unmounted ", entry->path));
    if (!entry->mount.read_only()) {
      MakeDormant(entry, "somebody else unmounted it; its edits are kept: remount it, or discard them", &notices);
    } else {
      entry->mount.set_status_message("somebody else unmounted it");
      Queue(*entry, v1::MOUNT_EVENT_REMOVED, &notices);
      entries_.erase(entry->mount.mount_id());
    }
  }
  Notify(notices);
  on_gone_(slot);
}

MountRegistry::Entry* MountRegistry::EntryOfSlot(uint64_t slot) {
  for (auto& [id, entry] : entries_) {
    if (slot != 0 && entry.slot == slot) return &entry;
  }
  return nullptr;
}

void MountRegistry::Invalidate(uint64_t slot, const std::string& message) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr || entry->mount.status() == v1::MOUNT_STATUS_INVALID) return;
    if (entry->state == State::kRemounting) {
      // A remount that fails ends its worker, and the edits can still be remounted: they must not be cleaned up.
      entry->invalid_meanwhile = message;
      return;
    }
    entry->mount.set_status(v1::MOUNT_STATUS_INVALID);
    entry->mount.set_status_message(message);
    if (entry->state != State::kMaking) Warn(entry->mount, message);
    Queue(*entry, v1::MOUNT_EVENT_CHANGED, &notices);
    changed_.SignalAll();
  }
  Notify(notices);
}

void MountRegistry::AddDamage(uint64_t slot, const internal::Damage& damage) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = EntryOfSlot(slot);
    if (entry == nullptr) return;
    uint64_t count = entry->mount.damaged_file_count() + 1;
    entry->mount.set_damaged_file_count(count);
    if (count <= kMaxDamagedFiles) {
      v1::DamagedFile* file = entry->mount.add_damaged_files();
      file->set_path(BoundedText(damage.path(), kMaxWorkerTextBytes));
      file->set_message(BoundedText(damage.message(), kMaxWorkerTextBytes));
      Warn(entry->mount, absl::StrCat("damaged: ", file->path(), ": ", file->message()));
    }
    // A worker could tell of damage without end: from the 17th on only each doubling is news.
    if (count <= kMaxDamagedFiles || (count & (count - 1)) == 0) Queue(*entry, v1::MOUNT_EVENT_CHANGED, &notices);
  }
  Notify(notices);
}

}  // namespace dismd
