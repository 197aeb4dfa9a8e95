// SPDX-License-Identifier: Apache-2.0
//
// Mutex: a std::mutex that clang's thread safety analysis knows. Not Abseil's: the library is loaded into programs that
// have an Abseil of their own, and brings none.

#ifndef CLIENT_COMMON_MUTEX_H_
#define CLIENT_COMMON_MUTEX_H_

#include <mutex>

#include "absl/base/thread_annotations.h"  // macros alone

namespace dismd {

class ABSL_LOCKABLE Mutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace dismd

#endif  // CLIENT_COMMON_MUTEX_H_
