// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/event.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <new>
#include <unordered_map>

#include "client/common/mutex.h"
#include "client/dismapi/process_local.h"

namespace dismd {
namespace {

class EventTable {
 public:
  static EventTable& Instance() { return OfThisProcess<EventTable>(); }

  HANDLE Add(std::shared_ptr<Event> event) {
    MutexLock lock(&mutex_);
    HANDLE handle = reinterpret_cast<HANDLE>(next_);
    next_ += kHandleStep;
    events_[handle] = std::move(event);
    return handle;
  }

  std::shared_ptr<Event> Find(HANDLE handle) {
    MutexLock lock(&mutex_);
    auto found = events_.find(handle);
    return found == events_.end() ? nullptr : found->second;
  }

  bool Remove(HANDLE handle) {
    std::shared_ptr<Event> last;  // closed after the lock is gone
    MutexLock lock(&mutex_);
    auto found = events_.find(handle);
    if (found == events_.end()) return false;
    last = std::move(found->second);
    events_.erase(found);
    return true;
  }

 private:
  // Handles are multiples of 4 on Windows, and programs store marks in the low bits.
  static constexpr uintptr_t kHandleStep = 4;

  Mutex mutex_;
  // Never reused: a stale handle does not hit a newer event.
  uintptr_t next_ ABSL_GUARDED_BY(mutex_) = kHandleStep;
  std::unordered_map<HANDLE, std::shared_ptr<Event>> events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

Event::Event(bool manual_reset, bool signalled)
    : manual_reset_(manual_reset), fd_(eventfd(signalled ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Event::Set() {
  // EAGAIN (the counter is full after 2^64 - 2 sets) leaves it signalled, too.
  eventfd_write(fd_.get(), 1);
}

void Event::Reset() {
  eventfd_t count;
  eventfd_read(fd_.get(), &count);  // EAGAIN: it was not signalled
}

bool Event::Take() {
  if (!manual_reset_) {
    eventfd_t count;
    return eventfd_read(fd_.get(), &count) == 0;
  }
  pollfd entry = {fd_.get(), POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

std::shared_ptr<Event> FindEvent(HANDLE handle) { return EventTable::Instance().Find(handle); }

}  // namespace dismd

extern "C" {

HANDLE WINAPI CreateEventW(LPSECURITY_ATTRIBUTES Attributes, BOOL ManualReset, BOOL InitialState, LPCWSTR Name) try {
  (void)Attributes;
  if (Name != nullptr) {
    errno = EINVAL;
    return nullptr;
  }
  auto event = std::make_shared<dismd::Event>(ManualReset != FALSE, InitialState != FALSE);
  if (event->fd() < 0) return nullptr;
  return dismd::EventTable::Instance().Add(std::move(event));
} catch (const std::bad_alloc&) {
  errno = ENOMEM;
  return nullptr;
}

BOOL WINAPI SetEvent(HANDLE Event) {
  auto event = dismd::FindEvent(Event);
  if (event == nullptr) {
    errno = EBADF;
    return FALSE;
  }
  event->Set();
  return TRUE;
}

BOOL WINAPI ResetEvent(HANDLE Event) {
  auto event = dismd::FindEvent(Event);
  if (event == nullptr) {
    errno = EBADF;
    return FALSE;
  }
  event->Reset();
  return TRUE;
}

BOOL WINAPI CloseHandle(HANDLE Object) {
  if (dismd::EventTable::Instance().Remove(Object)) return TRUE;
  errno = EBADF;
  return FALSE;
}

}  // extern "C"
