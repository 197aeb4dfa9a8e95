// SPDX-License-Identifier: GPL-3.0-or-later
//
// The system calls of a worker: those listed, all others fail with EPERM. An error rather than a kill, because
// libraries try things that they can do without (a configuration file, a newer call), and a mount that dies takes its
// readers with it.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "daemon/worker/sandbox.h"

namespace dismd {
namespace {

// No open, socket, connect, exec, fork, kill, ptrace, mount, bpf, keyctl, io_uring, userfaultfd, pidfd, process_vm_*,
// perf_event_open, module, name_to_handle_at, unshare, setns, chroot, chmod, chown, unlink, rename, link, or truncate.
constexpr int kAllowed[] = {
    // The image, /dev/fuse, sockets and the log.
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(close_range),  // also to have descriptors of its own, in a thread
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(fadvise64),
    SCMP_SYS(readahead),
    SCMP_SYS(fstatfs),
    SCMP_SYS(dup),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(getsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(memfd_create),
    // Waiting.
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(eventfd2),
    SCMP_SYS(futex),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(sched_yield),
    SCMP_SYS(pipe2),
    // Memory.
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    // Threads, signals, time, identity.
    SCMP_SYS(set_robust_list),
    SCMP_SYS(get_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(membarrier),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(getcpu),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrusage),
    SCMP_SYS(getrlimit),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
};

class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(EPERM)), &seccomp_release) {
    if (context_ == nullptr) error_ = -ENOMEM;
  }

  void Allow(int call) { Add(SCMP_ACT_ALLOW, call, {}); }
  void AllowIf(int call, std::initializer_list<scmp_arg_cmp> conditions) { Add(SCMP_ACT_ALLOW, call, conditions); }
  void Fail(int call, int error) { Add(SCMP_ACT_ERRNO(static_cast<uint32_t>(error)), call, {}); }

  absl::Status Load() {
    if (error_ == 0) error_ = seccomp_load(context_.get());
    if (error_ != 0) return absl::ErrnoToStatus(-error_, "filtering system calls");
    return absl::OkStatus();
  }

 private:
  void Add(uint32_t action, int call, std::initializer_list<scmp_arg_cmp> conditions) {
    if (error_ != 0 || call < 0) return;  // negative: not on this architecture
    error_ = seccomp_rule_add_array(context_.get(), action, call, static_cast<unsigned>(conditions.size()),
                                    conditions.begin());
  }

  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> context_;
  int error_ = 0;
};

scmp_arg_cmp ArgumentIs(unsigned index, uint64_t value) { return SCMP_CMP64(index, SCMP_CMP_EQ, value); }
scmp_arg_cmp ArgumentLacks(unsigned index, uint64_t bits) { return SCMP_CMP64(index, SCMP_CMP_MASKED_EQ, bits, 0); }
scmp_arg_cmp ArgumentHas(unsigned index, uint64_t bits) { return SCMP_CMP64(index, SCMP_CMP_MASKED_EQ, bits, bits); }

void AllowConditionally(Filter* filter) {
  // Threads of this process, no other processes. clone3 hides its flags behind a pointer: glibc falls back to clone.
  filter->AllowIf(SCMP_SYS(clone), {ArgumentHas(0, CLONE_THREAD | CLONE_VM | CLONE_SIGHAND)});
  filter->Fail(SCMP_SYS(clone3), ENOSYS);
  // No code but what was loaded.
  filter->AllowIf(SCMP_SYS(mmap), {ArgumentLacks(2, PROT_EXEC)});
  filter->AllowIf(SCMP_SYS(mprotect), {ArgumentLacks(2, PROT_EXEC)});
  // Signals: abort(), and asking whether a thread is ours; to nobody else.
  filter->AllowIf(SCMP_SYS(tgkill), {ArgumentIs(0, static_cast<uint64_t>(getpid()))});
  for (int operation : {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS}) {
    filter->AllowIf(SCMP_SYS(fcntl), {ArgumentIs(1, static_cast<uint64_t>(operation))});
  }
  // To the sockets that are connected already.
  filter->AllowIf(SCMP_SYS(sendto), {ArgumentIs(4, 0)});
  for (int operation : {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA}) {
    filter->AllowIf(SCMP_SYS(prctl), {ArgumentIs(0, static_cast<uint64_t>(operation))});
  }
  // Looking at its own limits.
  filter->AllowIf(SCMP_SYS(prlimit64), {ArgumentIs(0, 0), ArgumentIs(2, 0)});
#ifdef DISMD_TEST_SEAMS
  // Test builds only: the files by which a test stops a worker.
  filter->Allow(SCMP_SYS(access));
  filter->Allow(SCMP_SYS(openat));
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  for (int call : {SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(readlink), SCMP_SYS(readlinkat)}) filter->Allow(call);
#endif
}

// For a worker that writes: the image, and files in its staging directory (confinement.cc bounds what can be opened).
constexpr int kAllowedForWriting[] = {
    SCMP_SYS(pwrite64),  SCMP_SYS(pwritev),         SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fdatasync),
    SCMP_SYS(fsync),     SCMP_SYS(flock),           SCMP_SYS(openat),    SCMP_SYS(unlinkat),  SCMP_SYS(renameat),
    SCMP_SYS(renameat2), SCMP_SYS(sync_file_range), SCMP_SYS(dup3),
};

}  // namespace

absl::Status FilterSystemCalls(bool with_staging) {
  Filter filter;
  if (with_staging) {
    for (int call : kAllowedForWriting) filter.Allow(call);
  }
  for (int call : kAllowed) filter.Allow(call);
  AllowConditionally(&filter);
  return filter.Load();
}

}  // namespace dismd
