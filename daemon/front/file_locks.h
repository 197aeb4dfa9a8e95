// SPDX-License-Identifier: GPL-3.0-or-later
//
// FileLocks: commits of images of one file run one after the other; those of different files do not wait.
//
// Thread safety: all methods are thread-safe.

#ifndef DAEMON_FRONT_FILE_LOCKS_H_
#define DAEMON_FRONT_FILE_LOCKS_H_

#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/registry.h"

namespace dismd {

class FileLocks {
 public:
  class Holder {
   public:
    Holder(FileLocks& locks, ImageFile file) : locks_(locks), file_(file) {}
    ~Holder() { Release(); }
    // What the destructor does, earlier.
    void Release() {
      absl::MutexLock lock(&locks_.mutex_);
      if (std::exchange(released_, true)) return;
      if (--locks_.held_[file_] == 0) locks_.held_.erase(file_);
      locks_.changed_.SignalAll();
    }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

   private:
    FileLocks& locks_;
    const ImageFile file_;
    bool released_ = false;
  };

  // At once, whoever else holds it.
  std::unique_ptr<Holder> Share(const ImageFile& file) {
    absl::MutexLock lock(&mutex_);
    ++held_[file];
    return std::make_unique<Holder>(*this, file);
  }

  // Waits until nobody holds it. Null: cancelled first.
  std::unique_ptr<Holder> Lock(const ImageFile& file, CancelToken& cancel) {
    bool cancelled = false;
    CancelToken::Subscription wake(cancel, [this, &cancelled] {
      absl::MutexLock lock(&mutex_);
      cancelled = true;
      changed_.SignalAll();
    });
    absl::MutexLock lock(&mutex_);
    while (!cancelled && held_.count(file) != 0) changed_.Wait(&mutex_);
    if (cancelled) return nullptr;
    ++held_[file];
    return std::make_unique<Holder>(*this, file);
  }

 private:
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::map<ImageFile, int> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_FRONT_FILE_LOCKS_H_
