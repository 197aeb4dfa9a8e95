// SPDX-License-Identifier: GPL-3.0-or-later
//
// Makes a FUSE mount for a caller and puts it in place. Runs in children (child.h), as root.
//
//   CreateFuseMount   fsopen, fsconfig, fsmount: a mount that nobody sees yet, served through /dev/fuse already
//   AttachFuseMount   checks the mount point once more, on its descriptor, and moves the mount there
//
// Rootless, fusermount3 does both at once (rootless_mount.h).

#ifndef DAEMON_BROKER_MOUNT_FUSE_H_
#define DAEMON_BROKER_MOUNT_FUSE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "dismd/internal/broker.pb.h"

namespace dismd {

// The largest read the kernel sends; the worker tells libfuse the same number.
inline constexpr unsigned kMaxRead = 1 << 20;
// What /sys/class/bdi/MAJ:MIN/read_ahead_kb is raised to: sequential readers then get large requests.
inline constexpr unsigned kReadAheadKilobytes = 1024;
// Of the mount's source in /proc/mounts.
inline constexpr size_t kMaxDescription = 200;

struct FuseMountRequest {
  internal::Identity owner;
  bool read_only = true;
  bool allow_other = false;
  std::string description;
};

// What is left of a description when everything is gone that could confuse a reader of /proc/mounts or a parser of
// mount options. Never empty.
std::string SanitizeDescription(const std::string& description);

// REQUIRES: a child. Descriptors: /dev/fuse, and the detached mount, parked (parked_descriptor.h).
void CreateFuseMount(const FuseMountRequest& request, internal::CreateAnswer* answer, std::vector<int>* descriptors);

// REQUIRES: a child. `parked_mount` is what CreateFuseMount has made, `directory_fd` the mount point that was
// inspected, `parent_fd` and `name` where it was found. Once the mount is attached it is parked no more.
void AttachFuseMount(const internal::Identity& owner, int parked_mount, int directory_fd, int parent_fd,
                     const std::string& name, internal::AttachAnswer* answer);

// Whether `directory_fd` may become `owner`'s mount point now: a directory of theirs, empty, of a file system that may
// carry mounts, nothing mounted on it, and still `name` in `parent_fd`.
absl::Status CheckMountPoint(const internal::Identity& owner, int directory_fd, int parent_fd, const std::string& name);

}  // namespace dismd

#endif  // DAEMON_BROKER_MOUNT_FUSE_H_
