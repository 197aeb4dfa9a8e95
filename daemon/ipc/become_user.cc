// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/ipc/become_user.h"

#include <errno.h>
#include <grp.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>

namespace dismd {
namespace {

absl::Status TakeIds(const UserIds& ids) {
  if (setgroups(ids.groups.size(), ids.groups.data()) != 0) return absl::ErrnoToStatus(errno, "setgroups");
  if (setresgid(ids.gid, ids.gid, ids.gid) != 0) return absl::ErrnoToStatus(errno, "setresgid");
  if (setresuid(ids.uid, ids.uid, ids.uid) != 0) return absl::ErrnoToStatus(errno, "setresuid");
  return absl::OkStatus();
}

absl::Status KeepOnly(std::initializer_list<cap_value_t> capabilities) {
  cap_t set = cap_init();  // all clear
  if (set == nullptr) return absl::ResourceExhaustedError("cap_init");
  for (cap_value_t capability : capabilities) {
    cap_set_flag(set, CAP_PERMITTED, 1, &capability, CAP_SET);
    cap_set_flag(set, CAP_EFFECTIVE, 1, &capability, CAP_SET);
  }
  int result = cap_set_proc(set);
  int error = errno;
  cap_free(set);
  return result == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, "cap_set_proc");
}

// So that no file capability, nor being root, can bring one of the others back.
void BoundBy(std::initializer_list<cap_value_t> capabilities) {
  for (cap_value_t capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if (std::find(capabilities.begin(), capabilities.end(), capability) != capabilities.end()) continue;
    if (cap_get_bound(capability) > 0) cap_drop_bound(capability);
  }
}

absl::Status ForbidNewPrivileges() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_NO_NEW_PRIVS");
  return absl::OkStatus();
}

}  // namespace

absl::Status BecomeUser(const UserIds& ids, std::initializer_list<cap_value_t> capabilities) {
  if (geteuid() != 0) return absl::OkStatus();
  // All three uids become the user's, not only the one for files: a FUSE mount of the user's lets nobody else in.
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_KEEPCAPS");
  absl::Status taken = TakeIds(ids);
  return taken.ok() ? KeepOnly(capabilities) : taken;
}

absl::Status BecomeUserForGood(const UserIds& ids) {
  if (geteuid() == 0) {
    BoundBy({});
    absl::Status taken = TakeIds(ids);
    if (!taken.ok()) return taken;
    absl::Status kept = KeepOnly({});
    if (!kept.ok()) return kept;
  }
  return ForbidNewPrivileges();
}

absl::Status KeepWhatBecomingTakes() {
  BoundBy({CAP_SETUID, CAP_SETGID, CAP_SETPCAP});
  return ForbidNewPrivileges();
}

}  // namespace dismd
