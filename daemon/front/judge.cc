// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/judge.h"

#include <errno.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/front/limits.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using internal::PathFacts;
using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;

// What keeps the caller from knowing: judged as a lack of access, after all that can be judged.
bool IsDenied(int error) { return error == EACCES || error == EPERM; }

// Errors of an open that say something of the path, not of access to it.
absl::Status JudgeOpenError(int error, Reason not_found, const std::string& what, const std::string& path) {
  switch (error) {
    case 0:
    case EACCES:
    case EPERM: return absl::OkStatus();
    case ENOENT:
    case ENOTDIR: return MakeErrnoError(not_found, error, absl::StrCat("cannot find the ", what, " ", path));
    case ETIMEDOUT:
      return MakeError(Reason::kPathTimedOut, absl::StrCat("the file system that holds the ", what, " ", path,
                                                           " did not answer in time; check it and try again"));
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return MakeErrnoError(Reason::kOutOfResources, error, absl::StrCat("cannot open the ", what, " ", path));
    default: return MakeErrnoError(Reason::kInvalidPath, error, absl::StrCat("cannot open the ", what, " ", path));
  }
}

bool EndsWithAny(const std::string& path, std::initializer_list<const char*> extensions) {
  for (const char* extension : extensions) {
    if (absl::EndsWithIgnoreCase(path, extension)) return true;
  }
  return false;
}

}  // namespace

absl::Status CheckPath(const std::string& path, const char* what) {
  if (path.empty())
    return MakeError(Reason::kInvalidPath, absl::StrCat("no ", what, " was given; give its absolute path"));
  if (path.find('\0') != std::string::npos) {
    return MakeError(Reason::kInvalidPath, absl::StrCat("the path of the ", what, " holds a zero byte"));
  }
  if (path.front() != '/') {
    return MakeError(Reason::kInvalidPath,
                     absl::StrCat("the path of the ", what, " is not absolute: ", path.substr(0, kMaxPathBytes)));
  }
  if (path.size() > kMaxPathBytes) {
    return MakeError(Reason::kInvalidPath, absl::StrCat("the path of the ", what, " has ", path.size(),
                                                        " bytes; at most ", kMaxPathBytes, " are possible"));
  }
  return absl::OkStatus();
}

absl::Status JudgePresence(const MountPaths& paths, const PathFacts& facts) {
  if (facts.other_namespace()) return absl::OkStatus();  // nothing was looked at
  absl::Status image = JudgeOpenError(facts.image_errno(), Reason::kImageNotFound, "image file", paths.image);
  if (!image.ok()) return image;
  bool with_mount_point = !paths.mount.empty();
  if (with_mount_point && facts.mount_errno() != ENOTDIR) {
    absl::Status mount = JudgeOpenError(facts.mount_errno(), Reason::kMountPointNotFound, "mount point", paths.mount);
    if (!mount.ok()) return mount;
  }
  if (facts.image_errno() == 0 && facts.image_is_directory()) {
    return MakeError(Reason::kInvalidPath,
                     absl::StrCat("the image path ", paths.image, " is a directory; give the image file itself"));
  }
  if (facts.image_errno() == 0 && !facts.image_is_regular()) {
    return MakeError(Reason::kInvalidPath, absl::StrCat("the image path ", paths.image, " is not a regular file"));
  }
  if (facts.image_served_by_user()) {
    return MakeError(Reason::kImageOnNetwork,
                     absl::StrCat("the image file ", paths.image, " lies in a file system (", facts.image_file_system(),
                                  ") that a user's program serves; copy it to a local disk"));
  }
  bool no_directory = facts.mount_errno() == ENOTDIR || (facts.mount_errno() == 0 && !facts.mount_is_directory());
  if (with_mount_point && no_directory) {
    return MakeError(Reason::kInvalidPath,
                     absl::StrCat("the mount point ", paths.mount, " is not a directory; give an empty directory"));
  }
  return absl::OkStatus();
}

absl::Status JudgeExtension(const std::string& image_path) {
  if (EndsWithAny(image_path, {".wim", ".esd", ".swm", ".vhd", ".vhdx"})) return absl::OkStatus();
  return MakeError(Reason::kUnsupportedImageType,
                   absl::StrCat("the name of ", image_path, " does not end in .wim, .esd, .swm, .vhd or .vhdx"));
}

bool IsDisk(const std::string& image_path) { return EndsWithAny(image_path, {".vhd", ".vhdx"}); }

