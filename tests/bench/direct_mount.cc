// SPDX-License-Identifier: GPL-3.0-or-later
//
// Mounts an image with a real worker but without the service, for measuring and profiling the worker alone:
//
//   direct_mount WORKER IMAGE INDEX DIR [CACHE_MIB]
//
// Needs root. Plays front and broker, prints the worker's pid and "mounted", and stays until DIR is unmounted. For each
// line on its input it prints the worker's counters.

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/unique_fd.h"
#include "libmount/fuse/fuse_server.h"

namespace {

using dismd::Channel;
using dismd::internal::WorkerToFront;
using libmount::UniqueFd;

constexpr uid_t kWorkerUid = 65534;

[[noreturn]] void Die(const std::string& what) {
  fprintf(stderr, "direct_mount: %s: %s\n", what.c_str(), strerror(errno));
  exit(1);
}

std::pair<UniqueFd, UniqueFd> Pair() {
  auto pair = Channel::CreatePair();
  if (!pair.ok()) Die("socketpair");
  return *std::move(pair);
}

pid_t StartWorker(const char* program, const UniqueFd& control, const UniqueFd& broker, const UniqueFd& image) {
  pid_t child = fork();
  if (child != 0) return child;
  int moved[] = {fcntl(control.get(), F_DUPFD, 20), fcntl(broker.get(), F_DUPFD, 20), fcntl(image.get(), F_DUPFD, 20),
                 fcntl(broker.get(), F_DUPFD, 20)};  // the last one stands for the broker's end, which it never uses
  for (int i = 0; i < 4; ++i) dup2(moved[i], 3 + i);
  if (setgid(kWorkerUid) != 0 || setuid(kWorkerUid) != 0) Die("setuid");
  execl(program, "dismd-worker", "--mount-id=direct", nullptr);
  Die(program);
}

WorkerToFront Expect(Channel& front, WorkerToFront::MessageCase wanted) {
  WorkerToFront message;
  std::vector<UniqueFd> fds;
  for (;;) {
    auto received = front.Receive(&message, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) Die("the worker has gone");
    if (message.message_case() == wanted) return message;
    if (message.has_error()) Die(message.error().message());
  }
}

// The detached mount and the descriptor to serve it.
std::pair<UniqueFd, UniqueFd> MakeMount() {
  UniqueFd fuse(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "fuse", FSOPEN_CLOEXEC)));
  if (!fuse || !context) Die("fsopen");
  auto set = [&](const char* key, const std::string& value) {
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) != 0) Die(key);
  };
  set("source", "direct_mount");
  set("fd", std::to_string(fuse.get()));
  set("rootmode", "40000");
  set("user_id", "0");
  set("group_id", "0");
  set("max_read", std::to_string(libmount::kFuseMaxRead));
  for (const char* flag : {"default_permissions", "allow_other", "ro"}) {
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, flag, nullptr, 0) != 0) Die(flag);
  }
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) Die("fsconfig");
  constexpr unsigned kAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY;
  UniqueFd mount(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, kAttributes)));
  if (!mount) Die("fsmount");
  return {std::move(mount), std::move(fuse)};
}

void RaiseReadAhead(const UniqueFd& mount) {
  struct statx st = {};
  if (statx(mount.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &st) != 0) Die("statx");
  std::string path =
      "/sys/class/bdi/" + std::to_string(st.stx_dev_major) + ":" + std::to_string(st.stx_dev_minor) + "/read_ahead_kb";
  FILE* file = fopen(path.c_str(), "w");
  if (file == nullptr) Die(path);
  fprintf(file, "%u\n", libmount::kFuseMaxRead / 1024);
  fclose(file);
}

// The next message, and counters for who asks for them, until the mount has ended.
void PrintCountersUntilUnmounted(Channel& front) {
  pollfd entries[] = {{front.fd(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
  for (;;) {
    poll(entries, 2, -1);
    if (entries[1].revents != 0) {
      char line[256];
      if (read(STDIN_FILENO, line, sizeof(line)) <= 0) entries[1].fd = -1;
      dismd::internal::FrontToWorker request;
      request.mutable_get_stats();
      if (!front.Send(request).ok()) return;
    }
    if (entries[0].revents == 0) continue;
    WorkerToFront message;
    std::vector<UniqueFd> fds;
    auto received = front.Receive(&message, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage || message.has_serving_ended()) return;
    const dismd::internal::WorkerStats& stats = message.stats();
    printf("requests %lu, reads %lu, MiB read %lu, chunks decoded %lu, cache hits %lu, resident MiB %lu\n",
           stats.requests(), stats.reads(), stats.bytes_read() >> 20, stats.chunks_decoded(), stats.cache_hits(),
           stats.resident_bytes() >> 20);
    fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: direct_mount WORKER IMAGE INDEX DIR [CACHE_MIB]\n");
    return 2;
  }
  auto [front_end, control] = Pair();
  auto [broker_end, broker] = Pair();
  UniqueFd image(open(argv[2], O_RDONLY | O_CLOEXEC));
  if (!image) Die(argv[2]);
  pid_t worker = StartWorker(argv[1], control, broker, image);
  control.reset();
  broker.reset();
  Channel front(std::move(front_end)), from_broker(std::move(broker_end));

  dismd::internal::FrontToWorker request;
  request.set_request_id(1);
  auto& open = *request.mutable_open_image();
  open.set_image_name_for_messages(basename(argv[2]));
  open.set_image_index(static_cast<uint32_t>(atoi(argv[3])));
  open.set_read_only(true);
  open.set_cache_budget((argc > 5 ? strtoull(argv[5], nullptr, 10) : 16) << 20);
  if (!front.Send(request).ok()) Die("send");
  Expect(front, WorkerToFront::kImageOpened);

  {
    auto [mount, fuse] = MakeMount();
    dismd::internal::BrokerToWorker message;
    message.mutable_fuse_descriptor();
    if (!from_broker.Send(message, {fuse.get()}).ok()) Die("send");
    Expect(front, WorkerToFront::kServing);
    RaiseReadAhead(mount);
    if (syscall(SYS_move_mount, mount.get(), "", AT_FDCWD, argv[4], MOVE_MOUNT_F_EMPTY_PATH) != 0) Die("move_mount");
  }
  printf("worker %d\nmounted\n", worker);
  fflush(stdout);
  PrintCountersUntilUnmounted(front);
  int status = 0;
  waitpid(worker, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
