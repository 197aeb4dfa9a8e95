// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace dismd {
namespace {

// Decoding a solid chunk of 64 MiB takes that much for its input and output in each thread, and the chunk cache may be
// lent a gigabyte.
[[maybe_unused]] constexpr rlim_t kAddressSpaceBytes = rlim_t{6} << 30;
// A split set has at most 999 parts, each an open file.
constexpr rlim_t kOpenFiles = 1200;

absl::Status CheckSocket(int fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || domain != AF_UNIX || type != SOCK_SEQPACKET) {
    return absl::FailedPreconditionError(absl::StrCat("descriptor ", fd, " is not a socket of the service"));
  }
  return absl::OkStatus();
}

absl::Status CheckImage(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("descriptor ", fd, " is not a regular file"));
  }
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_WRONLY) {
    return absl::FailedPreconditionError(absl::StrCat("descriptor ", fd, " is not open for reading"));
  }
  return absl::OkStatus();
}

absl::Status CloseOnExec(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "fcntl(FD_CLOEXEC)");
  return absl::OkStatus();
}

absl::Status DropCapabilities() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_NO_NEW_PRIVS");
  // Without CAP_SETPCAP the bounding set stays; with no_new_privs and no exec it gives nothing.
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return absl::ErrnoToStatus(errno, "PR_CAP_AMBIENT");
  cap_t none = cap_init();
  if (none == nullptr) return absl::ErrnoToStatus(errno, "cap_init");
  int failed = cap_set_proc(none);
  int error = errno;
  cap_free(none);
  if (failed != 0) return absl::ErrnoToStatus(error, "cap_set_proc");
  return absl::OkStatus();
}

absl::Status Limit(__rlimit_resource resource, rlim_t value) {
  rlimit now;
  if (getrlimit(resource, &now) != 0) return absl::ErrnoToStatus(errno, "getrlimit");
  if (now.rlim_max < value) value = now.rlim_max;  // never raised
  rlimit limit = {value, value};
  if (setrlimit(resource, &limit) != 0) return absl::ErrnoToStatus(errno, "setrlimit");
  return absl::OkStatus();
}

// Other processes of the same uid can then neither trace the worker nor take its descriptors (the socket to the broker
// among them). Root can.
absl::Status Hide() {
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_DUMPABLE");
  return absl::OkStatus();
}

// Where broker and worker run as one user and without root, what hides the worker hides it from the next broker as
// well. That user's programs gain nothing by it that they could not do to the broker; and other workers can trace
// nobody.
absl::Status LetBeAdopted() {
  // Yama, where the system has it, allows none but ancestors: a broker after one that was killed is none.
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "PR_SET_DUMPABLE");
  return absl::OkStatus();
}

absl::Status SetLimits() {
  // RLIMIT_NPROC counts the processes of the uid, not of this one, and would fail on a busy user: the system call
  // filter bounds what may be cloned instead. RLIMIT_FSIZE would hit the log.
  absl::Status status = Limit(RLIMIT_CORE, 0);
  if (status.ok()) status = Limit(RLIMIT_NOFILE, kOpenFiles);
  if (status.ok()) status = Limit(RLIMIT_MEMLOCK, 0);
  if (status.ok()) status = Limit(RLIMIT_MSGQUEUE, 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they reserve terabytes
  if (status.ok()) status = Limit(RLIMIT_AS, kAddressSpaceBytes);
#endif
  return status;
}

}  // namespace

absl::Status CheckDescriptors(bool* with_staging) {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // A closed one would be taken by the next descriptor opened, and messages would go there.
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) {
      return absl::FailedPreconditionError("the standard descriptors are not open");
    }
  }
  for (int fd : {kControlFd, kBrokerFd, kBrokerEndFd}) {
    if (absl::Status status = CheckSocket(fd); !status.ok()) return status;
  }
  if (absl::Status status = CheckImage(kImageFd); !status.ok()) return status;
  for (int fd : {kControlFd, kBrokerFd, kImageFd, kBrokerEndFd}) {
    if (absl::Status status = CloseOnExec(fd); !status.ok()) return status;
  }
  struct stat staging;
  *with_staging = fstat(kStagingFd, &staging) == 0 && S_ISDIR(staging.st_mode);
  if (*with_staging) {
    if (absl::Status status = CloseOnExec(kStagingFd); !status.ok()) return status;
  }
  if (close_range(*with_staging ? kStagingFd + 1 : kStagingFd, ~0U, 0) != 0)
    return absl::ErrnoToStatus(errno, "close_range");
  return absl::OkStatus();
}

absl::Status EnterSandbox(bool with_staging, bool adoptable) {
  umask(0077);
  if (chdir("/") != 0) return absl::ErrnoToStatus(errno, "chdir");
  // Huge pages would make every half-used buffer resident as a whole.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  if (absl::Status status = SetLimits(); !status.ok()) return status;
  if (absl::Status status = DropCapabilities(); !status.ok()) return status;
  // Last of the process's attributes, since a change of credentials sets it anew.
  if (absl::Status status = adoptable ? LetBeAdopted() : Hide(); !status.ok()) return status;
  if (with_staging) {
    if (absl::Status status = ConfineToDirectory(kStagingFd); !status.ok()) return status;
  }
  return FilterSystemCalls(with_staging);
}

}  // namespace dismd