absl::Status JudgeOptions(const v1::MountImageRequest& request) {
  if (request.flags() != 0) {
    return MakeError(Reason::kInvalidFlags, absl::StrFormat("unknown mount flags 0x%x", request.flags()));
  }
  if (IsDisk(request.image_path()) && request.check_integrity()) {
    return MakeError(
        Reason::kInvalidFlags,
        absl::StrCat(request.image_path(), " is a disk, which has no integrity table; leave the check out"));
  }
  if (!IsDisk(request.image_path()) && request.partition() != 0) {
    return MakeError(Reason::kInvalidFlags,
                     absl::StrCat(request.image_path(), " is a WIM, which has no partitions; give an index"));
  }
  return absl::OkStatus();
}

absl::Status JudgeMountPoint(const MountPaths& paths, const PathFacts& facts) {
  if (facts.mount_errno() != 0) return absl::OkStatus();  // nothing is known; access is judged later
  // The root of a mount of ours is rarely empty, yet "in use" is the better answer.
  bool in_use = facts.mount_in_use_slot() != 0;
  if (!in_use && !facts.mount_is_empty()) {
    return MakeError(Reason::kMountPointNotEmpty, absl::StrCat("the mount point ", paths.mount,
                                                               " is not empty; empty it or give another directory"));
  }
  if (in_use) {
    return MakeError(Reason::kMountPointInUse, absl::StrCat("an image is already mounted at ", paths.mount,
                                                            "; unmount it first or give another directory"));
  }
  if (facts.mount_is_root()) {
    return MakeError(
        Reason::kMountPointIsRoot,
        absl::StrCat("the mount point ", paths.mount, " is the root of a file system; give a directory below it"));
  }
  if (!facts.mount_file_system_allowed()) {
    return MakeError(
        Reason::kMountPointUnsupported,
        absl::StrCat("the mount point ", paths.mount, " lies on a file system (", facts.mount_file_system(),
                     ") that cannot carry a mount; give a directory elsewhere"));
  }
  return absl::OkStatus();
}

absl::Status JudgeImageLocation(const MountPaths& paths, const PathFacts& facts) {
  if (facts.image_errno() != 0 || !facts.image_on_network()) return absl::OkStatus();
  return MakeError(Reason::kImageOnNetwork,
                   absl::StrCat("the image file ", paths.image, " lies on a network file system (",
                                facts.image_file_system(), "); copy it to a local disk"));
}

absl::Status JudgeWritable(const MountPaths& paths, const PathFacts& facts) {
  if (facts.image_errno() == 0 && !facts.image_writable()) {
    return MakeError(Reason::kImageReadOnly, absl::StrCat("you may not write to the image file ", paths.image,
                                                          "; mount it read-only, or get write access to it"));
  }
  return absl::OkStatus();
}

absl::Status JudgeWriting(const MountPaths& paths, const internal::ImageOpened& opened) {
  if (opened.is_split()) {
    return MakeError(Reason::kSplitImage,
                     absl::StrCat("the image file ", paths.image, " is part of a split set; mount it read-only"));
  }
  if (opened.is_solid()) {
    return MakeError(Reason::kSolidImage, absl::StrCat("the image file ", paths.image,
                                                       " is compressed as a whole (solid); mount it read-only"));
  }
  if (opened.is_pipable() || opened.marked_read_only()) {
    return MakeError(Reason::kImageReadOnly,
                     absl::StrCat("the image file ", paths.image,
                                  opened.is_pipable() ? " is pipable" : " is marked read-only in its header",
                                  " and cannot be written in place; mount it read-only"));
  }
  if (opened.marked_write_in_progress()) {
    return MakeError(Reason::kImageInUse,
                     absl::StrCat("the image file ", paths.image,
                                  " is marked as being written by another program; wait for that one to finish"));
  }
  return absl::OkStatus();
}

absl::Status JudgeAccess(const MountPaths& paths, const PathFacts& facts) {
  if (IsDenied(facts.image_errno())) {
    return MakeErrnoError(Reason::kAccessDenied, facts.image_errno(),
                          absl::StrCat("you may not read the image file ", paths.image));
  }
  if (paths.mount.empty()) return absl::OkStatus();
  if (IsDenied(facts.mount_errno())) {
    return MakeErrnoError(Reason::kAccessDenied, facts.mount_errno(),
                          absl::StrCat("you may not reach the mount point ", paths.mount));
  }
  if (!facts.mount_owned_by_caller()) {
    return MakeError(Reason::kAccessDenied, absl::StrCat("the mount point ", paths.mount, " belongs to uid ",
                                                         facts.mount_owner(), "; give a directory of your own"));
  }
  return absl::OkStatus();
}

absl::Status JudgeNamespace(const PathFacts& facts) {
  if (!facts.other_namespace()) return absl::OkStatus();
  return MakeError(
      Reason::kOtherNamespace,
      "you live in another mount namespace (a container, a sandbox) than the service: a mount would not be "
      "visible to you; run a service inside, or ask from outside");
}

}  // namespace dismd
