// SPDX-License-Identifier: GPL-3.0-or-later
//
// MountRegistry: the mounts that are there or being made.
//
//   Reserve ── making (unseen, holds a seat and its path) ── Publish ── mounted ── BeginUnmount ── unmounting ──
//   removed
//                                                                          ▲────── EndUnmount(false) ──┘
//
// A read-write mount that goes while its edits are kept becomes dormant (NEEDS_REMOUNT): it stays here, without a slot.
// A commit and a remount occupy a mount like an unmount does; one operation at a time works on a mount.
//
// What happens to a mount (damage, a changed image, a worker's death, an umount by hand) is told here, by slot, from
// the moment that the slot is known, and reaches whoever watches.
//
// Thread safety: all methods are thread-safe and none waits, but BeginUnmount.

#ifndef DAEMON_FRONT_REGISTRY_H_
#define DAEMON_FRONT_REGISTRY_H_

#include <algorithm>
#include <compare>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "daemon/front/caller.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/mount_subscription.h"
#include "daemon/front/worker_link.h"
#include "dismd/internal/control.pb.h"
#include "dismd/v1/types.pb.h"

namespace dismd {

class MountRegistry;

// Which file an image lies in, whatever path led there.
struct ImageFile {
  uint64_t device = 0;
  uint64_t inode = 0;
  auto operator<=>(const ImageFile&) const = default;
};

// What an operation needs of a mount; a copy.
struct MountView {
  v1::Mount mount;
  uint64_t slot = 0;
  std::shared_ptr<WorkerLink> worker;  // null: none is known
  ImageFile file;
  std::vector<ImageFile> parents;  // of a differencing disk: the files that it stands on
  std::string path;                // real, as bytes
  std::string image_path;          // likewise
  bool held = false;               // unmounted already, by a front before this one, for a commit
};

// For the broker to keep, and to hand to a next front.
std::string RecordOf(const v1::Mount& mount, const std::vector<ImageFile>& parents);
inline std::string RecordOf(const MountView& view) { return RecordOf(view.mount, view.parents); }

// A place for a mount being made; given back by the destructor unless published.
class MountSeat {
 public:
  // `remount`: the place is that of a dormant mount, which it is again if nothing comes of it.
  MountSeat(MountRegistry& registry, std::string mount_id, bool remount)
      : registry_(registry), mount_id_(std::move(mount_id)), remount_(remount) {}
  ~MountSeat();
  MountSeat(const MountSeat&) = delete;
  MountSeat& operator=(const MountSeat&) = delete;

  const std::string& mount_id() const { return mount_id_; }
  bool is_remount() const { return remount_; }

  // Binds the slot, and claims the path. MOUNT_POINT_IN_USE: another mount is being made there.
  absl::Status Claim(uint64_t slot, const std::string& real_mount_path);

  // Of a disk, before it is opened. IMAGE_IN_USE: a commit is writing into it, or was broken off.
  absl::Status CheckWhole(const ImageFile& file, const std::string& real_image_path);

  // What is to be mounted; asked before a read-write mount: ALREADY_MOUNTED_READ_WRITE, also by one that needs a
  // remount or is being made. IMAGE_IN_USE: the file, or a parent, was changed as a whole meanwhile, or is.
  absl::Status ClaimImage(const ImageFile& file, const std::string& real_image_path, std::vector<ImageFile> parents,
                          uint32_t index, bool read_write);

  // The mount is there, and everybody may know.
  void Publish(const v1::Mount& mount, std::shared_ptr<WorkerLink> worker);

 private:
  MountRegistry& registry_;
  const std::string mount_id_;
  const bool remount_;
  bool published_ = false;
};

class MountRegistry {
 public:
  // `on_gone` is called (from any thread, without locks; it must not block) for a slot whose mount someone else took
  // away.
  explicit MountRegistry(std::function<void(uint64_t slot)> on_gone) : on_gone_(std::move(on_gone)) {}
  MountRegistry(const MountRegistry&) = delete;
  MountRegistry& operator=(const MountRegistry&) = delete;

