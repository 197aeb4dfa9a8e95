// SPDX-License-Identifier: Apache-2.0
//
// The exported functions: arguments in, one call of the service, results out. DismAPI.h is their manual. Those for
// sessions, commits and what is left of mounts are in dismapi_sessions.cc.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <utility>

#include "client/common/unicode.h"
#include "client/dismapi/arguments.h"
#include "client/dismapi/event.h"
#include "client/dismapi/hresult.h"
#include "client/dismapi/library.h"
#include "client/dismapi/progress.h"
#include "client/dismapi/result_block.h"
#include "client/dismapi/results.h"

namespace dismd {
namespace {

constexpr DWORD kMountFlags =
    DISM_MOUNT_READONLY | DISM_MOUNT_OPTIMIZE | DISM_MOUNT_CHECK_INTEGRITY | DISM_MOUNT_SUPPORT_EA;

// The image that index, name and identifier pick. A NULL name goes as an empty one: the service says that no image has
// it when it comes to that row of the contract.
HRESULT ReadImage(UINT index, PCWSTR name, DismImageIdentifier identifier, v1::MountImageRequest* request) {
  switch (identifier) {
    case DismImageIndex: request->set_image_index(index); return S_OK;
    case DismImageName: {
      std::optional<std::string> text = WideToUtf8(name == nullptr ? L"" : name);
      // No image has a name that is no text.
      request->set_image_name(text && IsValidUtf8(*text) ? *text : "");
      return S_OK;
    }
    case DismImageNone:
      return Fail(DISMAPI_E_MUST_SPECIFY_INDEX_OR_NAME, "an image must be picked by index or by name");
  }
  return Fail(E_INVALIDARG, "ImageIdentifier is neither DismImageIndex nor DismImageName");
}

HRESULT MountImage(PCWSTR image_path, PCWSTR mount_path, UINT index, PCWSTR name, DismImageIdentifier identifier,
                   DWORD flags, HANDLE cancel_event, DISM_PROGRESS_CALLBACK callback, PVOID user_data) {
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  HRESULT result = S_OK;
  std::shared_ptr<Event> cancel;
  if (!ReadCancelEvent(cancel_event, &cancel, &result)) return result;
  if (cancel != nullptr && cancel->Take()) return FailCancelledEarly();

  v1::MountImageRequest request;
  CallStatus status = ReadPath(image_path, "image path", request.mutable_image_path());
  if (status.ok()) {
    status = ReadMountPoint(mount_path, "mount path", request.image_path(), request.mutable_mount_path());
  }
  if (!status.ok()) return Fail(status);
  if (Library::Instance().sessions().OpenOn(request.mount_path())) {
    return FailOpenSession(DISMAPI_E_OPEN_HANDLES_UNABLE_TO_MOUNT_IMAGE_PATH, request.mount_path());
  }
  if (FAILED(result = ReadImage(index, name, identifier, &request))) return result;
  request.set_read_only((flags & DISM_MOUNT_READONLY) != 0);
  request.set_check_integrity((flags & DISM_MOUNT_CHECK_INTEGRITY) != 0);
  if (!request.read_only()) request.set_scratch_directory(Library::Instance().scratch_directory());
  // The service refuses what nobody knows, after all that the contract has it look at before.
  request.set_flags(flags & ~kMountFlags);

  ProgressReporter progress(callback, user_data);
  OperationOptions options;
  options.cancel = cancel.get();
  options.on_snapshot = [&progress](const v1::Operation& operation) { progress.Report(operation); };
  v1::Operation outcome;
  status = service->MountImage(request, options, &outcome);
  return status.ok() ? S_OK : Fail(status);
}

HRESULT UnmountImage(PCWSTR mount_path, DWORD flags, HANDLE cancel_event, DISM_PROGRESS_CALLBACK callback,
                     PVOID user_data) {
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  HRESULT result = S_OK;
  std::shared_ptr<Event> cancel;
  if (!ReadCancelEvent(cancel_event, &cancel, &result)) return result;
  if (cancel != nullptr && cancel->Take()) return FailCancelledEarly();

  v1::UnmountImageRequest request;
  CallStatus status = ReadPath(mount_path, "mount path", request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  if ((flags & ~(DISM_DISCARD_IMAGE | kCommitBits)) != 0) {
    return Fail(InvalidFlags("unknown unmount flags " + Hex(flags & ~(DISM_DISCARD_IMAGE | kCommitBits))));
  }
  const bool discard = (flags & DISM_DISCARD_IMAGE) != 0;
  if (discard && (flags & kCommitBits) != 0) {
    return Fail(InvalidFlags("DISM_DISCARD_IMAGE does not go with commit flags (" + Hex(flags & kCommitBits) + ")"));
  }
  if (Library::Instance().sessions().OpenOn(request.mount_path())) {
    return FailOpenSession(DISMAPI_E_OPEN_HANDLES_UNABLE_TO_UNMOUNT_IMAGE_PATH, request.mount_path());
  }
  request.set_changes(discard ? v1::CHANGES_DISCARD : v1::CHANGES_COMMIT);
  if (!discard) ReadCommitBits(flags, request.mutable_commit());

  ProgressReporter progress(callback, user_data);
  OperationOptions options;
  options.cancel = cancel.get();
  options.on_snapshot = [&progress](const v1::Operation& operation) { progress.Report(operation); };
  v1::Operation outcome;
  status = service->UnmountImage(request, options, &outcome);
  return status.ok() ? S_OK : Fail(status);
}

HRESULT GetImageInfo(PCWSTR image_path, DismImageInfo** image_info, UINT* count) {
  if (image_info != nullptr) *image_info = nullptr;
  if (count != nullptr) *count = 0;
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  if (image_info == nullptr || count == nullptr) return Fail(E_INVALIDARG, "ImageInfo or Count is NULL");
  v1::GetImageInfoRequest request;
  CallStatus status = ReadPath(image_path, "image path", request.mutable_image_path());
  v1::GetImageInfoResponse response;
  if (status.ok()) status = service->GetImageInfo(request, nullptr, &response);
  if (!status.ok()) return Fail(status);
  *image_info = MakeImageInfo(response);
  *count = static_cast<UINT>(response.images_size());
  return S_OK;
}

HRESULT GetMountedImageInfo(DismMountedImageInfo** mounted_image_info, UINT* count) {
  if (mounted_image_info != nullptr) *mounted_image_info = nullptr;
  if (count != nullptr) *count = 0;
  std::shared_ptr<Service> service = Library::Instance().service();
  if (service == nullptr) return FailNotInitialized();
  if (mounted_image_info == nullptr || count == nullptr) {
    return Fail(E_INVALIDARG, "MountedImageInfo or Count is NULL");
  }
  v1::ListMountsResponse response;
  CallStatus status = service->ListMounts(nullptr, &response);
  if (!status.ok()) return Fail(status);
  *mounted_image_info = MakeMountedImageInfo(response);
  *count = static_cast<UINT>(response.mounts_size());
  return S_OK;
}

// The log that the program asked for. False: it cannot be written, which is no reason not to work.
bool OpenLog(const std::string& path, DismLogLevel level, std::shared_ptr<DismLog>* log) {
  if (path.empty()) return true;
  *log = DismLog::Open(path, static_cast<DismLog::Level>(level), "API");
  return *log != nullptr;
}

HRESULT Initialize(DismLogLevel log_level, PCWSTR log_path, PCWSTR scratch_directory) {
  if (static_cast<int>(log_level) < DismLogErrors || static_cast<int>(log_level) > DismLogErrorsWarningsInfoDebug) {
    return Fail(E_INVALIDARG, "LogLevel is none of the DismLogLevel values");
  }
  std::string scratch, log_file;
  CallStatus status;
  if (scratch_directory != nullptr) status = ReadPath(scratch_directory, "scratch directory", &scratch);
  if (status.ok() && log_path != nullptr) status = ReadPath(log_path, "log file path", &log_file);
  if (!status.ok()) return Fail(status);
  struct stat info;
  if (!scratch.empty() && (stat(scratch.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))) {
    return Fail(E_INVALIDARG, "the scratch directory " + scratch + " is no directory");
  }
  if (log_path == nullptr) {
    if (const char* variable = secure_getenv("DISMD_LOG"); variable != nullptr) log_file = variable;
  }
  std::shared_ptr<DismLog> log;
  const bool logs = OpenLog(log_file, log_level, &log);
  const int error = errno;
  const HRESULT result = Library::Instance().Initialize(std::move(log), std::move(scratch));
  if (FAILED(result) || logs) return result;
  return Fail(DISMAPI_E_LOGGING_DISABLED, "the log file " + log_file + " cannot be written (" + strerror(error) +
                                              "); the library is ready, without a log");
}

}  // namespace
}  // namespace dismd

extern "C" {

HRESULT WINAPI DismInitialize(DismLogLevel LogLevel, PCWSTR LogFilePath, PCWSTR ScratchDirectory) {
  return dismd::AtBorder("DismInitialize", [&] { return dismd::Initialize(LogLevel, LogFilePath, ScratchDirectory); });
}

HRESULT WINAPI DismShutdown(void) {
  try {
    return dismd::Library::Instance().Shutdown();  // the last error text stays as it is
  } catch (const std::bad_alloc&) {
    return E_OUTOFMEMORY;
  }
}

HRESULT WINAPI DismMountImage(PCWSTR ImageFilePath, PCWSTR MountPath, UINT ImageIndex, PCWSTR ImageName,
                              DismImageIdentifier ImageIdentifier, DWORD Flags, HANDLE CancelEvent,
                              DISM_PROGRESS_CALLBACK Progress, PVOID UserData) {
  return dismd::AtBorder("DismMountImage", [&] {
    return dismd::MountImage(ImageFilePath, MountPath, ImageIndex, ImageName, ImageIdentifier, Flags, CancelEvent,
                             Progress, UserData);
  });
}

HRESULT WINAPI DismUnmountImage(PCWSTR MountPath, DWORD Flags, HANDLE CancelEvent, DISM_PROGRESS_CALLBACK Progress,
                                PVOID UserData) {
  return dismd::AtBorder("DismUnmountImage",
                         [&] { return dismd::UnmountImage(MountPath, Flags, CancelEvent, Progress, UserData); });
}

HRESULT WINAPI DismGetImageInfo(PCWSTR ImageFilePath, DismImageInfo** ImageInfo, UINT* Count) {
  return dismd::AtBorder("DismGetImageInfo", [&] { return dismd::GetImageInfo(ImageFilePath, ImageInfo, Count); });
}

HRESULT WINAPI DismGetMountedImageInfo(DismMountedImageInfo** MountedImageInfo, UINT* Count) {
  return dismd::AtBorder("DismGetMountedImageInfo",
                         [&] { return dismd::GetMountedImageInfo(MountedImageInfo, Count); });
}

HRESULT WINAPI DismGetLastErrorMessage(DismString** ErrorMessage) {
  if (ErrorMessage == nullptr) return E_INVALIDARG;
  *ErrorMessage = nullptr;
  try {
    const std::string& text = dismd::LastErrorText();
    if (text.empty() && dismd::Library::Instance().service() == nullptr) return DISMAPI_E_DISMAPI_NOT_INITIALIZED;
    *ErrorMessage = dismd::MakeString(text);
    return S_OK;
  } catch (const std::bad_alloc&) {
    return E_OUTOFMEMORY;
  }
}

HRESULT WINAPI DismDelete(VOID* DismStructure) {
  if (DismStructure == nullptr) return S_OK;
  return dismd::DeleteResultBlock(DismStructure) ? S_OK : E_INVALIDARG;
}

}  // extern "C"
