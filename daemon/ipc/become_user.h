// SPDX-License-Identifier: GPL-3.0-or-later
//
// How a process of the service that was started by root becomes a user's.
//
// Thread safety: called before there are threads.

#ifndef DAEMON_IPC_BECOME_USER_H_
#define DAEMON_IPC_BECOME_USER_H_

#include <sys/capability.h>
#include <sys/types.h>

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "absl/status/status.h"

namespace dismd {

struct UserIds {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// Takes these ids for good, keeping only `capabilities` (of those that we have). For root too, the capabilities are all
// that is left. Not as root: does nothing, there is nothing to drop.
absl::Status BecomeUser(const UserIds& ids, std::initializer_list<cap_value_t> capabilities);

// The same with no capabilities, none to be regained, and no new privileges.
absl::Status BecomeUserForGood(const UserIds& ids);

// Before exec, as root: the program goes on as root, with no capabilities but those that BecomeUserForGood takes, and
// no new privileges.
absl::Status KeepWhatBecomingTakes();

}  // namespace dismd

#endif  // DAEMON_IPC_BECOME_USER_H_