  // TOO_MANY_MOUNTS.
  absl::StatusOr<std::unique_ptr<MountSeat>> Reserve(uint32_t owner);

  // A mount made by a front before this one. `worker` may be null.
  void Restore(const internal::KnownSlot& known, std::shared_ptr<WorkerLink> worker);

  // In order of mount time; what the caller may see.
  std::vector<MountView> List(const Caller& caller);
  // NOT_MOUNTED, also for other users' mounts.
  absl::StatusOr<MountView> FindById(const Caller& caller, const std::string& mount_id);
  // Nothing: no mount of the caller's is registered at exactly this path, or in this slot.
  std::optional<MountView> FindByPath(const Caller& caller, const std::string& real_path);
  std::optional<MountView> FindBySlot(const Caller& caller, uint64_t slot);

  // Waits while another unmount of the mount runs. NOT_MOUNTED: it is gone meanwhile. CANCELLED. OPERATION_IN_PROGRESS:
  // a commit or a remount.
  absl::StatusOr<MountView> BeginUnmount(const std::string& mount_id, CancelToken& cancel);
  // The same without waiting: OPERATION_IN_PROGRESS for another unmount, too.
  absl::StatusOr<MountView> BeginUnmountNow(const std::string& mount_id);
  void EndUnmount(const std::string& mount_id, bool removed);
  // Instead of EndUnmount: the mount is gone, its staged edits are kept.
  void EndUnmountDormant(const std::string& mount_id, const std::string& message);

  // NOT_MOUNTED, OPERATION_IN_PROGRESS, NEEDS_REMOUNT, MOUNT_INVALID.
  absl::StatusOr<MountView> BeginCommit(const std::string& mount_id);
  // `done`: what it came to, null where it failed.
  void EndCommit(const std::string& mount_id, const internal::Committed* done);

  // NOT_MOUNTED, OPERATION_IN_PROGRESS, NOT_REMOUNTABLE, MOUNT_INVALID. The seat's end without Publish leaves it
  // dormant.
  absl::StatusOr<std::unique_ptr<MountSeat>> BeginRemount(const std::string& mount_id, MountView* view);
  // What a dormant mount needs is not there any more.
  void InvalidateDormant(const std::string& mount_id, const std::string& message);

  // A commit of the mount is going to change the file as a whole: to put another one in its place, or to write into a
  // disk. IMAGE_IN_USE: there are other mounts of the file, or of a differencing disk that stands on it, also unseen or
  // dormant ones. From here on until EndExclusive there will be none.
  absl::Status BeginExclusive(const std::string& mount_id);
  // `file`: what the image is now; null: as before.
  void EndExclusive(const std::string& mount_id, const ImageFile* file);
  // Whether BeginExclusive would do.
  absl::Status CheckAlone(const std::string& mount_id);

  // Of a disk: whether it is between two states; see Mount.commit_pending.
  void SetCommitPending(const std::string& mount_id, bool pending);

  // The mounts of a file that are served, but for `mount_id`.
  std::vector<MountView> OthersOf(const ImageFile& file, const std::string& mount_id);

  // Waits until the mount has another worker than `before`, at most `patience`. Null: it has not.
  std::shared_ptr<WorkerLink> AwaitOtherWorker(const std::string& mount_id, const std::shared_ptr<WorkerLink>& before,
                                               absl::Duration patience);

  // Events of workers and the broker.
  void OnWorkerEvent(uint64_t slot, const internal::WorkerToFront& event);
  void OnWorkerExited(uint64_t slot, int exit_status);
  void OnWorkerReplaced(uint64_t slot, int pid, std::shared_ptr<WorkerLink> worker);
  void OnMountGone(uint64_t slot);
  void SetStaging(uint64_t slot, const internal::StagingState& staging);

