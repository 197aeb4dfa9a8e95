// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/identity.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

// Linux 6.5; Debian 12's headers do not know it.
constexpr int kSoPeerPidfd = 77;
constexpr int kMaxGroups = 65536;  // the kernel's NGROUPS_MAX

// A descriptor of the peer's process. Before Linux 6.5 only its pid is known, which could be another process's by now
// if the peer has ended since it connected; what is then learnt is checked to be of one process at least.
UniqueFd PeerPidfd(int socket, pid_t pid) {
  int fd = -1;
  socklen_t size = sizeof(fd);
  if (getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &fd, &size) == 0) return UniqueFd(fd);
  return PidfdOpen(pid);
}

bool InOurMountNamespace(int socket, pid_t pid) {
  if (pid <= 0) return false;  // not visible from our pid namespace
  UniqueFd pidfd = PeerPidfd(socket, pid);
  if (!pidfd) return false;
  uint64_t start_time = ProcessStartTime(pid);
  struct stat ours, theirs;
  if (stat("/proc/self/ns/mnt", &ours) != 0) return false;
  if (stat(absl::StrCat("/proc/", pid, "/ns/mnt").c_str(), &theirs) != 0) return false;
  // Only if the process still lives was it the peer's namespace that we looked at.
  if (!PidfdSignal(pidfd, 0) && errno != EPERM) return false;
  if (start_time == 0 || ProcessStartTime(pid) != start_time) return false;
  return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

absl::Status ReadGroups(int socket, internal::Identity* identity) {
  std::vector<gid_t> groups(64);
  socklen_t size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int result = getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  if (result != 0 && errno == ERANGE && size <= kMaxGroups * sizeof(gid_t)) {
    groups.resize(size / sizeof(gid_t));
    result = getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  }
  if (result != 0) return absl::ErrnoToStatus(errno, "SO_PEERGROUPS");
  groups.resize(size / sizeof(gid_t));
  for (gid_t group : groups) identity->add_groups(group);
  return absl::OkStatus();
}

absl::Status TakeIds(uint32_t uid, uint32_t gid, const internal::Identity& groups_of) {
  std::vector<gid_t> groups(groups_of.groups().begin(), groups_of.groups().end());
  if (setgroups(groups.size(), groups.data()) != 0) return absl::ErrnoToStatus(errno, "setgroups");
  if (setresgid(gid, gid, gid) != 0) return absl::ErrnoToStatus(errno, "setresgid");
  if (setresuid(uid, uid, uid) != 0) return absl::ErrnoToStatus(errno, "setresuid");
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

}  // namespace

absl::StatusOr<Peer> IdentifyPeer(int socket) {
  ucred credentials;
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return absl::ErrnoToStatus(errno, "SO_PEERCRED");
  }
  // (uid_t)-1 is what a process without an identity in our user namespace would have: nobody to act for.
  if (credentials.uid == static_cast<uid_t>(-1) || credentials.gid == static_cast<gid_t>(-1)) {
    return absl::PermissionDeniedError("the peer has no identity");
  }
  Peer peer;
  peer.identity.set_uid(credentials.uid);
  peer.identity.set_gid(credentials.gid);
  peer.identity.set_pid(credentials.pid);
  absl::Status groups = ReadGroups(socket, &peer.identity);
  if (!groups.ok()) return groups;
  peer.other_namespace = !InOurMountNamespace(socket, credentials.pid);
  return peer;
}

internal::Identity OwnIdentity() {
  internal::Identity identity;
  identity.set_uid(geteuid());
  identity.set_gid(getegid());
  std::vector<gid_t> groups(kMaxGroups);
  int count = getgroups(kMaxGroups, groups.data());
  for (int i = 0; i < count; ++i) identity.add_groups(groups[static_cast<size_t>(i)]);
  identity.set_pid(getpid());
  return identity;
}

absl::Status BecomeUser(const internal::Identity& identity, std::initializer_list<cap_value_t> capabilities) {
  if (geteuid() != 0) return absl::OkStatus();  // rootless: we are that user, and have nothing to drop
  // All three uids become the caller's, not only the one for files: a FUSE mount of the caller's lets nobody else in.
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_KEEPCAPS");
  absl::Status taken = TakeIds(identity.uid(), identity.gid(), identity);
  return taken.ok() ? KeepOnly(capabilities) : taken;
}

absl::Status BecomeUserForGood(uint32_t uid, uint32_t gid, const internal::Identity& groups_of) {
  if (geteuid() == 0) {
    // The bounding set too, so that no file capability can bring one back.
    for (cap_value_t capability = 0; capability <= CAP_LAST_CAP; ++capability) {
      if (cap_get_bound(capability) > 0) cap_drop_bound(capability);
    }
    absl::Status taken = TakeIds(uid, gid, groups_of);
    if (!taken.ok()) return taken;
    absl::Status kept = KeepOnly({});
    if (!kept.ok()) return kept;
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_NO_NEW_PRIVS");
  return absl::OkStatus();
}

}  // namespace dismd
