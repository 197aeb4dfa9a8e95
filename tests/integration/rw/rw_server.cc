// SPDX-License-Identifier: GPL-3.0-or-later
//
// A server of a read-write mount for tests: FuseServer over a JournaledTree, in a process of its own that can be
// killed.
//
//   rw_server --tree=DIR --fd=N [--inflight=N] [--saved=FILE] [--no-resend]     serves the descriptor
//   rw_server --tree=DIR --mount=MOUNT_POINT                                    mounts, serves until unmounted
//
// Where the file of --saved exists, it is the INIT exchange of the process that died; else this one writes it. "ready"
// on the standard output: the mount works.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libmount/base/log.h"
#include "libmount/fuse/fuse_server.h"
#include "tests/unit/journaled_tree.h"

namespace libmount {
namespace {

struct Arguments {
  std::string tree, mount, saved;
  int fd = -1, inflight = -1;
  bool resend = true;
};

Arguments Parse(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    std::string value = values[i];
    auto take = [&](const std::string& name) {
      return value.rfind(name, 0) == 0 ? std::optional<std::string>(value.substr(name.size())) : std::nullopt;
    };
    if (auto tree = take("--tree=")) arguments.tree = *tree;
    if (auto mount = take("--mount=")) arguments.mount = *mount;
    if (auto saved = take("--saved=")) arguments.saved = *saved;
    if (auto fd = take("--fd=")) arguments.fd = atoi(fd->c_str());
    if (auto inflight = take("--inflight=")) arguments.inflight = atoi(inflight->c_str());
    if (value == "--no-resend") arguments.resend = false;
  }
  return arguments;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The request's length first, in text, then both.
std::optional<FuseServer::InitExchange> Load(const std::string& path) {
  if (path.empty() || access(path.c_str(), F_OK) != 0) return std::nullopt;
  std::string all = ReadFile(path);
  size_t line = all.find('\n');
  size_t size = strtoul(all.c_str(), nullptr, 10);
  return FuseServer::InitExchange{all.substr(line + 1, size), all.substr(line + 1 + size)};
}

void Save(const std::string& path, const FuseServer::InitExchange& exchange) {
  std::ofstream(path + ".new", std::ios::binary) << exchange.request.size() << "\n"
                                                 << exchange.request << exchange.reply;
  if (rename((path + ".new").c_str(), path.c_str()) != 0) abort();
}

int Mount(const std::string& where) {
  int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  std::string options = absl::StrCat("fd=", fd, ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
                                     ",max_read=", kFuseMaxRead);
  if (fd < 0 || mount("rw_server", where.c_str(), "fuse.rw_server", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
    perror("mount");
    exit(1);
  }
  return fd;
}

int Serve(Arguments arguments) {
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;  // one for each file of the tree
  setrlimit(RLIMIT_NOFILE, &files);
  InitLogging("rw_server", Severity::kDebug);
  if (!arguments.mount.empty()) arguments.fd = Mount(arguments.mount);
  FuseServerOptions options;
  options.resend = arguments.resend;
  FuseServer::Recovery recovery;
  recovery.init = Load(arguments.saved);
  recovery.inflight.reset(arguments.inflight);
  const bool first = !recovery.init.has_value();
  JournaledTree tree(UniqueFd(open(arguments.tree.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  FuseServer server(&tree, options);
  absl::Notification ended;
  absl::Status started = server.Start(
      UniqueFd(arguments.fd), std::move(recovery),
      [&] {
        if (first && !arguments.saved.empty()) Save(arguments.saved, *server.init_exchange());
        puts("ready");
        fflush(stdout);
      },
      [&](const absl::Status&) { ended.Notify(); });
  if (!started.ok()) {
    fprintf(stderr, "%s\n", started.ToString().c_str());
    return 1;
  }
  ended.WaitForNotification();
  return 0;
}

}  // namespace
}  // namespace libmount

int main(int count, char** values) { return libmount::Serve(libmount::Parse(count, values)); }
