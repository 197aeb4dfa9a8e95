// SPDX-License-Identifier: Apache-2.0
//
// The exported functions for sessions and commits, and for mounts that are not mounted any more. DismAPI.h is their
// manual.

#include <sys/stat.h>
#include <wchar.h>

#include <filesystem>
#include <optional>
#include <utility>

#include "client/common/unicode.h"
#include "client/dismapi/arguments.h"
#include "client/dismapi/event.h"
#include "client/dismapi/hresult.h"
#include "client/dismapi/library.h"
#include "client/dismapi/progress.h"

namespace dismd {
namespace {

// The image engine's codes for what a remount meets; an unmount and a commit have others for the same.
constexpr HRESULT kNoRemountTarget = _HRESULT_TYPEDEF_(0xC1420123);
constexpr HRESULT kRemountOfChangedImage = _HRESULT_TYPEDEF_(0xC1420124);
constexpr HRESULT kRemountWhileBusy = _HRESULT_TYPEDEF_(0xC1420125);

// The two further arguments of DismOpenSession: for servicing, which is not done here; text at least.
bool IsText(PCWSTR wide) { return wide == nullptr || WideToUtf8(wide).has_value(); }

CallStatus CheckMountedWell(const v1::Mount& mount) {
  if (mount.status() == v1::MOUNT_STATUS_OK) return CallStatus();
  const bool remountable = mount.status() == v1::MOUNT_STATUS_NEEDS_REMOUNT;
  const std::string why = mount.status_message().empty() ? "" : ": " + mount.status_message();
  return CallStatus(
      Code::kInternal, remountable ? v1::NEEDS_REMOUNT : v1::MOUNT_INVALID,
      mount.mount_path() + (remountable ? " must be remounted first (DismRemountImage)" : " is invalid") + why);
}

HRESULT OpenSession(PCWSTR image_path, PCWSTR windows_directory, PCWSTR system_drive, DismSession* session) {
  if (session != nullptr) *session = DISM_SESSION_DEFAULT;
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  if (session == nullptr) return Fail(E_INVALIDARG, "Session is NULL");
  if (image_path != nullptr && wcscmp(image_path, DISM_ONLINE_IMAGE) == 0) {
    if (windows_directory != nullptr || system_drive != nullptr) {
      return Fail(E_INVALIDARG, "WindowsDirectory and SystemDrive must be NULL with DISM_ONLINE_IMAGE");
    }
    return Fail(HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED),
                "DISM_ONLINE_IMAGE stands for a running Windows; there is none on this machine");
  }
  v1::GetMountRequest request;
  CallStatus status = ReadPath(image_path, "image path", request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  const std::string path = request.mount_path();
  if (!IsText(windows_directory) || !IsText(system_drive)) {
    return Fail(E_INVALIDARG, "WindowsDirectory or SystemDrive holds a value that is no Unicode character");
  }
  if (std::filesystem::path(path).lexically_normal() == "/") {
    return Fail(DISMAPI_E_MUST_SPECIFY_ONLINE_IMAGE, path + " is the running system, not an offline image");
  }
  Session opened;
  opened.path = path;
  v1::GetMountResponse response;
  status = service->GetMount(request, nullptr, &response);
  if (status.ok()) {
    status = CheckMountedWell(response.mount());
    opened.mount_id = response.mount().mount_id();
  } else if (status.reason() == v1::NOT_MOUNTED) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      return Fail(E_INVALIDARG, path + " is neither a mounted image nor a directory");
    }
    status = CallStatus();
  }
  if (!status.ok()) return Fail(status);
  *session = Library::Instance().AddSession(std::move(opened));
  return *session == DISM_SESSION_DEFAULT ? FailNotInitialized() : S_OK;
}

HRESULT CloseSession(DismSession session) {
  if (Library::Instance().service() == nullptr) return FailNotInitialized();
  const HRESULT result = Library::Instance().sessions().Close(session);
  if (result == DISMAPI_E_INVALID_DISM_SESSION) {
    return Fail(result, "the session was not opened by DismOpenSession, or is closed already");
  }
  if (FAILED(result)) return Fail(result, "a call that uses the session cannot close it from its progress callback");
  return result;
}

