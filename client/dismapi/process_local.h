// SPDX-License-Identifier: Apache-2.0
//
// OfThisProcess<T>(): the process's one T. A forked child gets a new one: what it has copied of its parent's may be
// locked by a thread that it does not have, and speaks on the parent's connections.
//
// Never destroyed: a process may end while other threads are in calls. Thread safety: any thread.

#ifndef CLIENT_DISMAPI_PROCESS_LOCAL_H_
#define CLIENT_DISMAPI_PROCESS_LOCAL_H_

#include <unistd.h>

#include <atomic>

namespace dismd {

template <typename T>
T& OfThisProcess() {
  struct Owned {
    const pid_t process = getpid();
    T value;
  };
  static std::atomic<Owned*> current{nullptr};
  Owned* owned = current.load(std::memory_order_acquire);
  while (owned == nullptr || owned->process != getpid()) {
    Owned* made = new Owned;
    // The parent's is left as it is: to take it apart its locks would be needed.
    if (current.compare_exchange_strong(owned, made, std::memory_order_acq_rel)) return made->value;
    delete made;
  }
  return owned->value;
}

}  // namespace dismd

#endif  // CLIENT_DISMAPI_PROCESS_LOCAL_H_