  // ADDED for each mount, SYNCED, then what happens.
  std::shared_ptr<MountSubscription> Subscribe(const Caller& caller, std::function<void()> notify);
  void Unsubscribe(const std::shared_ptr<MountSubscription>& subscription);

 private:
  friend class MountSeat;
  enum class State { kMaking, kMounted, kUnmounting, kCommitting, kRemounting };
  struct Entry {
    State state = State::kMaking;
    uint64_t slot = 0;
    uint64_t order = 0;
    std::string path;  // real, as bytes; Mount.mount_path is what protobuf can carry of it
    std::string image_path;
    ImageFile file;
    std::vector<ImageFile> parents;
    bool claimed_writing = false;  // of one being made
    bool exclusive = false;        // its image is being changed as a whole
    absl::Time begun;              // of one being made: since then its paths may have been looked at
    v1::Mount mount;
    std::shared_ptr<WorkerLink> worker;
    std::string invalid_meanwhile;  // of one being remounted: why it is invalid, if it comes to be mounted
    bool gone = false;
    bool held = false;
    bool served_to_the_end = false;  // the worker says that the kernel unmounted it
  };
  using Notices = std::vector<std::shared_ptr<MountSubscription>>;

  Entry* EntryOfSlot(uint64_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What `caller` may see and is mounted (or being unmounted), the newest first, that fulfils `is_it`.
  std::optional<MountView> FindNewest(const Caller& caller, absl::FunctionRef<bool(const Entry&)> is_it);
  void Invalidate(uint64_t slot, const std::string& message);
  void AddDamage(uint64_t slot, const internal::Damage& damage);
  // Queues the event for whoever may see it; tell them with Notify once the lock is released.
  void Queue(const Entry& entry, v1::MountEvent event, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Notify(const Notices& notices);
  static MountView ViewOf(const Entry& entry) {
    return {entry.mount, entry.slot, entry.worker, entry.file, entry.parents, entry.path, entry.image_path, entry.held};
  }
  static absl::Status Occupied(const Entry& entry);
  void MakeDormant(Entry* entry, const std::string& message, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The other mount that writes this image; null: none.
  const Entry* FindWriter(const std::string& mount_id, const Entry& wanted, uint32_t index)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ChangedSince(absl::Time begun, const ImageFile& file) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveBack(const std::string& mount_id);
  absl::Status CheckAloneLocked(const std::string& mount_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool SameFile(const Entry& a, const Entry& b) {
    // Also by path: after a restart of the machine a disk may have another number.
    return a.file == b.file || a.image_path == b.image_path;
  }
  static bool StandsOn(const Entry& child, const ImageFile& file) {
    return std::find(child.parents.begin(), child.parents.end(), file) != child.parents.end();
  }
  // Whether `entry`'s image, or what it stands on, is that of `other`.
  static bool Shows(const Entry& entry, const Entry& other) {
    return SameFile(entry, other) || StandsOn(entry, other.file);
  }

  const std::function<void(uint64_t)> on_gone_;
  absl::Mutex mutex_;
  absl::CondVar changed_;  // an operation has ended, a worker was replaced
  uint64_t last_order_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  // Files that were changed as a whole until then: who has looked at one before must look again.
  std::map<ImageFile, absl::Time> changed_files_ ABSL_GUARDED_BY(mutex_);
  std::list<std::shared_ptr<MountSubscription>> subscriptions_ ABSL_GUARDED_BY(mutex_);
};

// What a mount says of its staged edits.
void SetStagingFields(const internal::StagingState& staging, v1::Mount* mount);
// And of the image that it shows after a commit.
void SetCommittedFields(const internal::Committed& committed, v1::Mount* mount);

// The answer wherever there is no such mount, or it is somebody else's: the two must look the same.
absl::Status NotMounted(const std::string& path_or_id);

}  // namespace dismd

#endif  // DAEMON_FRONT_REGISTRY_H_
