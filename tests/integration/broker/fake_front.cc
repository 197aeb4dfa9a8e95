// SPDX-License-Identifier: GPL-3.0-or-later
//
// Stands in for dismd-front: hands its channel to the broker over to the test, which speaks for it, and ends when the
// test closes the connection (or the broker signals it).

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main() {
  const char* directory = getenv("DISMD_TEST_SEAM_DIR");
  if (directory == nullptr) return 10;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, directory, sizeof(address.sun_path) - 12);
  strcat(address.sun_path, "/front.sock");
  int test = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(test, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return 11;

  int channel = 3;
  char byte = 0;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &channel, sizeof(int));
  if (sendmsg(test, &message, 0) != 1) return 12;
  close(channel);
  while (read(test, &byte, 1) > 0) {
  }
  return 0;
}
