// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/child.h"
#include "daemon/broker/kernel.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

constexpr int kFirstPassedFd = 3;

// What of our environment the other programs see. Nothing that a loader or a library would obey, except in test builds.
constexpr const char* kPassedVariables[] = {
    "JOURNAL_STREAM",
#ifdef DISMD_TEST_SEAMS
    "DISMD_TEST_SEAM_DIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS",
#endif
};

std::vector<std::string> Environment() {
  std::vector<std::string> environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  for (const char* name : kPassedVariables) {
    if (const char* value = getenv(name)) environment.push_back(absl::StrCat(name, "=", value));
  }
  return environment;
}

std::vector<char*> Pointers(std::vector<std::string>* strings) {
  std::vector<char*> pointers;
  for (std::string& text : *strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Puts copies of `fds` at 3, 4, 5, ... and closes everything above.
bool PlaceDescriptors(const std::vector<int>& fds) {
  // First out of the way, so that placing one does not overwrite another.
  int clear = kFirstPassedFd + static_cast<int>(fds.size());
  std::vector<int> moved;
  moved.reserve(fds.size());
  for (int fd : fds) moved.push_back(fcntl(fd, F_DUPFD, clear));
  int target = kFirstPassedFd;
  for (int fd : moved) {
    if (fd < 0 || dup2(fd, target++) < 0) return false;
  }
  return close_range(static_cast<unsigned>(target), ~0U, 0) == 0;
}

[[noreturn]] void ChildMain(const ProgramStart& start, int program_fd, char* const* argv, char* const* envp) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setsid();
  umask(077);
  int null = open("/dev/null", O_RDWR);
  if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || chdir("/") != 0) _exit(kExecFailed);
  // The program is started through its descriptor: the user it runs as need not reach the folder it lies in. It becomes
  // the last one placed, and is closed by exec.
  std::vector<int> fds = start.fds;
  fds.push_back(program_fd);
  if (!PlaceDescriptors(fds)) _exit(kExecFailed);
  int placed_program = kFirstPassedFd + static_cast<int>(start.fds.size());
  fcntl(placed_program, F_SETFD, FD_CLOEXEC);
  absl::Status became = start.becomes_user_itself ? KeepWhatBecomingTakes() : BecomeUserForGood(start.user);
  if (!became.ok()) _exit(kExecFailed);
  execve(start.path.c_str(), argv, envp);
  execveat(placed_program, "", argv, envp, AT_EMPTY_PATH);
  _exit(kExecFailed);
}

}  // namespace

absl::StatusOr<Process> StartProgram(const ProgramStart& start) {
  UniqueFd program(open(start.path.c_str(), O_PATH | O_CLOEXEC));
  if (!program) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", start.path));
  std::vector<std::string> arguments = {start.path.substr(start.path.rfind('/') + 1)};
  arguments.insert(arguments.end(), start.arguments.begin(), start.arguments.end());
  std::vector<std::string> environment = Environment();
  std::vector<char*> argv = Pointers(&arguments), envp = Pointers(&environment);
  pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "cannot start a process");
  if (pid == 0) ChildMain(start, program.get(), argv.data(), envp.data());
  Process process;
  process.pid_ = pid;
  process.start_time_ = ProcessStartTime(pid);
  process.pidfd_ = PidfdOpen(pid);
  if (!process.pidfd_) {
    int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(error, "cannot watch a process");
  }
  return process;
}

Process Process::Adopt(pid_t pid, uint64_t start_time, UniqueFd pidfd) {
  Process process;
  process.pid_ = pid;
  process.start_time_ = start_time;
  process.pidfd_ = std::move(pidfd);
  return process;
}

void Process::Signal(int signal) {
  if (running()) PidfdSignal(pidfd_, signal);
}

absl::Status Process::WatchExit(EventLoop* loop, std::function<void(int)> on_exit) {
  return loop->Watch(pidfd_.get(), EPOLLIN, [this, loop, on_exit = std::move(on_exit)](uint32_t) {
    int status = 0;
    pid_t waited = waitpid(pid_, &status, WNOHANG);
    if (waited == 0) return;
    if (waited < 0) status = kUnknownStatus;  // not our child; its descriptor says that it has ended
    auto callback = on_exit;                  // outlives the watch
    Forget(loop);
    callback(status);
  });
}

void Process::KillAndWait(EventLoop* loop) {
  if (!running()) return;
  Signal(SIGKILL);
  waitpid(pid_, nullptr, 0);
  Forget(loop);
}

void Process::Forget(EventLoop* loop) {
  if (pidfd_) loop->Unwatch(pidfd_.get());
  pidfd_.reset();
  pid_ = 0;
}

Process Process::TakeOut(EventLoop* loop) {
  if (pidfd_) loop->Unwatch(pidfd_.get());
  Process taken = std::move(*this);
  pid_ = 0;
  return taken;
}

std::string DescribeExit(int status) {
  if (status == kUnknownStatus) return "it was started by an earlier dismd, which alone would know how";
  if (WIFEXITED(status) && WEXITSTATUS(status) == kExecFailed) return "it could not be executed";
  if (WIFEXITED(status)) return absl::StrCat("exit code ", WEXITSTATUS(status));
  return absl::StrCat("killed by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
}

}  // namespace dismd
