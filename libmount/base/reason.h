// SPDX-License-Identifier: GPL-3.0-or-later
//
// Why an operation failed, as a code that survives every border of the service.
//
// libmount reports failures as absl::Status. The status code says what kind of failure it is, the message says what
// happened to which file at which offset, and the Reason (a payload of the status) says which row of the contract it
// is. The front turns it into the ErrorReason detail of the public proto (the numbers are the same; the front
// static_asserts that), and the client library turns that into an HRESULT.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_BASE_REASON_H_
#define LIBMOUNT_BASE_REASON_H_

#include <string>

#include "absl/status/status.h"

namespace libmount {

// Numbers are part of the public protocol (dismd.v1.Reason) and are never reused.
enum class Reason : int {
  kUnspecified = 0,
  kCancelled = 1,
  kInvalidPath = 2,
  kImageNotFound = 3,
  kMountPointNotFound = 4,
  kUnsupportedImageType = 5,
  kBadImageFormat = 6,
  kInvalidImageIndex = 7,
  kInvalidImageName = 8,
  kMountPointNotEmpty = 9,
  kMountPointInUse = 10,
  kMountPointIsRoot = 11,
  kImageOnNetwork = 12,
  kImageReadOnly = 13,
  kAlreadyMountedReadWrite = 14,
  kSplitImage = 15,
  kSolidImage = 16,
  kIntegrityCheckFailed = 17,
  kAccessDenied = 18,
  kDeniedByPolicy = 19,
  kEncryptedVolume = 20,
  kInvalidFlags = 21,
  kImageInUse = 22,
  kVolumeHibernated = 23,
  kOtherNamespace = 24,
  kImageChanged = 25,
  kNotMounted = 26,          // no mount of ours at that path
  kMountBusy = 27,           // unmount: in use; the message names the processes
  kMountReadOnly = 28,       // commit of a read-only mount
  kTooManyMounts = 29,       // a fixed limit of the service; the message names it
  kTooManyOperations = 30,   // a fixed limit of the service; the message names it
  kPathTimedOut = 31,        // the caller's file system did not answer within the deadline
  kWorkerDied = 32,          // the process serving the mount ended unexpectedly
  kNotImplemented = 33,      // a later version brings it
  kShuttingDown = 34,        // the service is stopping
  kOperationNotFound = 35,   // no such operation, or it ended too long ago
  kMountPointUnsupported = 36,  // the file system below cannot carry a mount (/proc, /sys, ...)
  kNeedsRemount = 37,
  kMountInvalid = 38,
  kOutOfResources = 39,      // memory, descriptors, disk space; the message says which
  kPartMissing = 40,         // a part of a split set was not found beside the first
  kOperationInProgress = 41, // another operation works on this mount
  kNotRemountable = 42,      // remount of a mount that does not need it
  kDiskFull = 43,            // no space, or over quota; the message says where
  kUnsupportedVolume = 44,   // no NTFS where one is wanted; the message says what is there
  kRefsVolume = 45,
  kDynamicDisk = 46,         // Logical Disk Manager
  kAmbiguousPartition = 47,  // several could be meant; the message lists them
  kPartitionNotFound = 48,
};

// A failure with its reason. The status code follows from the reason (see reason.cc for the table).
absl::Status MakeError(Reason reason, std::string message);

// The same for a failed system call: appends strerror(errno_value) to the message. kOutOfResources becomes kDiskFull
// where the errno is ENOSPC or EDQUOT.
absl::Status MakeErrnoError(Reason reason, int errno_value, std::string message);

// The reason carried by a status; kUnspecified where there is none (also for an ok status).
Reason ReasonOf(const absl::Status& status);

// The constant's public name, such as "IMAGE_NOT_FOUND".
const char* ReasonName(Reason reason);

// The status code that MakeError gives an error of this reason.
absl::StatusCode CodeOf(Reason reason);

}  // namespace libmount

#endif  // LIBMOUNT_BASE_REASON_H_
