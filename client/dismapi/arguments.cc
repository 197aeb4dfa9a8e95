// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/arguments.h"

#include <stdio.h>

#include <optional>
#include <utility>

#include "client/common/paths.h"
#include "client/common/unicode.h"
#include "client/dismapi/library.h"

namespace dismd {

CallStatus InvalidFlags(std::string message) {
  return CallStatus(Code::kInvalidArgument, v1::INVALID_FLAGS, std::move(message));
}

std::string Hex(DWORD value) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08X", value);
  return text;
}

namespace {

CallStatus ReadText(PCWSTR wide, const char* what, std::string* text) {
  if (wide == nullptr) return InvalidPath(std::string("the ") + what + " is NULL");
  std::optional<std::string> utf8 = WideToUtf8(wide);
  if (!utf8) return InvalidPath(std::string("the ") + what + " holds a value that is no Unicode character");
  *text = *std::move(utf8);
  return CallStatus();
}

CallStatus Of(const char* what, const CallStatus& status) {
  if (status.ok()) return status;
  return CallStatus(status.code(), status.reason(), std::string(what) + ": " + status.message());
}

}  // namespace

CallStatus ReadPath(PCWSTR wide, const char* what, std::string* absolute) {
  std::string path;
  CallStatus status = ReadText(wide, what, &path);
  return status.ok() ? Of(what, TranslatePath(path, absolute)) : status;
}

CallStatus ReadMountPoint(PCWSTR wide, const std::string& image_path, std::string* absolute) {
  constexpr char kWhat[] = "mount path";
  std::string path;
  CallStatus status = ReadText(wide, kWhat, &path);
  return status.ok() ? Of(kWhat, TranslateMountPoint(path, image_path, absolute)) : status;
}

bool ReadCancelEvent(HANDLE handle, std::shared_ptr<Event>* event, HRESULT* result) {
  if (handle == nullptr) return true;
  *event = FindEvent(handle);
  if (*event != nullptr) return true;
  *result = Fail(E_HANDLE, "CancelEvent is no open handle of CreateEventW");
  return false;
}

void ReadCommitBits(DWORD flags, v1::CommitOptions* options) {
  options->set_generate_integrity((flags & DISM_COMMIT_GENERATE_INTEGRITY) != 0);
  options->set_append((flags & DISM_COMMIT_APPEND) != 0);
}

HRESULT FailCancelledEarly() {
  return Fail(CancelledStatus("cancelled: the cancel event was signalled before the call"));
}

HRESULT FailOpenSession(HRESULT code, const std::string& path) {
  return Fail(code, "this program has a session open on " + path + "; close it with DismCloseSession first");
}

}  // namespace dismd
