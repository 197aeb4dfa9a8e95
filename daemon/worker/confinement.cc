// SPDX-License-Identifier: GPL-3.0-or-later
//
// Which files a worker of a read-write mount can open: those beneath its staging directory. The system call filter
// cannot tell, since it does not see paths; Landlock does.

#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/worker/sandbox.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

absl::Status ConfineToDirectory(int directory) {
#ifdef DISMD_TEST_SEAMS
  // Test builds stop at files elsewhere.
  static_cast<void>(directory);
  return absl::OkStatus();
#else
  constexpr uint64_t kStagingUse = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                   LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                                   LANDLOCK_ACCESS_FS_REMOVE_FILE;
  landlock_ruleset_attr attributes = {};
  // All that the first version of Landlock knows (Linux 5.13).
  attributes.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
  libmount::UniqueFd rules(static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0)));
  // A kernel without it: the worker has the rights of its user then, as any program of that one.
  if (!rules && (errno == ENOSYS || errno == EOPNOTSUPP)) return absl::OkStatus();
  landlock_path_beneath_attr beneath = {};
  beneath.allowed_access = kStagingUse;
  beneath.parent_fd = directory;
  if (!rules || syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0 ||
      syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0) {
    return absl::ErrnoToStatus(errno, "confining the process to its staging directory");
  }
  return absl::OkStatus();
#endif
}

}  // namespace dismd
