// SPDX-License-Identifier: GPL-3.0-or-later
//
// Tells ThreadSanitizer about absl::Mutex and absl::Notification. Only in builds with -fsanitize=thread.
//
// Debian's libabsl is not instrumented, so that ThreadSanitizer does not see its locks and takes every guarded member
// for a race. The linker (--wrap, see CMakeLists.txt) leads our calls of them through these functions.

#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

// The linker's names: those of Debian 12's absl, mangled.
#define DISMD_REAL(symbol) __real_##symbol
#define DISMD_WRAP(symbol) __wrap_##symbol

// In each, what is synchronised on is called `object`.

// A lock taken, in any of its ways.
#define DISMD_TAKES(Result, symbol, parameters, arguments)    \
  Result DISMD_REAL(symbol) parameters;                       \
  Result DISMD_WRAP(symbol) parameters {                      \
    struct Acquire {                                          \
      const void* lock;                                       \
      ~Acquire() { __tsan_acquire(const_cast<void*>(lock)); } \
    } acquire{object};                                        \
    return DISMD_REAL(symbol) arguments;                      \
  }

// A lock given up, or given up and taken again.
#define DISMD_GIVES(Result, symbol, parameters, arguments)               \
  Result DISMD_REAL(symbol) parameters;                                  \
  Result DISMD_WRAP(symbol) parameters {                                 \
    __tsan_release(const_cast<void*>(static_cast<const void*>(object))); \
    return DISMD_REAL(symbol) arguments;                                 \
  }

#define DISMD_WAITS(Result, symbol, parameters, arguments)               \
  Result DISMD_REAL(symbol) parameters;                                  \
  Result DISMD_WRAP(symbol) parameters {                                 \
    struct Acquire {                                                     \
      const void* lock;                                                  \
      ~Acquire() { __tsan_acquire(const_cast<void*>(lock)); }            \
    } acquire{object};                                                   \
    __tsan_release(const_cast<void*>(static_cast<const void*>(object))); \
    return DISMD_REAL(symbol) arguments;                                 \
  }

extern "C" {

DISMD_TAKES(void, _ZN4absl7debian35Mutex4LockEv, (absl::Mutex * object), (object))
DISMD_TAKES(void, _ZN4absl7debian35Mutex10ReaderLockEv, (absl::Mutex * object), (object))
DISMD_TAKES(bool, _ZN4absl7debian35Mutex7TryLockEv, (absl::Mutex * object), (object))
DISMD_TAKES(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE,
            (absl::Mutex * object, const absl::Condition& condition), (object, condition))
DISMD_GIVES(void, _ZN4absl7debian35Mutex6UnlockEv, (absl::Mutex * object), (object))
DISMD_GIVES(void, _ZN4absl7debian35Mutex12ReaderUnlockEv, (absl::Mutex * object), (object))
DISMD_WAITS(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE,
            (absl::Mutex * object, const absl::Condition& condition), (object, condition))
DISMD_WAITS(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
            (absl::Mutex * object, const absl::Condition& condition, absl::Duration timeout),
            (object, condition, timeout))
DISMD_WAITS(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE,
            (absl::Mutex * object, const absl::Condition& condition, absl::Time deadline),
            (object, condition, deadline))
DISMD_WAITS(void, _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE, (absl::CondVar * variable, absl::Mutex* object),
            (variable, object))
DISMD_WAITS(bool, _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE,
            (absl::CondVar * variable, absl::Mutex* object, absl::Duration timeout), (variable, object, timeout))
DISMD_WAITS(bool, _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE,
            (absl::CondVar * variable, absl::Mutex* object, absl::Time deadline), (variable, object, deadline))

DISMD_GIVES(void, _ZN4absl7debian312Notification6NotifyEv, (absl::Notification * object), (object))
DISMD_TAKES(void, _ZNK4absl7debian312Notification19WaitForNotificationEv, (const absl::Notification* object), (object))
DISMD_TAKES(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
            (const absl::Notification* object, absl::Duration timeout), (object, timeout))

}  // extern "C"
