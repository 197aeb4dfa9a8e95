// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/library.h"

#include <cstdio>
#include <utility>

#include "client/dismapi/hresult.h"
#include "client/dismapi/process_local.h"

namespace dismd {

Library& Library::Instance() { return OfThisProcess<Library>(); }

HRESULT Library::Initialize(std::shared_ptr<DismLog> log, std::string scratch_directory) {
  MutexLock lock(&mutex_);
  if (service_ != nullptr) {
    return Fail(DISMAPI_E_DISMAPI_ALREADY_INITIALIZED, "DismInitialize was called before; call DismShutdown first");
  }
  service_ = std::make_shared<Service>();
  log_ = std::move(log);
  scratch_directory_ = std::move(scratch_directory);
  return S_OK;
}

HRESULT Library::Shutdown() {
  std::shared_ptr<Service> last;  // let go of outside the lock: it may take down the connection
  std::shared_ptr<DismLog> last_log;
  MutexLock lock(&mutex_);
  if (!sessions_.empty()) return DISMAPI_E_OPEN_SESSION_HANDLES;
  last = std::exchange(service_, nullptr);
  last_log = std::exchange(log_, nullptr);
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

std::string Library::scratch_directory() {
  MutexLock lock(&mutex_);
  return scratch_directory_;
}

void Library::LogOutcome(const char* function, HRESULT result) {
  std::shared_ptr<DismLog> log;
  {
    MutexLock lock(&mutex_);
    log = log_;
  }
  const DismLog::Level level = FAILED(result) ? DismLog::Level::kError : DismLog::Level::kInfo;
  if (log == nullptr || !log->Wants(level)) return;
  char code[32];
  snprintf(code, sizeof(code), "HRESULT=0x%08X", static_cast<unsigned>(result));
  // As DISM's: the component, what happened, and the function at the end of the line.
  const std::string text = LastErrorText();
  log->Write(level, std::string("DismApi: ") + (text.empty() ? "" : text + " ") + code + " - " + function);
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
