// SPDX-License-Identifier: GPL-3.0-or-later
//
// Judge: the checks of a MountImage, each a row (or neighbouring rows) of the contract with callers. The broker and the
// worker report facts; these functions say what is wrong with them. MountOperation calls them in the contract's order:
//
//   paths well-formed · image and mount point there, of the right kind · extension · (content, index, name: the worker)
//   · mount point empty, not in use, no root · image not on a network · writable, if asked · (integrity: the worker)
//   · access · policy
//
// For a caller in another mount namespace the broker opens nothing, since the paths mean other files there: that is the
// answer, unless the paths themselves are wrong.
//
// All are pure functions.

#ifndef DAEMON_FRONT_JUDGE_H_
#define DAEMON_FRONT_JUDGE_H_

#include <string>

#include "absl/status/status.h"
#include "dismd/internal/control.pb.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

struct MountPaths {
  std::string image;
  std::string mount;  // empty: none (GetImageInfo)
};

// INVALID_PATH: empty, not absolute, too long, or with a zero byte.
absl::Status CheckPath(const std::string& path, const char* what);

// IMAGE_NOT_FOUND, MOUNT_POINT_NOT_FOUND, INVALID_PATH, PATH_TIMED_OUT.
absl::Status JudgePresence(const MountPaths& paths, const internal::PathFacts& facts);

// UNSUPPORTED_IMAGE_TYPE.
absl::Status JudgeExtension(const std::string& image_path);

// Whether the name is that of a disk (.vhd, .vhdx), whose one image has no integrity table.
bool IsDisk(const std::string& image_path);

// INVALID_FLAGS: what goes with only one of WIM and disk was asked for the other.
absl::Status JudgeOptions(const v1::MountImageRequest& request);

// MOUNT_POINT_NOT_EMPTY, MOUNT_POINT_IN_USE, MOUNT_POINT_IS_ROOT, MOUNT_POINT_UNSUPPORTED.
absl::Status JudgeMountPoint(const MountPaths& paths, const internal::PathFacts& facts);

// IMAGE_ON_NETWORK.
absl::Status JudgeImageLocation(const MountPaths& paths, const internal::PathFacts& facts);

// For a read-write mount. IMAGE_READ_ONLY: the caller may not write to it. (Then comes whether it is mounted read-write
// already.)
absl::Status JudgeWritable(const MountPaths& paths, const internal::PathFacts& facts);

// For a read-write mount, by what the worker found. SPLIT_IMAGE, SOLID_IMAGE, IMAGE_READ_ONLY, IMAGE_IN_USE. (Whether
// a volume is hibernated, the worker says when it opens it for writing.)
absl::Status JudgeWriting(const MountPaths& paths, const internal::ImageOpened& opened);

// ACCESS_DENIED.
absl::Status JudgeAccess(const MountPaths& paths, const internal::PathFacts& facts);

// OTHER_NAMESPACE.
absl::Status JudgeNamespace(const internal::PathFacts& facts);

}  // namespace dismd

#endif  // DAEMON_FRONT_JUDGE_H_
