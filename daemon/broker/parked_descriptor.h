// SPDX-License-Identifier: GPL-3.0-or-later
//
// A descriptor parked in the queue of a socket. A process that is forked has a copy of every descriptor until it closes
// it, which can be long after its parent has; but what lies in a queue it has no copy of. A mount is parked between its
// making and its attaching: a copy, held by whoever was forked in between, would keep the visible mount busy.

#ifndef DAEMON_BROKER_PARKED_DESCRIPTOR_H_
#define DAEMON_BROKER_PARKED_DESCRIPTOR_H_

#include "absl/status/statusor.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// Returns the socket; close-on-exec. It keeps `fd`'s open file open until DropParked, or until its last copy is closed.
absl::StatusOr<libmount::UniqueFd> ParkDescriptor(int fd);

// A descriptor of the open file, close-on-exec; it stays parked.
absl::StatusOr<libmount::UniqueFd> BorrowParked(int socket);

// Closes what is parked, for all who have the socket.
void DropParked(int socket);

}  // namespace dismd

#endif  // DAEMON_BROKER_PARKED_DESCRIPTOR_H_
