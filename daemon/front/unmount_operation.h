// SPDX-License-Identifier: GPL-3.0-or-later
//
// The run of an UnmountImage (also as part of a clean-up, or of the service's stop).

#ifndef DAEMON_FRONT_UNMOUNT_OPERATION_H_
#define DAEMON_FRONT_UNMOUNT_OPERATION_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/front/commit_operation.h"
#include "daemon/front/mount_operation.h"

namespace dismd {

// The caller's mount with this path or id: a registered path as it is, else where the path leads for the caller.
// NOT_MOUNTED, INVALID_PATH, CANCELLED; or why the path could not be looked at.
absl::StatusOr<MountView> FindMount(const Tools& tools, const Caller& caller, const std::string& mount_path,
                                    const std::string& mount_id, CancelToken& cancel);

// What becomes of the staged edits of a read-write mount.
enum class Edits { kDiscard, kKeep };

// Has the mount's worker say what is staged now, for the view and for the registry: workers tell of it from time to
// time. False: it does not say.
bool RefreshStaging(const Tools& tools, MountView* view);

// Unmounts and waits until the serving process is gone. One unmount of a mount runs at a time; a second one waits, and
// finds it NOT_MOUNTED if the first succeeded. MOUNT_BUSY, CANCELLED (only before it begins). With kKeep a read-write
// mount becomes one that needs a remount. `force`: busy or not.
absl::Status RunUnmount(const Tools& tools, const std::string& mount_id, CancelToken& cancel,
                        const libmount::LogContext& log_context, Edits edits, bool force = false);
// The same; `view` is of BeginUnmount.
absl::Status RunUnmount(const Tools& tools, absl::StatusOr<MountView> view, const libmount::LogContext& log_context,
                        Edits edits, bool force = false);

// Unmounts, then commits: so nothing is written that the commit does not have, and one that is busy has not been
// committed. Where the commit fails, the mount is brought back. `view` is of BeginUnmount.
absl::Status RunCommittingUnmount(const Tools& tools, Operation& operation, const Caller& caller,
                                  absl::StatusOr<MountView> view, const v1::CommitOptions& options,
                                  const CommitShare& share = nullptr);

}  // namespace dismd

#endif  // DAEMON_FRONT_UNMOUNT_OPERATION_H_
