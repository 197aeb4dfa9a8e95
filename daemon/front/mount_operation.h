// SPDX-License-Identifier: GPL-3.0-or-later
//
// The run of a MountImage: from two paths to a mount that everybody can see, or to an error and nothing left behind.
//
//   inspect paths (broker) → judge → open image (worker) → judge → check integrity (worker) → judge
//     → open staging (worker, read-write) → make the kernel mount (broker) → serve (worker) → attach (broker): the
//     point of no return → registry

#ifndef DAEMON_FRONT_MOUNT_OPERATION_H_
#define DAEMON_FRONT_MOUNT_OPERATION_H_

#include <memory>

#include "daemon/front/broker_link.h"
#include "daemon/front/cache_budget.h"
#include "daemon/front/caller.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/operation.h"
#include "daemon/front/policy.h"
#include "daemon/front/registry.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

class FileLocks;

// What operations work with.
struct Tools {
  EventLoop& loop;
  BrokerLink& broker;
  MountRegistry& registry;
  CacheBudget& budget;
  const Policy& policy;
  FileLocks& file_locks;
};

// INVALID_PATH, INVALID_IMAGE_NAME: what can be said without looking at any file.
absl::Status CheckMountRequest(const v1::MountImageRequest& request);

// Runs on this thread until the operation's outcome is known, and returns it; the caller finishes the operation with
// it.
absl::Status RunMount(const Tools& tools, Operation& operation, const Caller& caller,
                      const v1::MountImageRequest& request, std::unique_ptr<MountSeat> seat);

// The run of a RemountImage: the same steps, with the staging directory that the mount has left. `seat` is of
// BeginRemount, which gave `view`. MOUNT_INVALID: the image, the mount point or the edits are gone.
absl::Status RunRemount(const Tools& tools, Operation& operation, const Caller& caller, const MountView& view,
                        std::unique_ptr<MountSeat> seat, internal::Committed* last_commit = nullptr);

}  // namespace dismd

#endif  // DAEMON_FRONT_MOUNT_OPERATION_H_
