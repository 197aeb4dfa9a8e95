// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/registry.h"

#include <algorithm>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "daemon/front/errors.h"
#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;

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

void SetCommittedFields(const internal::Committed& committed, v1::Mount* mount) {
  mount->set_image_index(committed.image_index());
  if (!committed.image_name().empty()) mount->set_image_name(BoundedText(committed.image_name(), kMaxWorkerTextBytes));
  SetStagingFields(committed.staging(), mount);
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
  entry.mount.set_scratch_directory(ToValidUtf8(known.scratch_directory()));
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
