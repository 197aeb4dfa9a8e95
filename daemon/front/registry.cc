// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/registry.h"

#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "daemon/front/errors.h"
#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::MakeError;
using libmount::Reason;
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

absl::Status NotMounted(const std::string& path_or_id) {
  return MakeError(Reason::kNotMounted,
                   absl::StrCat("you have no image mounted at, or with the id, \"",
                                BoundedText(path_or_id, kMaxPathBytes), "\"; the list of mounts shows what you have"));
}

void SetStagingFields(const internal::StagingState& staging, v1::Mount* mount) {
  mount->set_has_changes(staging.has_changes());
  mount->set_staged_bytes(staging.staged_bytes());
  mount->set_changed_files(staging.changed_files());
  mount->set_unix_data(staging.unix_data());
  mount->set_commit_pending(staging.commit_pending());
}

std::string RecordOf(const v1::Mount& mount, const std::vector<ImageFile>& parents) {
  internal::RegistryRecord record;
  record.set_mount(mount.SerializeAsString());
  for (const ImageFile& parent : parents) {
    internal::FileId* file = record.add_parents();
    file->set_device(parent.device);
    file->set_inode(parent.inode);
  }
  return record.SerializeAsString();
}

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

void MountRegistry::Restore(const internal::KnownSlot& known, std::shared_ptr<WorkerLink> worker) {
  Entry entry;
  entry.state = State::kMounted;
  entry.slot = known.slot_id();
  entry.path = known.mount_path();
  entry.image_path = known.image_path();
  entry.file = {known.image_device(), known.image_inode()};
  entry.worker = std::move(worker);
  entry.held = known.held();
  // The record is our own, but an older front may have written it: what the broker knows wins.
  internal::RegistryRecord record;
  if (!record.ParseFromString(known.registry_record()) || !entry.mount.ParseFromString(record.mount())) {
    entry.mount.Clear();
  }
  for (const internal::FileId& parent : record.parents()) entry.parents.push_back({parent.device(), parent.inode()});
  entry.mount.set_mount_id(known.mount_id());
  entry.mount.set_mount_path(ToValidUtf8(known.mount_path()));
  entry.mount.set_image_path(ToValidUtf8(known.image_path()));
  entry.mount.set_owner_uid(known.owner().uid());
  entry.mount.set_read_only(known.read_only());
  entry.mount.set_allow_other(known.allow_other());
  entry.mount.set_worker_pid(known.worker_pid());
  if (!entry.mount.has_mount_time())
    SetTimestamp(absl::FromUnixSeconds(known.mount_time()), entry.mount.mutable_mount_time());
  entry.mount.set_status(v1::MOUNT_STATUS_OK);
  if (known.needs_remount()) {
    entry.mount.set_status(v1::MOUNT_STATUS_NEEDS_REMOUNT);
    entry.mount.set_status_message("it is not mounted, but its edits are kept; remount it, or discard them");
  } else if (entry.worker == nullptr || known.worker_pid() == 0) {
    entry.mount.set_status(v1::MOUNT_STATUS_INVALID);
    entry.mount.set_status_message("the process that served the mount has died; unmount it and mount the image again");
  }
  Notices notices;
  {
    absl::MutexLock lock(&mutex_);
    entry.order = ++last_order_;
    Queue(entry, v1::MOUNT_EVENT_ADDED, &notices);
    entries_[known.mount_id()] = std::move(entry);
  }
  Notify(notices);
}

std::vector<MountView> MountRegistry::List(const Caller& caller) {
  std::vector<std::pair<uint64_t, MountView>> found;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, entry] : entries_) {
      if (entry.state != State::kMaking && caller.MaySee(entry.mount.owner_uid())) {
        found.emplace_back(entry.order, ViewOf(entry));
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<MountView> views;
  views.reserve(found.size());
  for (auto& [order, view] : found) views.push_back(std::move(view));
  return views;
}

absl::StatusOr<MountView> MountRegistry::FindById(const Caller& caller, const std::string& mount_id) {
  absl::MutexLock lock(&mutex_);
  auto place = entries_.find(mount_id);
  if (place == entries_.end() || place->second.state == State::kMaking ||
      !caller.MaySee(place->second.mount.owner_uid())) {
    return NotMounted(mount_id);
  }
  return ViewOf(place->second);
}

std::optional<MountView> MountRegistry::FindNewest(const Caller& caller, absl::FunctionRef<bool(const Entry&)> is_it) {
  absl::MutexLock lock(&mutex_);
  const Entry* newest = nullptr;
  for (const auto& [id, entry] : entries_) {
    if (entry.state == State::kMaking || !caller.MaySee(entry.mount.owner_uid()) || !is_it(entry)) continue;
    if (newest == nullptr || entry.order > newest->order) newest = &entry;
  }
  if (newest == nullptr) return std::nullopt;
  return ViewOf(*newest);
}

std::optional<MountView> MountRegistry::FindByPath(const Caller& caller, const std::string& real_path) {
  return FindNewest(caller, [&](const Entry& entry) { return entry.path == real_path; });
}

std::optional<MountView> MountRegistry::FindBySlot(const Caller& caller, uint64_t slot) {
  return FindNewest(caller, [&](const Entry& entry) { return entry.slot == slot; });
}

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
      entry.mount.set_image_index(done->image_index());
      if (!done->image_name().empty()) {
        entry.mount.set_image_name(BoundedText(done->image_name(), kMaxWorkerTextBytes));
      }
      SetStagingFields(done->staging(), &entry.mount);
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

void MountRegistry::Queue(const Entry& entry, v1::MountEvent event, Notices* notices) {
  if (entry.state == State::kMaking) return;
  MountSubscription::Event message;
  for (const auto& subscription : subscriptions_) {
    if (!subscription->MaySee(entry.mount.owner_uid())) continue;
    if (message == nullptr) {
      auto response = std::make_shared<v1::WatchMountsResponse>();
      response->set_event(event);
      *response->mutable_mount() = entry.mount;
      message = std::move(response);
    }
    subscription->Push(message);
    notices->push_back(subscription);
  }
}

void MountRegistry::Notify(const Notices& notices) {
  for (const auto& subscription : notices) subscription->watch().Notify();
}

std::shared_ptr<MountSubscription> MountRegistry::Subscribe(const Caller& caller, std::function<void()> notify) {
  auto subscription = std::make_shared<MountSubscription>(caller.uid, std::move(notify));
  absl::MutexLock lock(&mutex_);
  std::vector<const Entry*> existing;
  for (const auto& [id, entry] : entries_) {
    if (entry.state != State::kMaking && caller.MaySee(entry.mount.owner_uid())) existing.push_back(&entry);
  }
  std::sort(existing.begin(), existing.end(), [](const Entry* a, const Entry* b) { return a->order < b->order; });
  for (const Entry* entry : existing) {
    auto added = std::make_shared<v1::WatchMountsResponse>();
    added->set_event(v1::MOUNT_EVENT_ADDED);
    *added->mutable_mount() = entry->mount;
    subscription->PushExisting(std::move(added));
  }
  auto synced = std::make_shared<v1::WatchMountsResponse>();
  synced->set_event(v1::MOUNT_EVENT_SYNCED);
  subscription->PushExisting(std::move(synced));
  subscriptions_.push_back(subscription);
  return subscription;
}

void MountRegistry::Unsubscribe(const std::shared_ptr<MountSubscription>& subscription) {
  {
    absl::MutexLock lock(&mutex_);
    subscriptions_.remove(subscription);
  }
  subscription->watch().Stop();
}

}  // namespace dismd
