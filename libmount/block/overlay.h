// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice: a disk and the changes made to it, which live in a staging directory until they are committed. The
// disk beneath is only read.
//
// Writes come in groups, one for each operation of what is above (a file made, say): a group that was ended is there
// whole after a death of the process, and none of it if it was not ended. Opened on an empty directory the device
// begins with no changes; on one that another process has left, it goes on with the groups that that one had ended.
// README.md tells what lies in the directory and what survives what.
//
//   device->Begin(request.id);
//   ... device->Write(...), device->Read(...) ...
//   error = device->End({operation, node});    // 0: done, for good. Else: none of it is done
//
// Thread safety: Read, Sync and the const methods may be called from any number of threads at once; no Read waits for
// anything but the disk. One thread at a time has a group open: Begin waits for the end of another's. Within it, that
// thread reads what it has written; others get the old or the new (and again the old, where it is given up). A Write
// of a thread that has no group open is a group of its own.

#ifndef LIBMOUNT_BLOCK_OVERLAY_H_
#define LIBMOUNT_BLOCK_OVERLAY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/block_device.h"

namespace libmount {

class StagingFiles;  // how staging reaches its directory; tests put one that loses what was not synced

struct OverlayOptions {
  // What tells whether the disk beneath is still the one that it was: size, times and identifiers of its files, in any
  // form. At most OverlayDevice::kMaxIdentity bytes.
  std::string base_identity;
  // This process takes the place of one that died, and serves the same kernel mount: the kernel's request numbers go
  // on. False for a new mount: numbers of former ones are forgotten.
  bool resumed = false;
  // The log is written anew from this size on, once it is also several times what is needed.
  uint64_t rewrite_log_at = uint64_t{64} << 20;
};

class OverlayDevice : public WritableBlockDevice {
 public:
  static constexpr uint64_t kClusterSize = 4096;
  static constexpr size_t kMaxIdentity = 4096;

  // What a request was answered, for when it comes again. The device only keeps it.
  struct Reply {
    uint32_t operation = 0;  // less than 256
    uint64_t result = 0;
  };

  // `base` must outlive the device. Only one process at a time may have a directory open (kImageInUse).
  // kImageChanged: the changes in the directory were made to a disk of another identity (and no commit was under way,
  // which changes it). kBadImageFormat: what lies in the directory is not of this disk, or damaged beyond a torn end;
  // kOutOfResources, kDiskFull.
  static absl::StatusOr<std::unique_ptr<OverlayDevice>> Open(UniqueFd directory, const BlockDevice* base,
                                                             const OverlayOptions& options);
  static absl::StatusOr<std::unique_ptr<OverlayDevice>> OpenOn(std::unique_ptr<StagingFiles> files,
                                                               const BlockDevice* base, const OverlayOptions& options);

  // --- groups
  // `request`: number of the kernel's request, for FindReply; 0: none.
  // REQUIRES: this thread has no group open.
  virtual void Begin(uint64_t request) = 0;
  // 0: the group outlives this process, and, if it wrote anything, its reply. ENOSPC, EDQUOT, EIO, ENOMEM: what a Write
  // in it failed with (or this call): none of its writes were done, as if by Abort. Either way no group is open then.
  // What is above and remembers what it wrote has to forget it after an error.
  virtual int End(const Reply& reply) = 0;
  virtual void Abort() = 0;

  // Of the last requests that wrote something.
  virtual std::optional<Reply> FindReply(uint64_t request) const = 0;

  // --- a commit (overlay_commit.h)
  // Clusters that are changed, next to each other here and in staging.
  struct Run {
    uint64_t offset = 0;  // bytes, on the disk
    uint64_t length = 0;
    uint64_t staged_at = 0;  // bytes, in staging
  };
  // What was changed when it was taken, in order of the disk. Later writes do not touch it.
  class Snapshot {
   public:
    virtual ~Snapshot() = default;
    virtual const std::vector<Run>& runs() const = 0;
    virtual uint64_t bytes() const = 0;
    // Of one run: all of `out`. 0 or an errno.
    virtual int Read(const Run& run, uint64_t offset_in_run, absl::Span<char> out) const = 0;
  };

  // Whether there is anything that a commit would write.
  virtual bool has_changes() const = 0;
  // Whether a commit has begun to write into the disk beneath, and has not finished: then the disk is only whole with
  // these changes laid over it, and another commit has to be made.
  virtual bool commit_pending() const = 0;

  // Syncs, and waits for the end of an open group. One at a time (kFailedPrecondition); it ends with FinishCommit or
  // AbandonCommit.
  virtual absl::StatusOr<std::shared_ptr<const Snapshot>> TakeSnapshot() = 0;
  // Notes, on the disk, that from now on the disk beneath is written to: commit_pending.
  virtual absl::Status NoteCommitBegun() = 0;
  // The disk beneath has all that is in the snapshot, synced, and shows it when it is read; its identity is a new one.
  virtual absl::Status FinishCommit(std::string new_base_identity) = 0;
  virtual void AbandonCommit() = 0;

  struct Stats {
    uint64_t changed_bytes = 0;  // whole clusters
    uint64_t log_bytes = 0;
    // Where in staging the next write goes, in bytes: what is written later lies behind it, as long as there is
    // anything to commit.
    uint64_t staged_end = 0;
  };
  virtual Stats GetStats() const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_OVERLAY_H_