HRESULT CommitImage(DismSession session, DWORD flags, HANDLE cancel_event, DISM_PROGRESS_CALLBACK callback,
                    PVOID user_data) {
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  HRESULT result = S_OK;
  std::shared_ptr<Event> cancel;
  if (!ReadCancelEvent(cancel_event, &cancel, &result)) return result;
  if (cancel != nullptr && cancel->Take()) return FailCancelledEarly();

  std::optional<Sessions::Use> use = Library::Instance().sessions().Enter(session, &result);
  if (!use) {
    return Fail(result, result == E_INVALIDARG ? "Session is no open session" : "the session is being closed");
  }
  if (use->session().mount_id.empty()) {
    return Fail(E_INVALIDARG, use->session().path + " is not a mounted image: there is nothing to commit to");
  }
  if ((flags & ~kCommitBits) != 0) {
    return Fail(InvalidFlags("unknown commit flags " + Hex(flags & ~kCommitBits) +
                             ((flags & DISM_DISCARD_IMAGE) != 0 ? "; changes are discarded by DismUnmountImage" : "")));
  }
  v1::CommitImageRequest request;
  request.set_mount_id(use->session().mount_id);
  ReadCommitBits(flags, request.mutable_options());
  ProgressReporter progress(callback, user_data);
  OperationOptions options;
  options.cancel = cancel.get();
  options.on_snapshot = [&progress](const v1::Operation& operation) { progress.Report(operation); };
  v1::Operation outcome;
  CallStatus status = service->CommitImage(request, options, &outcome);
  // Unmounted by another program since the session was opened.
  if (status.reason() == v1::NOT_MOUNTED) return Fail(E_INVALIDARG, status.message());
  return status.ok() ? S_OK : Fail(status);
}

HRESULT RemountImage(PCWSTR mount_path) {
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  v1::RemountImageRequest request;
  CallStatus status = ReadPath(mount_path, "mount path", request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  if (Library::Instance().sessions().OpenOn(request.mount_path())) {
    return FailOpenSession(DISMAPI_E_OPEN_HANDLES_UNABLE_TO_REMOUNT_IMAGE_PATH, request.mount_path());
  }
  v1::Operation outcome;
  status = service->RemountImage(request, OperationOptions(), &outcome);
  if (status.ok()) return S_OK;
  switch (status.reason()) {
    case v1::NOT_MOUNTED: return Fail(kNoRemountTarget, status.message());
    case v1::IMAGE_CHANGED: return Fail(kRemountOfChangedImage, status.message());
    case v1::OPERATION_IN_PROGRESS: return Fail(kRemountWhileBusy, status.message());
    default: return Fail(status);
  }
}

HRESULT CleanupMountpoints() {
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  v1::CleanupMountpointsResponse response;
  CallStatus status = service->CleanupMountpoints(v1::CleanupMountpointsRequest(), nullptr, &response);
  return status.ok() ? S_OK : Fail(status);
}

}  // namespace
}  // namespace dismd

extern "C" {

HRESULT WINAPI DismOpenSession(PCWSTR ImagePath, PCWSTR WindowsDirectory, PCWSTR SystemDrive, DismSession* Session) {
  return dismd::AtBorder("DismOpenSession",
                         [&] { return dismd::OpenSession(ImagePath, WindowsDirectory, SystemDrive, Session); });
}

HRESULT WINAPI DismCloseSession(DismSession Session) {
  return dismd::AtBorder("DismCloseSession", [&] { return dismd::CloseSession(Session); });
}

HRESULT WINAPI DismCommitImage(DismSession Session, DWORD Flags, HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress,
                               PVOID UserData) {
  return dismd::AtBorder("DismCommitImage",
                         [&] { return dismd::CommitImage(Session, Flags, CancelEvent, Progress, UserData); });
}

HRESULT WINAPI DismRemountImage(PCWSTR MountPath) {
  return dismd::AtBorder("DismRemountImage", [&] { return dismd::RemountImage(MountPath); });
}

HRESULT WINAPI DismCleanupMountpoints(void) {
  return dismd::AtBorder("DismCleanupMountpoints", [] { return dismd::CleanupMountpoints(); });
}

}  // extern "C"
