// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a process in the worker's sandbox can do and what it cannot. Each test runs in a child.

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <sys/capability.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "daemon/ipc/channel.h"
#include "daemon/worker/sandbox.h"
#include "libmount/base/small_thread.h"

namespace dismd {
namespace {

// Runs `body` in a child; its words are printed on failure. Returns whether it returned true.
bool InChild(const std::function<bool()>& body) {
  pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool InSandbox(const std::function<bool()>& body) {
  return InChild([&] {
    absl::Status status = EnterSandbox();
    if (!status.ok()) {
      fprintf(stderr, "EnterSandbox: %s\n", status.ToString().c_str());
      return false;
    }
    return body();
  });
}

template <typename... Arguments>
bool Refused(Arguments... arguments) {
  errno = 0;
  return syscall(arguments...) == -1 && errno == EPERM;
}

struct ForbiddenCall {
  const char* name;
  std::function<bool()> refused;
};

TEST(WorkerSandboxTest, ForbiddenCallsAreRefused) {
  const ForbiddenCall calls[] = {
      {"execve", [] { return Refused(SYS_execve, "/bin/true", nullptr, nullptr); }},
      {"execveat", [] { return Refused(SYS_execveat, AT_FDCWD, "/bin/true", nullptr, nullptr, 0); }},
      {"fork", [] { return Refused(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0); }},
      {"vfork", [] { return Refused(SYS_vfork); }},
      {"socket", [] { return Refused(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }},
      {"socketpair", [] { return Refused(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, nullptr); }},
      {"connect", [] { return Refused(SYS_connect, 3, nullptr, 0); }},
      {"bind", [] { return Refused(SYS_bind, 3, nullptr, 0); }},
      {"ptrace", [] { return Refused(SYS_ptrace, PTRACE_ATTACH, getppid(), nullptr, nullptr); }},
      {"process_vm_readv", [] { return Refused(SYS_process_vm_readv, getppid(), nullptr, 0, nullptr, 0, 0); }},
      {"process_vm_writev", [] { return Refused(SYS_process_vm_writev, getppid(), nullptr, 0, nullptr, 0, 0); }},
      {"pidfd_open", [] { return Refused(SYS_pidfd_open, getppid(), 0); }},
      {"pidfd_getfd", [] { return Refused(SYS_pidfd_getfd, 0, 0, 0); }},
      {"kill", [] { return Refused(SYS_kill, getppid(), 0); }},
      {"tgkill of another", [] { return Refused(SYS_tgkill, getppid(), getppid(), 0); }},
      {"mount", [] { return Refused(SYS_mount, "none", "/mnt", "tmpfs", 0, nullptr); }},
      {"umount2", [] { return Refused(SYS_umount2, "/mnt", 0); }},
      {"fsopen", [] { return Refused(SYS_fsopen, "tmpfs", 0); }},
      {"move_mount", [] { return Refused(SYS_move_mount, -1, "", -1, "", 0); }},
      {"open_tree", [] { return Refused(SYS_open_tree, AT_FDCWD, "/", 0); }},
      {"unshare", [] { return Refused(SYS_unshare, 0); }},
      {"setns", [] { return Refused(SYS_setns, 0, 0); }},
      {"chroot", [] { return Refused(SYS_chroot, "/"); }},
      {"chdir", [] { return Refused(SYS_chdir, "/"); }},
      {"bpf", [] { return Refused(SYS_bpf, 0, nullptr, 0); }},
      {"keyctl", [] { return Refused(SYS_keyctl, 0, 0, 0, 0, 0); }},
      {"add_key", [] { return Refused(SYS_add_key, "user", "x", "y", 1, -2); }},
      {"perf_event_open", [] { return Refused(SYS_perf_event_open, nullptr, 0, -1, -1, 0); }},
      {"userfaultfd", [] { return Refused(SYS_userfaultfd, 0); }},
      {"io_uring_setup", [] { return Refused(SYS_io_uring_setup, 1, nullptr); }},
      {"init_module", [] { return Refused(SYS_init_module, nullptr, 0, ""); }},
      {"finit_module", [] { return Refused(SYS_finit_module, 0, "", 0); }},
      {"open_by_handle_at", [] { return Refused(SYS_open_by_handle_at, -1, nullptr, 0); }},
      {"openat2", [] { return Refused(SYS_openat2, AT_FDCWD, "/etc/passwd", nullptr, 0); }},
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their reports open files
      {"open", [] { return Refused(SYS_open, "/etc/passwd", O_RDONLY); }},
#endif
      {"creat", [] { return Refused(SYS_creat, "/tmp/x", 0600); }},
      {"unlinkat", [] { return Refused(SYS_unlinkat, AT_FDCWD, "/nowhere", 0); }},
      {"renameat2", [] { return Refused(SYS_renameat2, AT_FDCWD, "/a", AT_FDCWD, "/b", 0); }},
      {"ftruncate", [] { return Refused(SYS_ftruncate, 0, 0); }},
      {"fchmod", [] { return Refused(SYS_fchmod, 0, 0); }},
      {"setuid", [] { return Refused(SYS_setuid, 0); }},
      {"setresuid", [] { return Refused(SYS_setresuid, 0, 0, 0); }},
      {"capset", [] { return Refused(SYS_capset, nullptr, nullptr); }},
      {"prctl(PR_SET_DUMPABLE)", [] { return Refused(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
      {"prlimit64 of another", [] { return Refused(SYS_prlimit64, getppid(), RLIMIT_AS, nullptr, nullptr); }},
      {"setting limits",
       [] {
         rlimit limit = {1, 1};
         return Refused(SYS_prlimit64, 0, RLIMIT_CPU, &limit, nullptr);
       }},
      {"executable memory",
       [] {
         return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
                errno == EPERM;
       }},
      {"making memory executable",
       [] {
         void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
         return mprotect(page, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EPERM;
       }},
      {"ioctl", [] { return Refused(SYS_ioctl, 0, 0, 0); }},
#ifndef DISMD_TEST_SEAMS
      {"openat", [] { return Refused(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY); }},
#endif
  };
  for (const ForbiddenCall& call : calls) EXPECT_TRUE(InSandbox(call.refused)) << call.name;
}

TEST(WorkerSandboxTest, WhatAWorkerNeedsWorks) {
  EXPECT_TRUE(InSandbox([] {
    int ran = 0;
    libmount::SmallThread thread;
    if (!thread.Start("t", [&] { ran = 1; }).ok()) return false;
    thread.Join();
    return ran == 1;
  })) << "threads";
  EXPECT_TRUE(InSandbox([] {
    std::string large(100 << 20, 'x');  // mmap and munmap
    return large.back() == 'x';
  })) << "memory";
  EXPECT_TRUE(InSandbox([] {
    int event = eventfd(0, EFD_CLOEXEC);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_event interest = {.events = EPOLLIN};
    epoll_event got;
    return epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest) == 0 && eventfd_write(event, 1) == 0 &&
           epoll_wait(epoll, &got, 1, 1000) == 1;
  })) << "waiting";
  EXPECT_TRUE(InSandbox([] { return fcntl(0, F_DUPFD_CLOEXEC, 0) > 0; })) << "duplicating a descriptor";
}

TEST(WorkerSandboxTest, NothingCanBeGained) {
  EXPECT_TRUE(InSandbox([] {
    cap_t capabilities = cap_get_proc();  // may be refused: then the process cannot even ask
    bool none = true;
    if (capabilities != nullptr) {
      for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
        cap_flag_value_t value = CAP_CLEAR;
        if (cap_get_flag(capabilities, capability, CAP_PERMITTED, &value) == 0) none &= value == CAP_CLEAR;
      }
    }
    rlimit core, files;
    getrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_NOFILE, &files);
    return none && core.rlim_max == 0 && files.rlim_max <= 1200;
  }));
}

TEST(WorkerSandboxTest, NoNewPrivilegesAndNotTraceable) {
  int to_parent[2], to_child[2];
  ASSERT_EQ(pipe(to_parent), 0);
  ASSERT_EQ(pipe(to_child), 0);
  pid_t child = fork();
  if (child == 0) {
    char byte = EnterSandbox().ok() ? 'y' : 'n';
    if (write(to_parent[1], &byte, 1) != 1 || read(to_child[0], &byte, 1) != 1) _exit(1);
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(to_parent[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  FILE* status = fopen(("/proc/" + std::to_string(child) + "/status").c_str(), "r");
  ASSERT_NE(status, nullptr);
  std::string text(4096, '\0');
  text.resize(fread(text.data(), 1, text.size(), status));
  fclose(status);
  EXPECT_NE(text.find("NoNewPrivs:\t1"), text.npos);
  EXPECT_NE(text.find("Seccomp:\t2"), text.npos);
  EXPECT_NE(text.find("CapEff:\t0000000000000000"), text.npos);
  EXPECT_NE(text.find("CapPrm:\t0000000000000000"), text.npos);
  EXPECT_NE(text.find("CapAmb:\t0000000000000000"), text.npos);
  // Not dumpable: its files in /proc belong to root, whoever runs it.
  struct stat st;
  ASSERT_EQ(stat(("/proc/" + std::to_string(child) + "/fd").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0u);
  EXPECT_EQ(write(to_child[1], "x", 1), 1);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  for (int fd : {to_parent[0], to_parent[1], to_child[0], to_child[1]}) close(fd);
}

// CheckDescriptors with the three descriptors as given.
bool CheckWith(int control, int broker, int image) {
  return InChild([&] {
    int moved[] = {fcntl(control, F_DUPFD, 20), fcntl(broker, F_DUPFD, 20), fcntl(image, F_DUPFD, 20),
                   fcntl(broker, F_DUPFD, 20)};
    for (int i = 0; i < 4; ++i) {
      if (moved[i] < 0) {
        close(kControlFd + i);
      } else {
        dup2(moved[i], kControlFd + i);
      }
    }
    close(kStagingFd);
    bool with_staging = true;
    bool ok = CheckDescriptors(&with_staging).ok();
    return ok && !with_staging && fcntl(moved[0], F_GETFD) == -1;  // what was not to be kept is closed
  });
}

TEST(WorkerSandboxTest, DescriptorsAreChecked) {
  auto pair = Channel::CreatePair();
  ASSERT_TRUE(pair.ok());
  int control = pair->first.get(), broker = pair->second.get();
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  int path = open("/proc/self/exe", O_PATH | O_CLOEXEC);
  int directory = open("/", O_RDONLY | O_CLOEXEC);
  int device = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  int stream[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
  EXPECT_TRUE(CheckWith(control, broker, file));
  EXPECT_FALSE(CheckWith(-1, broker, file));
  EXPECT_FALSE(CheckWith(control, -1, file));
  EXPECT_FALSE(CheckWith(control, broker, -1));
  EXPECT_FALSE(CheckWith(file, broker, file));
  EXPECT_FALSE(CheckWith(control, stream[0], file));
  EXPECT_FALSE(CheckWith(control, broker, path));
  EXPECT_FALSE(CheckWith(control, broker, directory));
  EXPECT_FALSE(CheckWith(control, broker, device));
  EXPECT_FALSE(CheckWith(control, broker, broker));
  for (int fd : {file, path, directory, device, stream[0], stream[1]}) close(fd);
}

}  // namespace
}  // namespace dismd
