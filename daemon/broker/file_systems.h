// SPDX-License-Identifier: GPL-3.0-or-later
//
// Which file systems an image may lie on, and which may carry a mount.
//
// Thread safety: all functions are pure.

#ifndef DAEMON_BROKER_FILE_SYSTEMS_H_
#define DAEMON_BROKER_FILE_SYSTEMS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace dismd {

// `magic` is statfs(2)'s f_type. `mountinfo_type` is the name in /proc/self/mountinfo, which for FUSE says what is
// behind it ("fuse.sshfs"); empty where unknown.
bool IsNetworkFileSystem(uint64_t magic, std::string_view mountinfo_type);

// Whether a directory of this file system may become a mount point. A list of what is known to be made of ordinary
// directories: never /proc, /sys, cgroups and the like, where a directory is an interface to the kernel.
bool MayCarryMounts(uint64_t magic);

// A name for messages: the type as in mountinfo, else the magic number.
std::string FileSystemName(uint64_t magic, std::string_view mountinfo_type);

// The type of the mount `mount_id` in the text of /proc/self/mountinfo; empty if it is not there.
std::string MountinfoType(std::string_view mountinfo, uint64_t mount_id);

}  // namespace dismd

#endif  // DAEMON_BROKER_FILE_SYSTEMS_H_
