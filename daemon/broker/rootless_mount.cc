// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/rootless_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/test_seam.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

constexpr char kFusermount[] = "fusermount3";
constexpr size_t kMaxMessage = 4096;

struct Result {
  int exit_code = -1;
  std::string message;  // what it wrote to stderr
};

// Runs fusermount3 here and waits: we are a child with a deadline. `communication` is for _FUSE_COMMFD, or -1.
Result RunFusermount(std::vector<std::string> arguments, int communication) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {-1, strerror(errno)};
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  pid_t pid = fork();
  if (pid < 0) return {-1, strerror(errno)};
  if (pid == 0) {
    dup2(write_end.get(), STDERR_FILENO);
    if (communication >= 0) {
      fcntl(communication, F_SETFD, 0);
      setenv("_FUSE_COMMFD", std::to_string(communication).c_str(), 1);
    }
    setenv("LC_ALL", "C", 1);  // its message is read below
    std::vector<char*> argv = {const_cast<char*>(kFusermount)};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execvp(kFusermount, argv.data());
    dprintf(STDERR_FILENO, "cannot run fusermount3 (package fuse3): %s\n", strerror(errno));
    _exit(127);
  }
  write_end.reset();
  Result result;
  char buffer[512];
  ssize_t n;
  while ((n = read(read_end.get(), buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0 && result.message.size() < kMaxMessage) result.message.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  result.message = std::string(absl::StripTrailingAsciiWhitespace(result.message));
  return result;
}

// fusermount3 sends the descriptor with one byte of data.
UniqueFd ReceiveDescriptor(int socket) {
  char byte;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0) return UniqueFd();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return UniqueFd();
  }
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return UniqueFd(fd);
}

std::string MountOptions(const FuseMountRequest& request) {
  std::vector<std::string> options = {request.read_only ? "ro" : "rw",
                                      "nosuid",
                                      "nodev",
                                      "subtype=dismd",
                                      absl::StrCat("fsname=", SanitizeDescription(request.description)),
                                      absl::StrCat("max_read=", kMaxRead),
                                      "default_permissions"};
  if (request.allow_other) options.push_back("allow_other");
  return absl::StrJoin(options, ",");
}

absl::Status Create(const FuseMountRequest& request, int directory_fd, int parent_fd, const std::string& name,
                    internal::CreateAnswer* answer, std::vector<int>* descriptors) {
  absl::Status checked = CheckMountPoint(request.owner, directory_fd, parent_fd, name);
  if (!checked.ok()) return checked;
  if (fchdir(directory_fd) != 0) return MakeErrnoError(Reason::kAccessDenied, errno, "cannot enter the mount point");
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return MakeErrnoError(Reason::kOutOfResources, errno, "socketpair");
  }
  UniqueFd ours(ends[0]), theirs(ends[1]);
  Result result = RunFusermount({"-o", MountOptions(request), "--", "."}, theirs.get());
  if (result.exit_code != 0) {
    return MakeError(Reason::kOutOfResources, absl::StrCat("fusermount3 cannot mount: ", result.message));
  }
  UniqueFd fuse = ReceiveDescriptor(ours.get());
  if (!fuse) return MakeError(Reason::kOutOfResources, "fusermount3 handed over no descriptor");
  UniqueFd root = OpenAt2(parent_fd, name.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
  std::optional<MountPosition> position = root ? PositionOf(root.get()) : std::nullopt;
  if (!position.has_value() || !position->is_mount_root) {
    return MakeError(Reason::kMountPointNotFound, "the mount point was moved or replaced while it was mounted on");
  }
  *answer->mutable_mount() = position->mount;
  descriptors->push_back(fuse.release());
  return absl::OkStatus();
}

}  // namespace

void CreateRootlessMount(const FuseMountRequest& request, int directory_fd, int parent_fd, const std::string& name,
                         internal::CreateAnswer* answer, std::vector<int>* descriptors) {
  libmount::TestSeam("broker-create-child");
  absl::Status created = Create(request, directory_fd, parent_fd, name, answer, descriptors);
  if (!created.ok()) SetError(created, answer->mutable_error());
}

absl::Status RootlessUnmount(const std::string& name, bool detach) {
  std::vector<std::string> arguments = {"-u"};
  if (detach) arguments.push_back("-z");
  arguments.push_back("--");
  arguments.push_back(name);
  Result result = RunFusermount(arguments, -1);
  if (result.exit_code == 0) return absl::OkStatus();
  if (result.message.find("busy") != std::string::npos) return absl::ResourceExhaustedError("busy");
  return MakeError(Reason::kOutOfResources, absl::StrCat("fusermount3 cannot unmount: ", result.message));
}

}  // namespace dismd
