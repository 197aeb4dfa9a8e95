// SPDX-License-Identifier: GPL-3.0-or-later
//
// System calls as the broker uses them: the ones glibc 2.36 does not wrap, and the ones that have only one safe way to
// be called on a path or mount of a stranger's.
//
// Thread safety: all functions may be called from anywhere. "Does not ask the file system": never waits for one.

#ifndef DAEMON_BROKER_KERNEL_H_
#define DAEMON_BROKER_KERNEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "dismd/internal/broker.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// openat2. Invalid (errno set) on failure. `resolve` are RESOLVE_ flags; /proc's magic links are never followed, since
// they lead out of what the path says.
libmount::UniqueFd OpenAt2(int directory, const char* path, uint64_t flags, uint64_t resolve = 0);

// Opens anew, with the rights of now, what an O_PATH descriptor refers to.
libmount::UniqueFd Reopen(int path_fd, int flags);

// Which mount a descriptor is in. Does not ask the file system: a stat() of a FUSE mount would, and may never return.
struct MountPosition {
  internal::KernelMount mount;
  bool is_mount_root = false;
};
std::optional<MountPosition> PositionOf(int fd);
// The same for a path whose last component may be a magic link of /proc.
std::optional<MountPosition> PositionOfPath(const char* path);

bool SameMount(const internal::KernelMount& a, const internal::KernelMount& b);
bool SameDevice(const internal::KernelMount& a, const internal::KernelMount& b);

// The path a descriptor has now, as far as we see it. Empty where it has none: deleted, or not below our root.
std::string PathOf(int fd);

// pidfd_open and pidfd_send_signal: glibc 2.36 declares both without C linkage. Signal 0 only asks whether the process
// lives. False, or invalid: errno is set.
libmount::UniqueFd PidfdOpen(int pid);
bool PidfdSignal(const libmount::UniqueFd& pidfd, int signal);

// /proc/PID/stat field 22, which with the pid names a process for good; 0 if there is no such process.
uint64_t ProcessStartTime(int pid);

}  // namespace dismd

#endif  // DAEMON_BROKER_KERNEL_H_
