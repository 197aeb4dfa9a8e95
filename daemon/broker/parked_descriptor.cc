// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/parked_descriptor.h"

#include <errno.h>
#include <sys/socket.h>

#include <cstring>

namespace dismd {
namespace {

using libmount::UniqueFd;

// A message of one byte with one descriptor.
struct Message {
  Message() {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  char byte = 0;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
};

}  // namespace

absl::StatusOr<UniqueFd> ParkDescriptor(int fd) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return absl::ErrnoToStatus(errno, "socketpair");
  UniqueFd sender(ends[0]), parked(ends[1]);
  Message message;
  cmsghdr* rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  if (sendmsg(sender.get(), &message.header, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
    return absl::ErrnoToStatus(errno, "park a descriptor");
  }
  return parked;
}

absl::StatusOr<UniqueFd> BorrowParked(int socket) {
  Message message;
  if (recvmsg(socket, &message.header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) {
    return absl::ErrnoToStatus(errno, "look for a parked descriptor");
  }
  cmsghdr* rights = CMSG_FIRSTHDR(&message.header);
  if (rights == nullptr || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS ||
      rights->cmsg_len != CMSG_LEN(sizeof(int))) {
    return absl::ResourceExhaustedError("a parked descriptor cannot be had");
  }
  int fd;
  memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
  return UniqueFd(fd);
}

void DropParked(int socket) {
  char byte;
  // No room for descriptors is given, so the kernel closes it.
  while (recv(socket, &byte, 1, MSG_DONTWAIT) < 0 && errno == EINTR) {
  }
}

}  // namespace dismd
