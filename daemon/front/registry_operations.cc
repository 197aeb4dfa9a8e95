// SPDX-License-Identifier: GPL-3.0-or-later
//
// MountRegistry: one operation at a time works on a mount, and some want its file for themselves.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/front/limits.h"
#include "daemon/front/registry.h"
#include "daemon/front/text.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;

}  // namespace

absl::StatusOr<MountView> MountRegistry::BeginUnmount(const std::string& mount_id, CancelToken& cancel) {
  bool cancelled = false;
  CancelToken::Subscription wake(cancel, [this, &cancelled] {
    absl::MutexLock lock(&mutex_);
    cancelled = true;
    changed_.SignalAll();
  });
  absl::MutexLock lock(&mutex_);
  while (true) {
    if (cancelled) return MakeError(Reason::kCancelled, "the operation was cancelled");
    auto place = entries_.find(mount_id);
    if (place == entries_.end()) {
      return MakeError(Reason::kNotMounted, "the image is no longer mounted: it was unmounted meanwhile");
    }
    if (place->second.state == State::kMounted) {
      place->second.state = State::kUnmounting;
      return ViewOf(place->second);
    }
    if (place->second.state != State::kUnmounting) return Occupied(place->second);
    changed_.Wait(&mutex_);
  }
}

absl::StatusOr<MountView> MountRegistry::BeginUnmountNow(const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return NotMounted(mount_id);
  if (place->second.state != State::kMounted) return Occupied(place->second);
  place->second.state = State::kUnmounting;
  return ViewOf(place->second);
}

void MountRegistry::EndUnmount(const std::string& mount_id, bool removed) {
  Notices notices;
  uint64_t gone_slot = 0;
  {
    absl::MutexLock lock(&mutex_);
    auto place = entries_.find(mount_id);
    if (place == entries_.end()) return;
    if (removed) {
      place->second.mount.set_worker_pid(0);
      Queue(place->second, v1::MOUNT_EVENT_REMOVED, &notices);
      entries_.erase(place);
    } else {
      place->second.state = State::kMounted;
      if (place->second.gone) gone_slot = place->second.slot;
    }
    changed_.SignalAll();
  }
  Notify(notices);
  if (gone_slot != 0) OnMountGone(gone_slot);
}

absl::Status MountRegistry::Occupied(const Entry& entry) {
  const char* what = entry.state == State::kCommitting   ? "committed"
                     : entry.state == State::kRemounting ? "remounted"
                                                         : "unmounted";
  return MakeError(Reason::kOperationInProgress,
                   absl::StrCat(entry.mount.mount_path(), " is just being ", what, "; wait until that has ended"));
}

void MountRegistry::EndUnmountDormant(const std::string& mount_id, const std::string& message) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    auto place = entries_.find(mount_id);
    if (place == entries_.end()) return;
    MakeDormant(&place->second, message, &notices);
  }
  Notify(notices);
}

void MountRegistry::MakeDormant(Entry* entry, const std::string& message, Notices* notices) {
  entry->state = State::kMounted;
  entry->slot = 0;
  entry->worker = nullptr;
  entry->gone = false;
  entry->held = false;
  entry->served_to_the_end = false;
  entry->mount.set_worker_pid(0);
  entry->mount.set_status(v1::MOUNT_STATUS_NEEDS_REMOUNT);
  entry->mount.set_status_message(message);
  Queue(*entry, v1::MOUNT_EVENT_CHANGED, notices);
  changed_.SignalAll();
}

absl::StatusOr<MountView> MountRegistry::BeginCommit(const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return NotMounted(mount_id);
  Entry& entry = place->second;
  if (entry.state != State::kMounted) return Occupied(entry);
  if (entry.mount.status() == v1::MOUNT_STATUS_NEEDS_REMOUNT) {
    return MakeError(Reason::kNeedsRemount, absl::StrCat(entry.mount.mount_path(), " must be remounted first"));
  }
  if (entry.mount.status() == v1::MOUNT_STATUS_INVALID) {
    return MakeError(Reason::kMountInvalid,
                     absl::StrCat(entry.mount.mount_path(), " cannot be committed: ", entry.mount.status_message()));
  }
  entry.state = State::kCommitting;
  return ViewOf(entry);
}

void MountRegistry::EndCommit(const std::string& mount_id, const internal::Committed* done) {
  Notices notices;
  uint64_t gone_slot = 0;
  {
    absl::MutexLock lock(&mutex_);
    auto place = entries_.find(mount_id);
    if (place == entries_.end()) return;
    Entry& entry = place->second;
    if (entry.state == State::kCommitting) entry.state = State::kMounted;
    if (done != nullptr) {
      SetCommittedFields(*done, &entry.mount);
      Queue(entry, v1::MOUNT_EVENT_CHANGED, &notices);
    }
    if (entry.gone) gone_slot = entry.slot;
    changed_.SignalAll();
  }
  Notify(notices);
  if (gone_slot != 0) OnMountGone(gone_slot);
}

