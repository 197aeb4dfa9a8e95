// SPDX-License-Identifier: GPL-3.0-or-later
//
// The same as mount_fuse.h and unmount.h for a dismd without root: through the setuid program fusermount3, which needs
// to be started in the directory that was checked, so that it mounts there and nowhere else. Runs in children
// (child.h).

#ifndef DAEMON_BROKER_ROOTLESS_MOUNT_H_
#define DAEMON_BROKER_ROOTLESS_MOUNT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/broker/mount_fuse.h"
#include "dismd/internal/broker.pb.h"

namespace dismd {

// REQUIRES: a child. Mounts visibly at once. Descriptor: /dev/fuse.
void CreateRootlessMount(const FuseMountRequest& request, int directory_fd, int parent_fd, const std::string& name,
                         internal::CreateAnswer* answer, std::vector<int>* descriptors);

// REQUIRES: a child, in the mount point's parent directory. ResourceExhausted: it is busy.
absl::Status RootlessUnmount(const std::string& name, bool detach);

}  // namespace dismd

#endif  // DAEMON_BROKER_ROOTLESS_MOUNT_H_
