// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/identity.h"

#include <errno.h>
#include <signal.h>
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

UserIds IdsOf(const internal::Identity& identity) {
  return {identity.uid(), identity.gid(), {identity.groups().begin(), identity.groups().end()}};
}

absl::Status BecomeUser(const internal::Identity& identity, std::initializer_list<cap_value_t> capabilities) {
  return BecomeUser(IdsOf(identity), capabilities);
}

}  // namespace dismd
