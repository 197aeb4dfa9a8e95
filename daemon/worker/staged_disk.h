// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedDisk: a disk that is changed and committed: an overlay that takes the writes, the NTFS volume on it, and what
// must be remembered beside it so that another process can go on.
//
//   STAGING/log, data, lock   the overlay (libmount/block)
//   STAGING/mount             a StagedMountState: how far a commit has got
//
// A commit is begun in `mount`, then in the overlay's log, which is the point of no return; it ends in the overlay, and
// then in `mount`. A process that finds one begun in `mount`:
//
//   the overlay says that it is pending     it is finished (FinishCommit), and then done
//   not, and the file is as it was before   nothing of it happened
//   not, and the file is another            it was done; the overlay, which was told of it, knows the file as it is
//
// Thread safety: Commit and FinishCommit from one thread at a time; the others from any.

#ifndef DAEMON_WORKER_STAGED_DISK_H_
#define DAEMON_WORKER_STAGED_DISK_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/worker/staged_state.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/disk_image.h"
#include "libmount/block/overlay.h"
#include "libmount/block/partitions.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/ntfs/overlay_groups.h"

namespace dismd {

class StagedDisk {
 public:
  struct Options {
    // These outlive the object.
    const libmount::UniqueFd* image = nullptr;  // open for writing
    libmount::DiskImage* disk = nullptr;
    const libmount::BlockDevice* device = nullptr;  // the disk as it is read
    libmount::UniqueFd staging;
    std::string image_name;  // the file's, for messages
    uint64_t volume_offset = 0;
    uint64_t volume_size = 0;
    uint64_t volume_writable = 0;  // bytes of it
    bool resumed = false;          // takes the place of a process that died
    libmount::NtfsTreeOptions tree;
  };

  // kImageChanged: edits are there, made to another state of the disk; kVolumeHibernated; kBadImageFormat;
  // kOutOfResources.
  static absl::StatusOr<std::unique_ptr<StagedDisk>> Open(Options options);

  libmount::NtfsTree* tree() { return tree_.get(); }

  // kImageInUse: another program has the file locked. kImageChanged, kCancelled and others: the file is as before,
  // unless a commit is pending then.
  absl::StatusOr<internal::Committed> Commit(const internal::Commit& request, libmount::OperationMonitor& monitor);
  absl::Status FinishCommit(libmount::OperationMonitor& monitor);

  internal::Committed LastCommit() const;
  internal::StagingState GetState() const;

 private:
  explicit StagedDisk(Options options) : options_(std::move(options)) {}

  absl::Status OpenOverlay(const std::string& identity);
  absl::Status FindOutcome(const std::string& identity);
  absl::Status OpenVolume();
  absl::Status WriteOverlay(libmount::OperationMonitor& monitor);
  bool has_changes() const;

  Options options_;
  StagedState state_{options_.staging.get()};
  // Each stands on the one before.
  std::unique_ptr<libmount::OverlayDevice> overlay_;
  std::unique_ptr<libmount::OverlayGroups> groups_;
  std::unique_ptr<libmount::WritablePartitionDevice> volume_;
  std::unique_ptr<libmount::NtfsTree> tree_;
};

}  // namespace dismd

#endif  // DAEMON_WORKER_STAGED_DISK_H_
