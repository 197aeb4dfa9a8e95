// SPDX-License-Identifier: GPL-3.0-or-later
//
// The run of a CommitImage, and the commit of an UnmountImage.
//
//   occupy the mount → wait for other commits of the file → (a disk, a rebuild: see that no other mount shows the file)
//     → tell the other mounts of the file → commit (worker) → tell the others that it is over
//
// A worker that dies while it commits is replaced, and the replacement knows what became of the commit.

#ifndef DAEMON_FRONT_COMMIT_OPERATION_H_
#define DAEMON_FRONT_COMMIT_OPERATION_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/front/mount_operation.h"

namespace dismd {

// MOUNT_READ_ONLY, INVALID_FLAGS.
absl::Status CheckCommit(const v1::Mount& mount, const v1::CommitOptions& options);

// Whether the commit puts another file in the image's place, or writes into a disk: only where no other mount shows the
// file (IMAGE_IN_USE).
bool ChangesWholeFile(const v1::Mount& mount, const v1::CommitOptions& options);

// What the broker keeps of a mount, as it is now.
void SaveRecord(const Tools& tools, const std::string& mount_id, const libmount::LogContext& context);

// Mount.commit_pending of a disk. Before a commit it is noted that it may be so, also with the broker; where the commit
// fails, the worker is asked whether it is. Nothing happens to a WIM.
void NoteCommitPending(const Tools& tools, const MountView& view, const libmount::LogContext& context);
void RenewCommitPending(const Tools& tools, MountView* view);

// REQUIRES: CheckCommit said OK. The operation's stream may end; this goes on. OPERATION_IN_PROGRESS, IMAGE_CHANGED,
// IMAGE_IN_USE, DISK_FULL, CANCELLED (the file is as before), ...
absl::Status RunCommit(const Tools& tools, Operation& operation, const std::string& mount_id,
                       const v1::CommitOptions& options);

// The commit itself, of a mount that the caller of this has occupied. `wait_for_replacement`: the mount is served, so
// that a worker that dies is replaced; else WORKER_DIED is the answer, and the outcome is not known.
absl::StatusOr<internal::Committed> CommitOccupied(const Tools& tools, Operation& operation, const MountView& view,
                                                   const v1::CommitOptions& options, bool wait_for_replacement);

}  // namespace dismd

#endif  // DAEMON_FRONT_COMMIT_OPERATION_H_
