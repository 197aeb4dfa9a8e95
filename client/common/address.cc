// SPDX-License-Identifier: Apache-2.0

#include "client/common/address.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "client/common/unique_fd.h"

namespace dismd {
namespace {

constexpr char kSystemSocket[] = "/run/dismd/dismd.sock";

bool IsSocket(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
}

}  // namespace

std::string SocketPath(const std::string& address) {
  std::string wanted = address;
  if (wanted.empty()) {
    if (const char* variable = secure_getenv("DISMD_ADDRESS"); variable != nullptr) wanted = variable;
  }
  if (wanted.empty()) {
    const char* runtime_dir = secure_getenv("XDG_RUNTIME_DIR");
    std::string own = runtime_dir == nullptr ? "" : std::string(runtime_dir) + "/dismd/dismd.sock";
    return !own.empty() && own[0] == '/' && IsSocket(own) ? own : kSystemSocket;
  }
  if (wanted.rfind("unix://", 0) == 0) {
    wanted.erase(0, strlen("unix://"));
  } else if (wanted.rfind("unix:", 0) == 0) {
    wanted.erase(0, strlen("unix:"));
  } else if (wanted[0] != '/') {
    return "";
  }
  return wanted.size() < sizeof(sockaddr_un::sun_path) ? wanted : "";
}

std::string DescribeUnreachable(const std::string& socket_path) {
  if (socket_path.empty()) {
    return "the address of the service makes no sense: it is unix:PATH, with at most 107 bytes of path "
           "(see DISMD_ADDRESS)";
  }
  // gRPC's own words are of little help; the kernel's answer to one more connect says what is wrong.
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, socket_path.data(), socket_path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const bool connected = connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
  const int error = connected ? 0 : errno;
  if (error == EACCES || error == EPERM) {
    return "no permission to talk to the dismd service at unix:" + socket_path;
  }
  if (connected || error == EAGAIN) {
    return "the dismd service at unix:" + socket_path + " ended the connection; see its log, then try again";
  }
  return "no dismd service answers at unix:" + socket_path + " (" + strerror(error) +
         "); start it (systemctl start dismd, or dismd --socket PATH --state-dir DIR) or set DISMD_ADDRESS=unix:PATH";
}

}  // namespace dismd
