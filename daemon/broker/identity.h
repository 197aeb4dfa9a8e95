// SPDX-License-Identifier: GPL-3.0-or-later
//
// Who is at the other end of a connection, by the kernel's word, and how a child becomes that user.

#ifndef DAEMON_BROKER_IDENTITY_H_
#define DAEMON_BROKER_IDENTITY_H_

#include <sys/capability.h>

#include <cstdint>
#include <initializer_list>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/ipc/become_user.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

// The users of processes that must be nobody's. systemd's map of uids leaves 65520 to 65533 unused, below "nobody"
// (65534), which files of foreign namespaces appear to belong to: no file and no login ever has these. The two differ
// so that a worker of root's that an image has taken over cannot touch the front.
inline constexpr uint32_t kFrontUid = 65521;
inline constexpr uint32_t kRootsWorkerUid = 65522;

struct Peer {
  internal::Identity identity;
  // The peer sees other mounts than we do (a container, a private /tmp), or we cannot tell: its paths would mean other
  // files here.
  bool other_namespace = false;
};

// The process that connected this Unix socket, as it was then.
absl::StatusOr<Peer> IdentifyPeer(int socket);

// Our own identity (rootless: the only one).
internal::Identity OwnIdentity();

UserIds IdsOf(const internal::Identity& identity);

// In a child (daemon/ipc/become_user.h).
absl::Status BecomeUser(const internal::Identity& identity, std::initializer_list<cap_value_t> capabilities);

}  // namespace dismd

#endif  // DAEMON_BROKER_IDENTITY_H_
