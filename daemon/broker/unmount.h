// SPDX-License-Identifier: GPL-3.0-or-later
//
// Takes a mount of ours away. Runs in a child (child.h): umount2 can wait for the file system below.

#ifndef DAEMON_BROKER_UNMOUNT_H_
#define DAEMON_BROKER_UNMOUNT_H_

#include <string>

#include "dismd/internal/broker.pb.h"

namespace dismd {

struct UnmountRequest {
  internal::Identity owner;
  internal::KernelMount mount;
  int parent_fd = -1;  // the directory that held the mount point; -1: `path` says where
  std::string name;    // in it
  std::string path;
  bool detach = false;  // busy or not
  bool rootless = false;
};

// REQUIRES: a child. A mount that is no longer there counts as taken away (`was_gone`).
void UnmountAs(UnmountRequest request, internal::UnmountAnswer* answer);

// Ends a FUSE connection: whoever waits for an answer gets an error at once. False where the kernel gives no way to
// (no fusectl); closing every /dev/fuse descriptor of the mount does the same.
bool AbortConnection(const internal::KernelMount& mount);

}  // namespace dismd

#endif  // DAEMON_BROKER_UNMOUNT_H_
