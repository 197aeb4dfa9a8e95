// SPDX-License-Identifier: GPL-3.0-or-later
//
// Starts the service's other programs, and watches them end.

#ifndef DAEMON_BROKER_PROCESS_H_
#define DAEMON_BROKER_PROCESS_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/broker/event_loop.h"
#include "daemon/ipc/become_user.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

struct ProgramStart {
  std::string path;
  std::vector<std::string> arguments;  // without the program's name
  std::vector<int> fds;                // become 3, 4, 5, ... ; nothing else is inherited above 2
  UserIds user;                        // whom it runs as
  bool becomes_user_itself = false;    // later: it starts as who we are, with no more rights than that takes
};

// A started program. Its death is waited for through a pidfd; it does not end with this object.
class Process {
 public:
  Process() = default;
  Process(Process&&) = default;
  Process& operator=(Process&&) = default;

  // One that an earlier process of ours started: its status is not told when it ends.
  static Process Adopt(pid_t pid, uint64_t start_time, libmount::UniqueFd pidfd);

  bool running() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  uint64_t start_time() const { return start_time_; }

  // No-op on one that has ended: through the pidfd, never another process that got its number.
  void Signal(int signal);

  // Once, when it has ended: `on_exit` with the status of wait(2) (kUnknownStatus for an adopted one).
  absl::Status WatchExit(EventLoop* loop, std::function<void(int status)> on_exit);
  // Ends it, and waits until it has ended. REQUIRES: it is a child of ours.
  void KillAndWait(EventLoop* loop);
  // In the loop or not: gives up watching (the process goes on).
  void Forget(EventLoop* loop);
  // The same, and hands it on, to be watched elsewhere.
  Process TakeOut(EventLoop* loop);

 private:
  friend absl::StatusOr<Process> StartProgram(const ProgramStart& start);
  pid_t pid_ = 0;
  uint64_t start_time_ = 0;
  libmount::UniqueFd pidfd_;
};

inline constexpr int kUnknownStatus = -1;

// The program runs as the user given, in a session of its own, in "/", with a small environment of ours, without
// capabilities, and cannot gain any. That it could not be executed shows as its exit with kExecFailed.
absl::StatusOr<Process> StartProgram(const ProgramStart& start);
inline constexpr int kExecFailed = 127;

// "exit code 3", "killed by signal 9 (Killed)".
std::string DescribeExit(int status);

}  // namespace dismd

#endif  // DAEMON_BROKER_PROCESS_H_
