// SPDX-License-Identifier: Apache-2.0
//
// The library's own state: initialised or not, the connection, and each thread's last error text.

#ifndef CLIENT_DISMAPI_LIBRARY_H_
#define CLIENT_DISMAPI_LIBRARY_H_

#include <cxxabi.h>

#include <memory>
#include <new>
#include <string>

#include "client/common/dism_log.h"
#include "client/common/mutex.h"
#include "client/common/service.h"
#include "client/dismapi/include/DismAPI.h"
#include "client/dismapi/sessions.h"

namespace dismd {

class Library {
 public:
  static Library& Instance();

  // `log`: may be null. `scratch_directory`: empty, or an absolute path. S_OK or DISMAPI_E_DISMAPI_ALREADY_INITIALIZED.
  HRESULT Initialize(std::shared_ptr<DismLog> log, std::string scratch_directory);
  // S_OK, DISMAPI_E_DISMAPI_NOT_INITIALIZED or DISMAPI_E_OPEN_SESSION_HANDLES. Running calls keep the connection until
  // they end.
  HRESULT Shutdown();
  // Null before Initialize and after Shutdown.
  std::shared_ptr<Service> service();
  std::string scratch_directory();

  // DISM_SESSION_DEFAULT when the library was shut down meanwhile: there are no sessions of a library at rest.
  DismSession AddSession(Session session);
  Sessions& sessions() { return sessions_; }

  // A line about the end of a call, with the thread's last error text where it failed.
  void LogOutcome(const char* function, HRESULT result);

 private:
  Sessions sessions_;
  Mutex mutex_;
  std::shared_ptr<Service> service_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<DismLog> log_ ABSL_GUARDED_BY(mutex_);
  std::string scratch_directory_ ABSL_GUARDED_BY(mutex_);
};

// The calling thread's last error text, UTF-8; empty: none.
std::string& LastErrorText();

// Sets the text and returns the code.
HRESULT Fail(HRESULT code, std::string text);
HRESULT Fail(const CallStatus& status);
HRESULT FailNotInitialized();

// Runs `body`; no exception gets out, the forced unwinding of a cancelled thread excepted (glibc ends the process when
// that is held up).
template <typename Body>
HRESULT WithoutExceptions(Body body) {
  try {
    return body();
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (const std::bad_alloc&) {
    LastErrorText().clear();
    return E_OUTOFMEMORY;
  } catch (const std::exception& error) {
    try {
      return Fail(E_FAIL, error.what());
    } catch (...) {
      return E_OUTOFMEMORY;
    }
  } catch (...) {
    try {
      return Fail(E_FAIL, "an exception that is no std::exception, from a progress callback perhaps");
    } catch (...) {
      return E_OUTOFMEMORY;
    }
  }
}

// Runs the body of an exported function: the last error text starts empty, and the outcome is logged.
template <typename Body>
HRESULT AtBorder(const char* function, Body body) {
  LastErrorText().clear();
  const HRESULT result = WithoutExceptions(body);
  WithoutExceptions([&] {
    Library::Instance().LogOutcome(function, result);
    return S_OK;
  });
  return result;
}

}  // namespace dismd

#endif  // CLIENT_DISMAPI_LIBRARY_H_
