// SPDX-License-Identifier: GPL-3.0-or-later
//
// dismd-front: everything that parses what clients send. Started by the broker, without privileges; descriptor 3 is the
// socket to it.

#include <grpc/support/log.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/connections.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/service.h"
#include "daemon/front/text.h"
#include "libmount/base/log.h"
#include "libmount/base/unique_fd.h"

namespace {

constexpr int kBrokerDescriptor = 3;
// What is left to be done when the broker is gone, or has been told that all is done, takes no longer.
constexpr unsigned kEndSeconds = 10;
constexpr size_t kMaxGrpcLogBytes = 512;

bool IsSocket(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

// gRPC quotes what clients send, byte for byte, and would write that to our standard error: nobody must be able to put
// lines of their own making into the log.
void LogForGrpc(gpr_log_func_args* args) {
  libmount::Log(args->severity == GPR_LOG_SEVERITY_ERROR ? libmount::Severity::kWarning : libmount::Severity::kDebug,
                absl::StrCat("gRPC: ", dismd::BoundedText(args->message, kMaxGrpcLogBytes)));
}

// Whatever goes wrong in a parser here, there is nothing to be gained by it.
void DropWhatIsNotNeeded() {
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);  // no ptrace, no core with others' messages in it
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;  // two for each connection, one for each mount
    setrlimit(RLIMIT_NOFILE, &files);
  }
  // The broker decides when the service ends; a terminal's Ctrl-C reaches all processes.
  for (int ignored : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(ignored, SIG_IGN);
}

}  // namespace

int main() {
  if (!IsSocket(kBrokerDescriptor)) {
    fputs("dismd-front is started by dismd, with a socket as descriptor 3. See dismd --help.\n", stderr);
    return 2;
  }
  libmount::InitLogging("front");
  gpr_set_log_function(LogForGrpc);
#ifdef NDEBUG
  // Debian's Abseil looks for cycles of locks at every Lock, and ends the process at the first that could be one: right
  // for tests, not for a service.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  DropWhatIsNotNeeded();
  {
    dismd::EventLoop loop;
    dismd::Service service(loop, libmount::UniqueFd(kBrokerDescriptor));
    dismd::Connections connections(loop, service);
    service.Start([&connections](libmount::UniqueFd socket, dismd::Caller caller) {
      connections.Serve(std::move(socket), std::move(caller));
    });
    service.WaitForEnd();
    if (service.LeavesWork()) _exit(0);
    alarm(kEndSeconds);
    service.Close();
  }
  return 0;
}
