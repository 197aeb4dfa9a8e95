// SPDX-License-Identifier: GPL-3.0-or-later
//
// MountRegistry: places for mounts that are being made.

#include <memory>
#include <string>
#include <utility>
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

MountSeat::~MountSeat() {
  if (!published_) registry_.GiveBack(mount_id_);
}

absl::Status MountSeat::Claim(uint64_t slot, const std::string& real_mount_path) {
  absl::MutexLock lock(&registry_.mutex_);
  for (const auto& [id, entry] : registry_.entries_) {
    if (id == mount_id_ || entry.path.empty() || entry.path != real_mount_path) continue;
    if (entry.state == MountRegistry::State::kMaking || entry.state == MountRegistry::State::kRemounting) {
      return MakeError(Reason::kMountPointInUse, absl::StrCat("another image is just being mounted at ",
                                                              real_mount_path, "; give another directory"));
    }
    if (entry.mount.status() == v1::MOUNT_STATUS_NEEDS_REMOUNT) {
      return MakeError(Reason::kMountPointInUse,
                       absl::StrCat("the image that was mounted at ", real_mount_path,
                                    " has edits that are not committed; remount it or discard them first"));
    }
  }
  MountRegistry::Entry& entry = registry_.entries_[mount_id_];
  entry.slot = slot;
  entry.path = real_mount_path;
  return absl::OkStatus();
}

absl::Status MountSeat::CheckWhole(const ImageFile& file, const std::string& real_image_path) {
  absl::MutexLock lock(&registry_.mutex_);
  MountRegistry::Entry wanted;
  wanted.file = file;
  wanted.image_path = real_image_path;
  for (const auto& [id, other] : registry_.entries_) {
    if (id == mount_id_ || !MountRegistry::SameFile(wanted, other)) continue;
    if (!other.exclusive && !other.mount.commit_pending()) continue;
    return MakeError(Reason::kImageInUse,
                     absl::StrCat("a commit into ", real_image_path,
                                  " has begun and is not at its end; mount it when that has ended"));
  }
  return absl::OkStatus();
}

absl::Status MountSeat::ClaimImage(const ImageFile& file, const std::string& real_image_path,
                                   std::vector<ImageFile> parents, uint32_t index, bool read_write) {
  absl::MutexLock lock(&registry_.mutex_);
  MountRegistry::Entry& entry = registry_.entries_[mount_id_];
  entry.file = file;
  entry.image_path = real_image_path;
  entry.parents = std::move(parents);
  bool changing = registry_.ChangedSince(entry.begun, file);
  for (const ImageFile& parent : entry.parents) changing = changing || registry_.ChangedSince(entry.begun, parent);
  for (const auto& [id, other] : registry_.entries_) {
    changing = changing || (other.exclusive && id != mount_id_ && MountRegistry::Shows(entry, other));
  }
  if (changing) {
    return MakeError(Reason::kImageInUse, absl::StrCat(real_image_path, ", or a parent of it,",
                                                       " is just being written; mount it when that has ended"));
  }
  if (!read_write) return absl::OkStatus();
  if (const MountRegistry::Entry* writer = registry_.FindWriter(mount_id_, entry, index)) {
    // Where others have their mounts is their own business.
    const bool own = writer->mount.owner_uid() == entry.mount.owner_uid() && !writer->path.empty();
    return MakeError(Reason::kAlreadyMountedReadWrite,
                     absl::StrCat("image ", index, " of ", real_image_path, " is mounted read-write already",
                                  own ? " at " + writer->path : "", "; unmount it there, or mount it read-only"));
  }
  entry.mount.set_image_index(index);
  entry.claimed_writing = true;
  return absl::OkStatus();
}

bool MountRegistry::ChangedSince(absl::Time begun, const ImageFile& file) const {
  auto changed = changed_files_.find(file);
  return changed != changed_files_.end() && begun <= changed->second;
}

const MountRegistry::Entry* MountRegistry::FindWriter(const std::string& mount_id, const Entry& wanted,
                                                      uint32_t index) {
  for (const auto& [id, entry] : entries_) {
    const bool writes = entry.claimed_writing || (entry.state != State::kMaking && !entry.mount.read_only());
    if (id != mount_id && writes && SameFile(entry, wanted) && entry.mount.image_index() == index) return &entry;
  }
  return nullptr;
}

void MountSeat::Publish(const v1::Mount& mount, std::shared_ptr<WorkerLink> worker) {
  MountRegistry::Notices notices;
  uint64_t gone_slot = 0;
  {
    absl::MutexLock lock(&registry_.mutex_);
    MountRegistry::Entry& entry = registry_.entries_[mount_id_];
    published_ = true;
    // What happened since the slot was claimed has been noted in the entry's own record.
    v1::Mount noted = entry.mount;
    entry.mount = mount;
    if (noted.status() == v1::MOUNT_STATUS_INVALID) {
      entry.mount.set_status(noted.status());
      entry.mount.set_status_message(noted.status_message());
    } else if (!entry.invalid_meanwhile.empty()) {
      entry.mount.set_status(v1::MOUNT_STATUS_INVALID);
      entry.mount.set_status_message(std::exchange(entry.invalid_meanwhile, ""));
    }
    *entry.mount.mutable_damaged_files() = noted.damaged_files();
    entry.mount.set_damaged_file_count(noted.damaged_file_count());
    entry.worker = std::move(worker);
    entry.claimed_writing = false;
    entry.state = MountRegistry::State::kMounted;
    if (!remount_) entry.order = ++registry_.last_order_;
    registry_.Queue(entry, remount_ ? v1::MOUNT_EVENT_CHANGED : v1::MOUNT_EVENT_ADDED, &notices);
    registry_.changed_.SignalAll();
    if (entry.gone) gone_slot = entry.slot;
  }
  MountRegistry::Notify(notices);
  if (gone_slot != 0) registry_.OnMountGone(gone_slot);
}

absl::StatusOr<std::unique_ptr<MountSeat>> MountRegistry::Reserve(uint32_t owner) {
  absl::MutexLock lock(&mutex_);
  size_t own = 0;
  for (const auto& [id, entry] : entries_) own += entry.mount.owner_uid() == owner ? 1 : 0;
  if (own >= kMaxMountsPerUid) {
    return MakeError(Reason::kTooManyMounts, absl::StrCat("you have ", own,
                                                          " mounts, which is the limit per user "
                                                          "(mounts_per_uid); unmount one first"));
  }
  if (entries_.size() >= kMaxMounts) {
    return MakeError(Reason::kTooManyMounts,
                     absl::StrCat("the service has ", entries_.size(), " mounts, which is its limit (mounts)"));
  }
  std::string id;
  do {
    id = NewId("m-");
  } while (entries_.count(id) != 0);
  entries_[id].mount.set_owner_uid(owner);
  entries_[id].begun = absl::Now();
  return std::make_unique<MountSeat>(*this, id, /*remount=*/false);
}

void MountRegistry::GiveBack(const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end()) return;
  if (place->second.state != State::kRemounting) {
    entries_.erase(place);
    return;
  }
  place->second.state = State::kMounted;
  place->second.slot = 0;
  place->second.gone = false;
  place->second.invalid_meanwhile.clear();
  changed_.SignalAll();
}

}  // namespace dismd
