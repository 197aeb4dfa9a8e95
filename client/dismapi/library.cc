// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/library.h"

#include <utility>

#include "client/dismapi/hresult.h"

namespace dismd {

Library& Library::Instance() {
  static Library* library = new Library;
  return *library;
}

HRESULT Library::Initialize() {
  MutexLock lock(&mutex_);
  if (service_ != nullptr) {
    return Fail(DISMAPI_E_DISMAPI_ALREADY_INITIALIZED, "DismInitialize was called before; call DismShutdown first");
  }
  service_ = std::make_shared<Service>();
  return S_OK;
}

HRESULT Library::Shutdown() {
  std::shared_ptr<Service> last;  // let go of outside the lock: it may take down the connection
  MutexLock lock(&mutex_);
  if (!sessions_.empty()) return DISMAPI_E_OPEN_SESSION_HANDLES;
  last = std::exchange(service_, nullptr);
  return last == nullptr ? DISMAPI_E_DISMAPI_NOT_INITIALIZED : S_OK;
}

DismSession Library::AddSession(Session session) {
  MutexLock lock(&mutex_);
  return service_ == nullptr ? DISM_SESSION_DEFAULT : sessions_.Add(std::move(session));
}

std::shared_ptr<Service> Library::service() {
  MutexLock lock(&mutex_);
  return service_;
}

std::string& LastErrorText() {
  thread_local std::string text;
  return text;
}

HRESULT Fail(HRESULT code, std::string text) {
  LastErrorText() = std::move(text);
  return code;
}

HRESULT Fail(const CallStatus& status) { return Fail(HresultOf(status), status.message()); }

HRESULT FailNotInitialized() {
  return Fail(DISMAPI_E_DISMAPI_NOT_INITIALIZED, "the DISM API is not initialised; call DismInitialize first");
}

}  // namespace dismd
