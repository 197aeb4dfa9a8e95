// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

std::string& SocketPath() {
  static std::string* const path = new std::string;
  return *path;
}

}  // namespace

void InitNotify() {
  const char* path = getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  if (strlen(path) < sizeof(sockaddr_un::sun_path)) SocketPath() = path;
  unsetenv("NOTIFY_SOCKET");
}

void RestoreNotify() {
  if (!SocketPath().empty()) setenv("NOTIFY_SOCKET", SocketPath().c_str(), 1);
}

void Notify(const std::string& state) {
  const std::string& path = SocketPath();
  if (path.empty()) return;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // an abstract address
  socklen_t length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  libmount::UniqueFd socket_fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sendto(socket_fd.get(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
         reinterpret_cast<sockaddr*>(&address), length);
}

}  // namespace dismd