absl::StatusOr<std::unique_ptr<MountSeat>> MountRegistry::BeginRemount(const std::string& mount_id, MountView* view) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return NotMounted(mount_id);
  Entry& entry = place->second;
  if (entry.state != State::kMounted) return Occupied(entry);
  if (entry.slot != 0 && entry.mount.status() == v1::MOUNT_STATUS_INVALID) {
    return MakeError(Reason::kMountInvalid,
                     absl::StrCat(entry.mount.mount_path(), " cannot be remounted: ", entry.mount.status_message()));
  }
  if (entry.slot != 0) {
    return MakeError(Reason::kNotRemountable,
                     absl::StrCat(entry.mount.mount_path(), " is mounted and does not need a remount"));
  }
  entry.state = State::kRemounting;
  entry.begun = absl::Now();
  entry.mount.set_status(v1::MOUNT_STATUS_NEEDS_REMOUNT);  // what was missing may be back
  *view = ViewOf(entry);
  return std::make_unique<MountSeat>(*this, mount_id, /*remount=*/true);
}

void MountRegistry::InvalidateDormant(const std::string& mount_id, const std::string& message) {
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    auto place = entries_.find(mount_id);
    if (place == entries_.end() || place->second.mount.status() != v1::MOUNT_STATUS_NEEDS_REMOUNT) return;
    place->second.mount.set_status(v1::MOUNT_STATUS_INVALID);
    place->second.mount.set_status_message(message);
    Queue(place->second, v1::MOUNT_EVENT_CHANGED, &notices);
  }
  Notify(notices);
}

absl::Status MountRegistry::CheckAloneLocked(const std::string& mount_id) {
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return NotMounted(mount_id);
  const Entry& mount = place->second;
  for (const auto& [id, entry] : entries_) {
    // One that has no file yet claims it later, and fails.
    if (id == mount_id || entry.image_path.empty() || !Shows(entry, mount)) continue;
    // Where others have their mounts is their own business.
    const bool own = entry.mount.owner_uid() == mount.mount.owner_uid() && !entry.path.empty();
    std::string what = absl::StrCat("there is another mount of ", mount.image_path);
    if (StandsOn(entry, mount.file)) {
      what = absl::StrCat("there is a mount of a differencing disk that stands on ", mount.image_path);
    }
    const char* why = mount.mount.image_type() == v1::IMAGE_TYPE_VHD
                          ? "; a commit would change the volume beneath it: unmount it first"
                          : "; a file is written anew when there is none: unmount it, or commit without a rebuild";
    return MakeError(Reason::kImageInUse, absl::StrCat(what, own ? ", at " + entry.path : "", why));
  }
  return absl::OkStatus();
}

absl::Status MountRegistry::CheckAlone(const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  return CheckAloneLocked(mount_id);
}

absl::Status MountRegistry::BeginExclusive(const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  absl::Status alone = CheckAloneLocked(mount_id);
  if (alone.ok()) entries_[mount_id].exclusive = true;
  return alone;
}

void MountRegistry::EndExclusive(const std::string& mount_id, const ImageFile* file) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return;
  Entry& entry = place->second;
  entry.exclusive = false;
  const bool replaced = file != nullptr && entry.file != *file;
  if (!replaced && entry.mount.image_type() != v1::IMAGE_TYPE_VHD) return;
  // Those that were being made before it have long ended or failed.
  const absl::Time now = absl::Now();
  std::erase_if(changed_files_, [now](const auto& one) { return one.second < now - kChangedFileRetention; });
  changed_files_[entry.file] = now;
  if (replaced) entry.file = *file;
}

void MountRegistry::SetCommitPending(const std::string& mount_id, bool pending) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place != entries_.end()) place->second.mount.set_commit_pending(pending);
}

std::vector<MountView> MountRegistry::OthersOf(const ImageFile& file, const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  std::vector<MountView> others;
  for (const auto& [id, entry] : entries_) {
    if (id != mount_id && entry.file == file && entry.worker != nullptr) others.push_back(ViewOf(entry));
  }
  return others;
}

std::shared_ptr<WorkerLink> MountRegistry::AwaitOtherWorker(const std::string& mount_id,
                                                            const std::shared_ptr<WorkerLink>& before,
                                                            absl::Duration patience) {
  absl::Time deadline = absl::Now() + patience;
  absl::MutexLock lock(&mutex_);
  while (true) {
    auto place = entries_.find(mount_id);
    if (place == entries_.end() || place->second.slot == 0) return nullptr;
    const Entry& entry = place->second;
    if (entry.worker != nullptr && entry.worker != before) return entry.worker;
    bool given_up = entry.mount.status() != v1::MOUNT_STATUS_OK;
    if (given_up || changed_.WaitWithDeadline(&mutex_, deadline)) return nullptr;
  }
}

}  // namespace dismd
