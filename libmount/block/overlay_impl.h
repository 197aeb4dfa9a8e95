// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice as it is made: overlay.cc has opening and reading, overlay_groups.cc writing, overlay_sync.cc what
// reaches the disk and when space is given back, overlay_snapshot.cc the commits' side.
//
// What is in staging is never written over: a cluster that is written gets a new slot each time, and the old one is
// punched out when nothing can refer to it any more. So a Read takes no lock: it looks into the map, reads slots, and
// looks whether any was punched meanwhile (punches_), in which case it reads again.
//
// Lock order: a group (OwnGroup) before sync_mutex_, before mutex_, before buffer_mutex_.

#ifndef LIBMOUNT_BLOCK_OVERLAY_IMPL_H_
#define LIBMOUNT_BLOCK_OVERLAY_IMPL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/errno_or.h"
#include "libmount/block/overlay.h"
#include "libmount/block/overlay_records.h"
#include "libmount/staging/arena.h"
#include "libmount/staging/edit_log.h"
#include "libmount/staging/staging_files.h"

namespace libmount {

class OverlayImpl final : public OverlayDevice {
 public:
  OverlayImpl(std::unique_ptr<StagingFiles> files, const BlockDevice* base, uint64_t rewrite_log_at)
      : files_(std::move(files)),
        base_(base),
        size_(base->size()),
        rewrite_log_at_(rewrite_log_at),
        state_((size_ + kClusterSize - 1) / kClusterSize),
        rewrite_at_(rewrite_log_at) {}
  absl::Status Init(const OverlayOptions& options);

  uint64_t size() const override { return size_; }
  uint32_t sector_size() const override { return base_->sector_size(); }
  int Read(uint64_t offset, absl::Span<char> out) const override;
  int Write(uint64_t offset, absl::Span<const char> data) override;
  int Sync() override;

  void Begin(uint64_t request) override;
  int End(const Reply& reply) override;
  void Abort() override;
  std::optional<Reply> FindReply(uint64_t request) const override;

  bool has_changes() const override;
  bool commit_pending() const override;
  absl::StatusOr<std::shared_ptr<const Snapshot>> TakeSnapshot() override;
  absl::Status NoteCommitBegun() override;
  absl::Status FinishCommit(std::string new_base_identity) override;
  void AbandonCommit() override;
  Stats GetStats() const override;

 private:
  class RunSnapshot;

  // Small writes of a group are gathered here, and get slots next to each other when it ends or this is full.
  static constexpr size_t kMaxBuffered = StagedExtent::kMaxCount;
  // A group that changes more clusters fails with ENOSPC: 16 GiB, known by 64 MiB of memory.
  static constexpr size_t kMaxGroupClusters = size_t{4} << 20;

  // The group that is open; its owner's alone.
  struct Group {
    uint64_t request = 0;
    int error = 0;  // the first one of its writes
    std::vector<StagedExtent> extents;
    std::vector<std::pair<uint64_t, ClusterMap::Entry>> before;  // what it changed in the map, in order
    std::vector<ArenaRange> allocated;
  };

  // --- overlay.cc
  int ReadOnce(uint64_t offset, absl::Span<char> out, bool& read_slots) const;
  // False: it is not there (any more).
  bool ReadBuffered(uint64_t cluster, uint64_t offset_in_cluster, absl::Span<char> out) const;
  absl::Status Recover(const OverlayReplay& replay, const OverlayOptions& options);

  // --- overlay_groups.cc
  bool HasOpenGroup() const ABSL_LOCKS_EXCLUDED(group_mutex_);
  void OpenGroup() ABSL_LOCKS_EXCLUDED(group_mutex_);
  void CloseGroup() ABSL_LOCKS_EXCLUDED(group_mutex_);
  int WriteInGroup(uint64_t offset, absl::Span<const char> data);
  int WriteWhole(uint64_t cluster, absl::Span<const char> data);
  int WriteBuffered(uint64_t cluster, uint64_t offset_in_cluster, absl::Span<const char> data);
  int FlushBuffer();
  // Slots next to each other, of the open group.
  ErrnoOr<uint64_t> AllocateSlots(uint64_t count);
  // Where a cluster is to be read from now on. ENOSPC: there is no room in the map.
  int PrepareChange(uint64_t cluster, uint64_t count);
  int LogGroup(const Reply& reply);
  void Revert();

  // While it lives, this thread has a group open: nobody changes the map or adds groups to the log.
  class OwnGroup {
   public:
    explicit OwnGroup(OverlayImpl* device) : device_(device) { device_->OpenGroup(); }
    ~OwnGroup() { device_->CloseGroup(); }
    OwnGroup(const OwnGroup&) = delete;
    OwnGroup& operator=(const OwnGroup&) = delete;

   private:
    OverlayImpl* const device_;
  };

  // --- overlay_sync.cc
  int SyncOnce();
  bool SyncIsDue() const;
  int AppendNote(const EditWriter& edits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // REQUIRES: this thread has a group open, of which nothing is buffered or waits for the log.
  int RewriteLog() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(uint64_t slot, uint64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Punch(std::vector<ArenaRange> ranges);

  const std::unique_ptr<StagingFiles> files_;
  const BlockDevice* const base_;
  const uint64_t size_;
  const uint64_t rewrite_log_at_;
  std::unique_ptr<EditLog> log_;
  std::unique_ptr<Arena> arena_;
  // The map in it: changed by the owner of the group. The rest: guarded by mutex_.
  OverlayState state_;
  std::atomic<uint64_t> punches_ = 0;

  mutable absl::Mutex group_mutex_;
  bool group_open_ ABSL_GUARDED_BY(group_mutex_) = false;
  std::thread::id owner_ ABSL_GUARDED_BY(group_mutex_);
  Group group_;

  mutable absl::Mutex buffer_mutex_;
  std::vector<char> buffer_ ABSL_GUARDED_BY(buffer_mutex_);            // clusters
  std::vector<uint64_t> buffer_order_ ABSL_GUARDED_BY(buffer_mutex_);  // which ones
  absl::flat_hash_map<uint64_t, size_t> buffer_index_ ABSL_GUARDED_BY(buffer_mutex_);

  mutable absl::Mutex mutex_;
  uint64_t rewrite_at_ ABSL_GUARDED_BY(mutex_);
  uint64_t unmarked_log_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t unsynced_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // Freed since the last sync; and before it, by groups whose mark the next sync brings to the disk.
  std::vector<ArenaRange> freed_ ABSL_GUARDED_BY(mutex_);
  std::vector<ArenaRange> freed_before_sync_ ABSL_GUARDED_BY(mutex_);
  uint64_t freed_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<RunSnapshot> snapshot_ ABSL_GUARDED_BY(mutex_);

  // One sync at a time, for all who wait.
  absl::Mutex sync_mutex_;
  bool syncing_ ABSL_GUARDED_BY(sync_mutex_) = false;
  uint64_t syncs_wanted_ ABSL_GUARDED_BY(sync_mutex_) = 0;
  uint64_t syncs_done_ ABSL_GUARDED_BY(sync_mutex_) = 0;
  int sync_error_ ABSL_GUARDED_BY(sync_mutex_) = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_OVERLAY_IMPL_H_
