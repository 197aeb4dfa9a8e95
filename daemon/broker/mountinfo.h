// SPDX-License-Identifier: GPL-3.0-or-later
//
// /proc/self/mountinfo: what is mounted where, told by the kernel without asking any file system.

#ifndef DAEMON_BROKER_MOUNTINFO_H_
#define DAEMON_BROKER_MOUNTINFO_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dismd/internal/broker.pb.h"

namespace dismd {

struct MountinfoEntry {
  uint64_t mount_id = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  std::string mount_point;  // unescaped
  std::string type;         // "ext4", "fuse.dismd"
  // Of a FUSE mount: the user who made it, whose program answers. fusermount3 lets nobody choose another.
  std::optional<uint32_t> fuse_user;
};

// The whole text; empty if it cannot be read.
std::string ReadMountinfo();

// The entry with this id.
std::optional<MountinfoEntry> FindMount(std::string_view mountinfo, uint64_t mount_id);

// Whether `mount` is attached in our namespace.
bool IsAttached(std::string_view mountinfo, const internal::KernelMount& mount);

}  // namespace dismd

#endif  // DAEMON_BROKER_MOUNTINFO_H_
