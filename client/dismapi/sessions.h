// SPDX-License-Identifier: Apache-2.0
//
// Sessions: what DismOpenSession gave out, and which of it is in use.
//
// A session lives in this process alone. Closing one waits for the calls that use it; calls that come meanwhile are
// turned away.
//
// Thread safety: everything may be called from any thread.

#ifndef CLIENT_DISMAPI_SESSIONS_H_
#define CLIENT_DISMAPI_SESSIONS_H_

#include <condition_variable>
#include <map>
#include <optional>
#include <string>

#include "client/common/mutex.h"
#include "client/dismapi/include/DismAPI.h"

namespace dismd {

struct Session {
  std::string path;      // absolute, as the program named it
  std::string mount_id;  // empty: an offline image that no mount of the service's holds
};

class Sessions {
 public:
  // One call's use of a session; ends with the object.
  class Use {
   public:
    Use(Use&& other) noexcept;
    Use& operator=(Use&&) = delete;
    ~Use();
    const Session& session() const { return session_; }

   private:
    friend class Sessions;
    Use(Sessions* sessions, DismSession id, Session session);

    Sessions* sessions_;
    const DismSession id_;
    const Session session_;
  };

  DismSession Add(Session session);

  // Nothing: `*error` says why; E_INVALIDARG for an id that is none (any more), DISMAPI_E_INVALID_DISM_SESSION while it
  // is being closed.
  std::optional<Use> Enter(DismSession id, HRESULT* error);

  // S_OK; DISMAPI_E_INVALID_DISM_SESSION for an id that is none or is being closed by another thread;
  // ERROR_POSSIBLE_DEADLOCK from a callback of a call that uses the session.
  HRESULT Close(DismSession id);

  // Whether a session is open on this directory (absolute path).
  bool OpenOn(const std::string& path) const;
  bool empty() const;

 private:
  struct Entry {
    Session session;
    std::string canonical_path;
    int uses = 0;
    bool closing = false;
  };

  void Leave(DismSession id);

  mutable Mutex mutex_;
  std::condition_variable_any left_;  // the last use of a session has ended
  // Never reused: a stale number does not hit a newer session.
  DismSession next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<DismSession, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // CLIENT_DISMAPI_SESSIONS_H_
