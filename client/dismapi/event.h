// SPDX-License-Identifier: Apache-2.0
//
// The events behind CreateEventW's HANDLEs: an eventfd each, so that a call can poll it beside its own messages.
//
// A HANDLE is the number of an entry in one table of the process. Entries are shared: a call holds the event that it
// was given, whatever CloseHandle does meanwhile.
//
// Thread safety: everything may be called from any thread.

#ifndef CLIENT_DISMAPI_EVENT_H_
#define CLIENT_DISMAPI_EVENT_H_

#include <memory>

#include "client/common/service.h"
#include "client/common/unique_fd.h"
#include "client/dismapi/include/DismAPI.h"

namespace dismd {

class Event final : public CancelSource {
 public:
  // fd() is -1, errno set, when there is no descriptor left.
  Event(bool manual_reset, bool signalled);

  void Set();
  void Reset();

  // Polled for reading by calls.
  int fd() const override { return fd_.get(); }
  // True if it is signalled; an auto-reset event is reset by it, so that one of several waiters gets the signal.
  bool Take() override;

 private:
  const bool manual_reset_;
  UniqueFd fd_;
};

// The event of a HANDLE; null for one that is closed or foreign.
std::shared_ptr<Event> FindEvent(HANDLE handle);

}  // namespace dismd

#endif  // CLIENT_DISMAPI_EVENT_H_
