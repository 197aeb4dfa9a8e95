// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/base/reason.h"

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace libmount {
namespace {

constexpr char kReasonUrl[] = "dismd.v1.Reason";

struct Row {
  Reason reason;
  const char* name;
  absl::StatusCode code;
};

using absl::StatusCode;

constexpr Row kRows[] = {
    {Reason::kUnspecified, "UNSPECIFIED", StatusCode::kInternal},
    {Reason::kCancelled, "CANCELLED", StatusCode::kCancelled},
    {Reason::kInvalidPath, "INVALID_PATH", StatusCode::kInvalidArgument},
    {Reason::kImageNotFound, "IMAGE_NOT_FOUND", StatusCode::kNotFound},
    {Reason::kMountPointNotFound, "MOUNT_POINT_NOT_FOUND", StatusCode::kNotFound},
    {Reason::kUnsupportedImageType, "UNSUPPORTED_IMAGE_TYPE", StatusCode::kInvalidArgument},
    {Reason::kBadImageFormat, "BAD_IMAGE_FORMAT", StatusCode::kInvalidArgument},
    {Reason::kInvalidImageIndex, "INVALID_IMAGE_INDEX", StatusCode::kOutOfRange},
    {Reason::kInvalidImageName, "INVALID_IMAGE_NAME", StatusCode::kNotFound},
    {Reason::kMountPointNotEmpty, "MOUNT_POINT_NOT_EMPTY", StatusCode::kFailedPrecondition},
    {Reason::kMountPointInUse, "MOUNT_POINT_IN_USE", StatusCode::kAlreadyExists},
    {Reason::kMountPointIsRoot, "MOUNT_POINT_IS_ROOT", StatusCode::kFailedPrecondition},
    {Reason::kImageOnNetwork, "IMAGE_ON_NETWORK", StatusCode::kFailedPrecondition},
    {Reason::kImageReadOnly, "IMAGE_READ_ONLY", StatusCode::kFailedPrecondition},
    {Reason::kAlreadyMountedReadWrite, "ALREADY_MOUNTED_READ_WRITE", StatusCode::kAlreadyExists},
    {Reason::kSplitImage, "SPLIT_IMAGE", StatusCode::kFailedPrecondition},
    {Reason::kSolidImage, "SOLID_IMAGE", StatusCode::kFailedPrecondition},
    {Reason::kIntegrityCheckFailed, "INTEGRITY_CHECK_FAILED", StatusCode::kDataLoss},
    {Reason::kAccessDenied, "ACCESS_DENIED", StatusCode::kPermissionDenied},
    {Reason::kDeniedByPolicy, "DENIED_BY_POLICY", StatusCode::kPermissionDenied},
    {Reason::kEncryptedVolume, "ENCRYPTED_VOLUME", StatusCode::kFailedPrecondition},
    {Reason::kInvalidFlags, "INVALID_FLAGS", StatusCode::kInvalidArgument},
    {Reason::kImageInUse, "IMAGE_IN_USE", StatusCode::kFailedPrecondition},
    {Reason::kVolumeHibernated, "VOLUME_HIBERNATED", StatusCode::kFailedPrecondition},
    {Reason::kOtherNamespace, "OTHER_NAMESPACE", StatusCode::kFailedPrecondition},
    {Reason::kImageChanged, "IMAGE_CHANGED", StatusCode::kAborted},
    {Reason::kNotMounted, "NOT_MOUNTED", StatusCode::kNotFound},
    {Reason::kMountBusy, "MOUNT_BUSY", StatusCode::kFailedPrecondition},
    {Reason::kMountReadOnly, "MOUNT_READ_ONLY", StatusCode::kFailedPrecondition},
    {Reason::kTooManyMounts, "TOO_MANY_MOUNTS", StatusCode::kResourceExhausted},
    {Reason::kTooManyOperations, "TOO_MANY_OPERATIONS", StatusCode::kResourceExhausted},
    {Reason::kPathTimedOut, "PATH_TIMED_OUT", StatusCode::kDeadlineExceeded},
    {Reason::kWorkerDied, "WORKER_DIED", StatusCode::kInternal},
    {Reason::kNotImplemented, "NOT_IMPLEMENTED", StatusCode::kUnimplemented},
    {Reason::kShuttingDown, "SHUTTING_DOWN", StatusCode::kUnavailable},
    {Reason::kOperationNotFound, "OPERATION_NOT_FOUND", StatusCode::kNotFound},
    {Reason::kMountPointUnsupported, "MOUNT_POINT_UNSUPPORTED", StatusCode::kFailedPrecondition},
    {Reason::kNeedsRemount, "NEEDS_REMOUNT", StatusCode::kFailedPrecondition},
    {Reason::kMountInvalid, "MOUNT_INVALID", StatusCode::kFailedPrecondition},
    {Reason::kOutOfResources, "OUT_OF_RESOURCES", StatusCode::kResourceExhausted},
    {Reason::kPartMissing, "PART_MISSING", StatusCode::kNotFound},
    {Reason::kOperationInProgress, "OPERATION_IN_PROGRESS", StatusCode::kFailedPrecondition},
    {Reason::kNotRemountable, "NOT_REMOUNTABLE", StatusCode::kFailedPrecondition},
    {Reason::kDiskFull, "DISK_FULL", StatusCode::kResourceExhausted},
    {Reason::kUnsupportedVolume, "UNSUPPORTED_VOLUME", StatusCode::kInvalidArgument},
    {Reason::kRefsVolume, "REFS_VOLUME", StatusCode::kInvalidArgument},
    {Reason::kDynamicDisk, "DYNAMIC_DISK", StatusCode::kInvalidArgument},
    {Reason::kAmbiguousPartition, "AMBIGUOUS_PARTITION", StatusCode::kInvalidArgument},
    {Reason::kPartitionNotFound, "PARTITION_NOT_FOUND", StatusCode::kInvalidArgument},
};

// Rows stand at the index of their number, so that a look-up is one access.
constexpr bool RowsInOrder() {
  for (int i = 0; i < static_cast<int>(std::size(kRows)); ++i) {
    if (static_cast<int>(kRows[i].reason) != i) return false;
  }
  return true;
}
static_assert(RowsInOrder());

const Row& RowOf(Reason reason) {
  auto index = static_cast<size_t>(reason);
  return index < std::size(kRows) ? kRows[index] : kRows[0];
}

}  // namespace

absl::Status MakeError(Reason reason, std::string message) {
  absl::Status status(CodeOf(reason), message);
  status.SetPayload(kReasonUrl, absl::Cord(absl::StrCat(static_cast<int>(reason))));
  return status;
}

absl::Status MakeErrnoError(Reason reason, int errno_value, std::string message) {
  char buffer[128];
  const char* text = strerror_r(errno_value, buffer, sizeof(buffer));
  const bool disk_full = errno_value == ENOSPC || errno_value == EDQUOT;
  if (reason == Reason::kOutOfResources && disk_full) reason = Reason::kDiskFull;
  return MakeError(reason, absl::StrCat(message, ": ", text));
}

Reason ReasonOf(const absl::Status& status) {
  auto payload = status.GetPayload(kReasonUrl);
  int number = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &number)) return Reason::kUnspecified;
  return RowOf(static_cast<Reason>(number)).reason;
}

const char* ReasonName(Reason reason) { return RowOf(reason).name; }

absl::StatusCode CodeOf(Reason reason) { return RowOf(reason).code; }

}  // namespace libmount
