// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/spare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "daemon/ipc/become_user.h"
#include "daemon/ipc/channel.h"
#include "daemon/ipc/spare_arguments.h"
#include "dismd/internal/control.pb.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

constexpr int kFirstFd = 3;  // where the socket is, and then what came through it

// Puts them at 3, 4, 5, ..., as the broker does for a worker that it starts.
absl::Status Place(std::vector<UniqueFd> fds) {
  const int clear = kFirstFd + static_cast<int>(fds.size());
  for (UniqueFd& fd : fds) {  // out of the way first
    fd.reset(fcntl(fd.get(), F_DUPFD_CLOEXEC, clear));
    if (!fd) return absl::ErrnoToStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  }
  int target = kFirstFd;
  for (const UniqueFd& fd : fds) {
    if (dup2(fd.get(), target++) < 0) return absl::ErrnoToStatus(errno, "dup2");
  }
  return absl::OkStatus();
}

// For ps: what the command line would be, in the place of the argument that was made long enough for it.
void ShowArguments(const std::vector<std::string>& arguments, char* place) {
  const size_t size = strlen(place);
  std::string text;
  for (const std::string& argument : arguments) text += (text.empty() ? "" : std::string(1, '\0')) + argument;
  text.resize(size);  // with zeros
  memcpy(place, text.data(), size);
}

absl::Status Await(internal::BecomeWorker* message, std::vector<UniqueFd>* fds) {
  Channel channel{UniqueFd(kFirstFd)};
  absl::StatusOr<Channel::Received> received = channel.Receive(message, fds);
  if (!received.ok()) return received.status();
  if (*received != Channel::Received::kMessage) _exit(EXIT_SUCCESS);
  return channel.SendNow(internal::WorkerTaken());
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AwaitArguments(int argc, char** argv) {
  if (argc != 2 || !IsSpareArgument(argv[1])) return std::vector<std::string>(argv + std::min(argc, 1), argv + argc);
  internal::BecomeWorker now;
  std::vector<UniqueFd> fds;
  absl::Status status = Await(&now, &fds);
  if (status.ok()) status = BecomeUserForGood({now.uid(), now.gid(), {now.groups().begin(), now.groups().end()}});
  if (status.ok()) status = Place(std::move(fds));
  if (!status.ok()) return status;
  std::vector<std::string> arguments(now.arguments().begin(), now.arguments().end());
  ShowArguments(arguments, argv[1]);
  return arguments;
}

}  // namespace dismd
