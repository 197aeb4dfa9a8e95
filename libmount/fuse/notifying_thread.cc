// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/notifying_thread.h"

#include <errno.h>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/log.h"

namespace libmount {
namespace {

constexpr unsigned kFirstAboveLog = STDERR_FILENO + 1;

// Of this thread alone.
void CloseAllBut(int fd) {
  const auto kept = static_cast<unsigned>(fd);
  bool closed = syscall(SYS_close_range, kept + 1, ~0U, CLOSE_RANGE_UNSHARE) == 0;
  if (closed && kept > kFirstAboveLog) closed = syscall(SYS_close_range, kFirstAboveLog, kept - 1, 0) == 0;
  if (!closed) Log(Severity::kWarning, absl::StrCat("a thread with descriptors of its own: ", strerror(errno)));
}

}  // namespace

NotifyingThread::~NotifyingThread() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    waiting_.clear();
    changed_.SignalAll();
  }
  thread_.Join();
}

absl::Status NotifyingThread::Start(int fuse_fd) {
  return thread_.Start("fuse-notify", [this, fuse_fd] {
    CloseAllBut(fuse_fd);
    Loop();
  });
}

void NotifyingThread::Post(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (ended_ || waiting_.size() >= kMostWaiting) return;
  waiting_.push_back(std::move(work));
  changed_.SignalAll();
}

bool NotifyingThread::Run(absl::FunctionRef<void()> work) {
  bool done = false;
  absl::MutexLock lock(&mutex_);
  if (ended_) return false;
  waiting_.push_back([this, work, &done] {
    work();
    absl::MutexLock done_lock(&mutex_);
    done = true;
    changed_.SignalAll();
  });
  changed_.SignalAll();
  while (!done && !ended_) changed_.Wait(&mutex_);
  return done;
}

void NotifyingThread::Loop() {
  for (;;) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      while (waiting_.empty() && !ended_) changed_.Wait(&mutex_);
      if (ended_) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
    }
    work();
  }
}

}  // namespace libmount
