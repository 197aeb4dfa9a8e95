// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/errors.h"

#include "daemon/front/limits.h"
#include "daemon/front/text.h"
#include "dismd/internal/rpc_status.pb.h"
#include "dismd/v1/errors.pb.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::Reason;

// The public numbers are ours.
#define DISMD_SAME(ours, theirs) static_assert(static_cast<int>(Reason::ours) == static_cast<int>(v1::theirs))
DISMD_SAME(kCancelled, CANCELLED);
DISMD_SAME(kInvalidPath, INVALID_PATH);
DISMD_SAME(kImageNotFound, IMAGE_NOT_FOUND);
DISMD_SAME(kMountPointNotFound, MOUNT_POINT_NOT_FOUND);
DISMD_SAME(kUnsupportedImageType, UNSUPPORTED_IMAGE_TYPE);
DISMD_SAME(kBadImageFormat, BAD_IMAGE_FORMAT);
DISMD_SAME(kInvalidImageIndex, INVALID_IMAGE_INDEX);
DISMD_SAME(kInvalidImageName, INVALID_IMAGE_NAME);
DISMD_SAME(kMountPointNotEmpty, MOUNT_POINT_NOT_EMPTY);
DISMD_SAME(kMountPointInUse, MOUNT_POINT_IN_USE);
DISMD_SAME(kMountPointIsRoot, MOUNT_POINT_IS_ROOT);
DISMD_SAME(kImageOnNetwork, IMAGE_ON_NETWORK);
DISMD_SAME(kImageReadOnly, IMAGE_READ_ONLY);
DISMD_SAME(kAlreadyMountedReadWrite, ALREADY_MOUNTED_READ_WRITE);
DISMD_SAME(kSplitImage, SPLIT_IMAGE);
DISMD_SAME(kSolidImage, SOLID_IMAGE);
DISMD_SAME(kIntegrityCheckFailed, INTEGRITY_CHECK_FAILED);
DISMD_SAME(kAccessDenied, ACCESS_DENIED);
DISMD_SAME(kDeniedByPolicy, DENIED_BY_POLICY);
DISMD_SAME(kEncryptedVolume, ENCRYPTED_VOLUME);
DISMD_SAME(kInvalidFlags, INVALID_FLAGS);
DISMD_SAME(kImageInUse, IMAGE_IN_USE);
DISMD_SAME(kVolumeHibernated, VOLUME_HIBERNATED);
DISMD_SAME(kOtherNamespace, OTHER_NAMESPACE);
DISMD_SAME(kImageChanged, IMAGE_CHANGED);
DISMD_SAME(kNotMounted, NOT_MOUNTED);
DISMD_SAME(kMountBusy, MOUNT_BUSY);
DISMD_SAME(kMountReadOnly, MOUNT_READ_ONLY);
DISMD_SAME(kTooManyMounts, TOO_MANY_MOUNTS);
DISMD_SAME(kTooManyOperations, TOO_MANY_OPERATIONS);
DISMD_SAME(kPathTimedOut, PATH_TIMED_OUT);
DISMD_SAME(kWorkerDied, WORKER_DIED);
DISMD_SAME(kNotImplemented, NOT_IMPLEMENTED);
DISMD_SAME(kShuttingDown, SHUTTING_DOWN);
DISMD_SAME(kOperationNotFound, OPERATION_NOT_FOUND);
DISMD_SAME(kMountPointUnsupported, MOUNT_POINT_UNSUPPORTED);
DISMD_SAME(kNeedsRemount, NEEDS_REMOUNT);
DISMD_SAME(kMountInvalid, MOUNT_INVALID);
DISMD_SAME(kOutOfResources, OUT_OF_RESOURCES);
DISMD_SAME(kPartMissing, PART_MISSING);
DISMD_SAME(kOperationInProgress, OPERATION_IN_PROGRESS);
DISMD_SAME(kNotRemountable, NOT_REMOUNTABLE);
DISMD_SAME(kDiskFull, DISK_FULL);
DISMD_SAME(kUnsupportedVolume, UNSUPPORTED_VOLUME);
DISMD_SAME(kRefsVolume, REFS_VOLUME);
DISMD_SAME(kDynamicDisk, DYNAMIC_DISK);
DISMD_SAME(kAmbiguousPartition, AMBIGUOUS_PARTITION);
DISMD_SAME(kPartitionNotFound, PARTITION_NOT_FOUND);
#undef DISMD_SAME
static_assert(v1::Reason_MAX == v1::PARTITION_NOT_FOUND, "a new reason must be added to libmount::Reason, and here");

constexpr char kReasonTypeUrl[] = "type.googleapis.com/dismd.v1.ErrorReason";

}  // namespace

v1::OperationError ToOperationError(const absl::Status& status) {
  v1::OperationError error;
  error.set_code(static_cast<int>(status.code()));
  error.set_reason(static_cast<v1::Reason>(libmount::ReasonOf(status)));
  error.set_message(ToValidUtf8({status.message().data(), status.message().size()}));
  return error;
}

absl::Status FromOperationError(const v1::OperationError& error) {
  if (error.reason() == v1::REASON_UNSPECIFIED) {
    return absl::Status(static_cast<absl::StatusCode>(error.code()), error.message());
  }
  return libmount::MakeError(static_cast<Reason>(error.reason()), error.message());
}

v1::OperationError ToCallError(const absl::Status& status) {
  v1::OperationError error = ToOperationError(status);
  error.set_message(ElidedText(error.message(), kMaxCallMessageBytes));
  return error;
}

std::string ToErrorDetails(const absl::Status& status) {
  v1::OperationError error = ToCallError(status);
  v1::ErrorReason reason;
  reason.set_reason(error.reason());
  internal::RpcStatus details;
  details.set_code(error.code());
  details.set_message(error.message());
  internal::RpcDetail* detail = details.add_details();
  detail->set_type_url(kReasonTypeUrl);
  detail->set_value(reason.SerializeAsString());
  return details.SerializeAsString();
}

void SetTimestamp(absl::Time time, google::protobuf::Timestamp* out) {
  int64_t seconds = absl::ToUnixSeconds(time);
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

}  // namespace dismd
