// SPDX-License-Identifier: GPL-3.0-or-later
//
// NotifyingThread: the one thread that writes notifications to the kernel.
//
// A notification may wait, in the kernel and beyond the reach of any signal, for a lock that is held by a request of
// somebody else: a directory's while its entry is invalidated, a page's while it is stored. Where the process is killed
// meanwhile, only its replacement can answer that request, and this thread cannot die before. So it must not hold back
// what others see of the death, or what the replacement needs: it has a table of descriptors of its own, with /dev/fuse
// in it and nothing else. Sockets are closed and file locks let go as soon as all other threads have ended, and the
// supervisor need not wait for this one.
//
// Thread safety: Run from any thread; Start and the destructor from one.

#ifndef LIBMOUNT_FUSE_NOTIFYING_THREAD_H_
#define LIBMOUNT_FUSE_NOTIFYING_THREAD_H_

#include <deque>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/small_thread.h"

namespace libmount {

class NotifyingThread {
 public:
  NotifyingThread() = default;
  ~NotifyingThread();  // what has not begun is dropped
  NotifyingThread(const NotifyingThread&) = delete;
  NotifyingThread& operator=(const NotifyingThread&) = delete;

  // `fuse_fd` stays open in the thread until it ends.
  absl::Status Start(int fuse_fd);

  // Has `work` done, after what was posted before.
  void Post(std::function<void()> work);
  // The same, and waits for it. False: the thread has ended.
  bool Run(absl::FunctionRef<void()> work);

 private:
  // More than these are not kept; what is dropped then is only slower to be noticed.
  static constexpr size_t kMostWaiting = 1 << 16;

  void Loop();

  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  SmallThread thread_;
};

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_NOTIFYING_THREAD_H_
