// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/hresult.h"

namespace dismd {
namespace {

// The image engine's codes, for which there are no public names.
constexpr HRESULT kCommitOfReadOnly = _HRESULT_TYPEDEF_(0xC142010C);
constexpr HRESULT kMountPointInUse = _HRESULT_TYPEDEF_(0xC1420113);
constexpr HRESULT kMountPointNotEmpty = _HRESULT_TYPEDEF_(0xC1420114);
constexpr HRESULT kUnmountIncomplete = _HRESULT_TYPEDEF_(0xC1420117);
constexpr HRESULT kImageChanged = _HRESULT_TYPEDEF_(0xC1420122);
constexpr HRESULT kNotRemountable = _HRESULT_TYPEDEF_(0xC1420123);
constexpr HRESULT kAlreadyMountedReadWrite = _HRESULT_TYPEDEF_(0xC1420127);
constexpr HRESULT kSplitImage = _HRESULT_TYPEDEF_(0xC1420130);
constexpr HRESULT kMountPointIsRoot = _HRESULT_TYPEDEF_(0xC1420131);
constexpr HRESULT kSolidImage = _HRESULT_TYPEDEF_(0xC142013C);
constexpr HRESULT kImageReadOnly = _HRESULT_TYPEDEF_(0xC1510111);
constexpr HRESULT kMountInvalid = _HRESULT_TYPEDEF_(0xC1510115);
constexpr HRESULT kBeingServiced = _HRESULT_TYPEDEF_(0xC15101FD);

constexpr HRESULT Win32(uint32_t error) { return HRESULT_FROM_WIN32(error); }

}  // namespace

HRESULT HresultOf(v1::Reason reason) {
  switch (reason) {
    case v1::CANCELLED: return Win32(ERROR_CANCELLED);
    case v1::INVALID_PATH:
    case v1::IMAGE_NOT_FOUND:
    case v1::MOUNT_POINT_NOT_FOUND:
    case v1::UNSUPPORTED_IMAGE_TYPE:
    case v1::INVALID_FLAGS: return E_INVALIDARG;
    case v1::BAD_IMAGE_FORMAT: return Win32(ERROR_BAD_FORMAT);
    case v1::INVALID_IMAGE_INDEX: return DISMAPI_E_INVALID_IMAGE_INDEX;
    case v1::INVALID_IMAGE_NAME: return DISMAPI_E_INVALID_IMAGE_NAME;
    case v1::MOUNT_POINT_NOT_EMPTY: return kMountPointNotEmpty;
    case v1::MOUNT_POINT_IN_USE: return kMountPointInUse;
    case v1::MOUNT_POINT_IS_ROOT: return kMountPointIsRoot;
    case v1::IMAGE_ON_NETWORK:
    case v1::VOLUME_HIBERNATED:
    case v1::OTHER_NAMESPACE:
    case v1::MOUNT_POINT_UNSUPPORTED: return Win32(ERROR_NOT_SUPPORTED);
    case v1::IMAGE_READ_ONLY: return kImageReadOnly;
    case v1::ALREADY_MOUNTED_READ_WRITE: return kAlreadyMountedReadWrite;
    case v1::SPLIT_IMAGE: return kSplitImage;
    case v1::SOLID_IMAGE: return kSolidImage;
    case v1::INTEGRITY_CHECK_FAILED: return Win32(ERROR_INVALID_DATA);
    case v1::ACCESS_DENIED:
    case v1::DENIED_BY_POLICY: return E_ACCESSDENIED;
    case v1::ENCRYPTED_VOLUME: return FVE_E_LOCKED_VOLUME;
    case v1::IMAGE_IN_USE: return Win32(ERROR_SHARING_VIOLATION);
    case v1::IMAGE_CHANGED: return kImageChanged;
    case v1::NOT_MOUNTED: return DISMAPI_E_UNABLE_TO_UNMOUNT_IMAGE_PATH;
    case v1::MOUNT_BUSY: return kUnmountIncomplete;
    case v1::MOUNT_READ_ONLY: return kCommitOfReadOnly;
    case v1::TOO_MANY_MOUNTS:
    case v1::TOO_MANY_OPERATIONS: return Win32(ERROR_NOT_ENOUGH_QUOTA);
    case v1::PATH_TIMED_OUT: return Win32(ERROR_TIMEOUT);
    case v1::WORKER_DIED: return Win32(ERROR_PROCESS_ABORTED);
    case v1::NOT_IMPLEMENTED: return E_NOTIMPL;
    case v1::SHUTTING_DOWN: return Win32(RPC_S_SERVER_UNAVAILABLE);
    case v1::OPERATION_NOT_FOUND: return Win32(ERROR_NOT_FOUND);
    case v1::NEEDS_REMOUNT: return DISMAPI_E_NEEDS_REMOUNT;
    case v1::MOUNT_INVALID: return kMountInvalid;
    case v1::OUT_OF_RESOURCES: return E_OUTOFMEMORY;
    case v1::PART_MISSING: return Win32(ERROR_FILE_NOT_FOUND);
    case v1::OPERATION_IN_PROGRESS: return kBeingServiced;
    case v1::NOT_REMOUNTABLE: return kNotRemountable;
    case v1::DISK_FULL: return Win32(ERROR_DISK_FULL);
    case v1::UNSUPPORTED_VOLUME:
    case v1::REFS_VOLUME: return Win32(ERROR_UNRECOGNIZED_VOLUME);
    case v1::DYNAMIC_DISK: return Win32(ERROR_NOT_SUPPORTED);
    case v1::AMBIGUOUS_PARTITION:
    case v1::PARTITION_NOT_FOUND: return E_INVALIDARG;
    // No default: the compiler names a reason that was forgotten.
    case v1::REASON_UNSPECIFIED:
    case v1::Reason_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::Reason_INT_MAX_SENTINEL_DO_NOT_USE_: return E_FAIL;
  }
  return E_FAIL;
}

HRESULT HresultOf(const CallStatus& status) {
  if (status.ok()) return S_OK;
  if (status.reason() != v1::REASON_UNSPECIFIED) return HresultOf(status.reason());
  switch (status.code()) {
    case Code::kCancelled: return Win32(ERROR_CANCELLED);
    case Code::kInvalidArgument: return E_INVALIDARG;
    case Code::kDeadlineExceeded: return Win32(ERROR_TIMEOUT);
    case Code::kPermissionDenied: return E_ACCESSDENIED;
    case Code::kResourceExhausted: return E_OUTOFMEMORY;
    case Code::kUnimplemented: return E_NOTIMPL;
    case Code::kUnavailable: return Win32(RPC_S_SERVER_UNAVAILABLE);
    default: return E_FAIL;
  }
}

}  // namespace dismd
