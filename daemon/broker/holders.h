// SPDX-License-Identifier: GPL-3.0-or-later
//
// Which processes keep a mount busy.

#ifndef DAEMON_BROKER_HOLDERS_H_
#define DAEMON_BROKER_HOLDERS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "dismd/internal/broker.pb.h"

namespace dismd {

inline constexpr int kMaxHolders = 16;

// Processes of `uid` with a working or root directory, a program, an open file or a mapping in `mount`. Others' are not
// told: they are not the caller's business. Never asks the mount itself; run in a child nevertheless, since a process
// may hold descriptors of any file system.
internal::BusyMount FindHolders(uint32_t uid, const internal::KernelMount& mount);

// " by vim (4711), bash (4712)", or what can be said if there is none.
std::string DescribeHolders(const internal::BusyMount& busy);

// Whether the text of /proc/PID/maps has a mapping of a file of this device.
bool MapsDevice(std::string_view maps, uint32_t device_major, uint32_t device_minor);

}  // namespace dismd

#endif  // DAEMON_BROKER_HOLDERS_H_
