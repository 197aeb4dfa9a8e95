// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/replace_image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

constexpr mode_t kTemporaryMode = 0600;
constexpr mode_t kModeBits = 07777;
// The kernel's own limits.
constexpr size_t kMaxXattrNames = XATTR_LIST_MAX;
constexpr size_t kMaxXattrValue = XATTR_SIZE_MAX;

// About the content, which is another now: the kernel itself drops the first at any write, and makes the others.
constexpr std::string_view kXattrsOfContent[] = {"security.capability", "security.ima", "security.evm"};

// Root keeps what it takes to make a file like one of somebody else's; others keep nothing.
absl::Status BecomeOwner(const internal::Identity& caller) {
  if (caller.uid() != 0) return BecomeUser(caller, {});
  return BecomeUser(caller, {CAP_DAC_READ_SEARCH, CAP_CHOWN, CAP_FOWNER, CAP_SYS_ADMIN});
}

absl::Status Failed(const std::string& what) {
  Reason reason = Reason::kUnspecified;
  if (errno == EACCES || errno == EPERM || errno == EROFS) reason = Reason::kAccessDenied;
  if (errno == ENOSPC || errno == EDQUOT || errno == ENOMEM) reason = Reason::kOutOfResources;
  return MakeErrnoError(reason, errno, what);
}

struct Place {
  UniqueFd directory;
  std::string name;
};

absl::StatusOr<Place> PlaceOf(int image) {
  Place place;
  const std::string path = PathOf(image);
  place.directory = OpenParent(image, path, &place.name);
  if (place.directory) return place;
  return MakeError(Reason::kImageChanged,
                   absl::StrCat(path, " is not where it was: it was moved, removed or replaced meanwhile"));
}

absl::StatusOr<std::vector<std::string>> XattrsOf(int fd) {
  std::string list(kMaxXattrNames, '\0');
  const ssize_t size = flistxattr(fd, list.data(), list.size());
  std::vector<std::string> names;
  if (size < 0 && errno == EOPNOTSUPP) return names;
  if (size < 0) return Failed("cannot list the extended attributes of the image file");
  for (size_t at = 0; at < static_cast<size_t>(size); at += names.back().size() + 1) names.emplace_back(&list[at]);
  std::erase_if(names, [](const std::string& name) {
    return std::find(std::begin(kXattrsOfContent), std::end(kXattrsOfContent), name) != std::end(kXattrsOfContent);
  });
  return names;
}

absl::Status CopyXattr(int from, int to, const std::string& name) {
  std::string value(kMaxXattrValue, '\0'), other(kMaxXattrValue, '\0');
  const ssize_t size = fgetxattr(from, name.c_str(), value.data(), value.size());
  if (size < 0) return Failed(absl::StrCat("cannot read ", name, " of the image file"));
  value.resize(static_cast<size_t>(size));
  const ssize_t has = fgetxattr(to, name.c_str(), other.data(), other.size());
  // What it has is not set again: that may be forbidden (a security label).
  if (has == size && std::string_view(other).substr(0, static_cast<size_t>(has)) == value) return absl::OkStatus();
  if (fsetxattr(to, name.c_str(), value.data(), value.size(), 0) == 0) return absl::OkStatus();
  return Failed(absl::StrCat("cannot give the new image file the attribute ", name, " of the old one"));
}

// ACLs are extended attributes too. The new file may have some from the directory's defaults.
absl::Status CopyXattrs(int from, int to) {
  absl::StatusOr<std::vector<std::string>> wanted = XattrsOf(from), there = XattrsOf(to);
  if (!wanted.ok()) return wanted.status();
  if (!there.ok()) return there.status();
  for (const std::string& name : *there) {
    const bool keep = std::find(wanted->begin(), wanted->end(), name) != wanted->end();
    if (!keep && fremovexattr(to, name.c_str()) != 0 && errno != ENODATA) {
      return Failed(absl::StrCat("cannot take the attribute ", name, " from the new image file"));
    }
  }
  for (const std::string& name : *wanted) {
    if (absl::Status copied = CopyXattr(from, to, name); !copied.ok()) return copied;
  }
  return absl::OkStatus();
}

absl::Status MakeAlike(int from, int to) {
  struct stat wanted, now;
  if (fstat(from, &wanted) != 0 || fstat(to, &now) != 0) return Failed("cannot look at the image file");
  if (wanted.st_nlink > 1) {
    return MakeError(Reason::kImageInUse,
                     absl::StrCat("the image file has ", wanted.st_nlink,
                                  " names (hard links), and a rebuild would part them; commit without it"));
  }
  const bool same_owner = wanted.st_uid == now.st_uid && wanted.st_gid == now.st_gid;
  if (!same_owner && fchown(to, wanted.st_uid, wanted.st_gid) != 0) {
    return Failed(absl::StrCat("the image file belongs to user ", wanted.st_uid, " and group ", wanted.st_gid,
                               ", which a new file of yours cannot; commit without a rebuild"));
  }
  // The mode first: of a file with an ACL it says what that one's mask is.
  if (fchmod(to, wanted.st_mode & kModeBits) != 0) return Failed("cannot set the mode of the new image file");
  if (absl::Status copied = CopyXattrs(from, to); !copied.ok()) return copied;
  if (fstat(to, &now) != 0) return Failed("cannot look at the new image file");
  if (now.st_mode == wanted.st_mode && now.st_uid == wanted.st_uid && now.st_gid == wanted.st_gid) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kAccessDenied, "the new image file cannot have owner and mode of the old one");
}

bool IsFile(const Place& place, const std::string& name, const struct stat& file) {
  struct stat found;
  return fstatat(place.directory.get(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW) == 0 &&
         found.st_dev == file.st_dev && found.st_ino == file.st_ino;
}

absl::Status Exchange(const Place& place, const std::string& name, const struct stat& old_file) {
  const int directory = place.directory.get();
  if (renameat2(directory, name.c_str(), directory, place.name.c_str(), RENAME_EXCHANGE) == 0) {
    if (IsFile(place, name, old_file)) {
      unlinkat(directory, name.c_str(), 0);
      return absl::OkStatus();
    }
    renameat2(directory, name.c_str(), directory, place.name.c_str(), RENAME_EXCHANGE);
    return MakeError(Reason::kImageChanged, absl::StrCat(place.name, " was replaced meanwhile"));
  }
  // A file system that cannot exchange.
  const bool cannot = errno == EINVAL || errno == ENOSYS;
  if (cannot && !IsFile(place, place.name, old_file)) {
    return MakeError(Reason::kImageChanged, absl::StrCat(place.name, " was replaced meanwhile"));
  }
  if (cannot && renameat(directory, name.c_str(), directory, place.name.c_str()) == 0) return absl::OkStatus();
  return Failed("cannot put the new image file in the place of the old one");
}

// A directory that may be changed and not read cannot be opened for syncing: then the whole file system is.
void SyncDirectory(const Place& place, int file) {
  UniqueFd directory(openat(place.directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || fsync(directory.get()) != 0) syncfs(file);
}

absl::Status Replace(int image, int file, const std::string& name) {
  struct stat old_file, new_file;
  if (fstat(image, &old_file) != 0 || fstat(file, &new_file) != 0) return Failed("cannot look at the image file");
  if (!S_ISREG(new_file.st_mode) || new_file.st_nlink != 1) {
    return MakeError(Reason::kAccessDenied, "what is to be the image file is none");
  }
  // Asked again: it may be done.
  const std::string path = PathOf(file);
  const std::string leaf = path.substr(path.rfind('/') + 1);
  if (old_file.st_nlink == 0 && leaf != name) {
    syncfs(file);
    return absl::OkStatus();
  }
  absl::StatusOr<Place> place = PlaceOf(image);
  if (!place.ok()) {
    // Exchanged, and the old file still has our name, or none.
    Place now;
    now.directory = OpenParent(file, path, &now.name);
    if (!now.directory || now.name == name) return place.status();
    if (IsFile(now, name, old_file)) unlinkat(now.directory.get(), name.c_str(), 0);
    SyncDirectory(now, file);
    return absl::OkStatus();
  }
  if (place->name == name) {  // likewise: what the image's descriptor leads to has our name
    if (leaf == name) return MakeError(Reason::kImageChanged, "the image file was renamed");
    unlinkat(place->directory.get(), name.c_str(), 0);
    SyncDirectory(*place, file);
    return absl::OkStatus();
  }
  // The worker says which file it is, and what follows is done with the rights of the mount's owner.
  if (!IsFile(*place, name, new_file) || (new_file.st_uid != geteuid() && new_file.st_uid != old_file.st_uid)) {
    return MakeError(Reason::kAccessDenied, "what is to be the image file is not the one that was made for it");
  }
  if (absl::Status alike = MakeAlike(image, file); !alike.ok()) return alike;
  if (fsync(file) != 0) return Failed("cannot bring the new image file to the disk");
  libmount::TestSeam("broker-image-prepared");
  absl::Status exchanged = Exchange(*place, name, old_file);
  if (!exchanged.ok()) {
    unlinkat(place->directory.get(), name.c_str(), 0);
    return exchanged;
  }
  libmount::TestSeam("broker-image-exchanged");
  SyncDirectory(*place, file);
  return absl::OkStatus();
}

}  // namespace

std::string TemporaryName(const std::string& mount_id) { return absl::StrCat(".dismd-", mount_id, ".new"); }

void CreateTemporaryAs(const internal::Identity& caller, int image, const std::string& name,
                       internal::TemporaryAnswer* answer, std::vector<int>* descriptors) {
  if (absl::Status became = BecomeOwner(caller); !became.ok()) return SetError(became, answer->mutable_error());
  absl::StatusOr<Place> place = PlaceOf(image);
  if (!place.ok()) return SetError(place.status(), answer->mutable_error());
  unlinkat(place->directory.get(), name.c_str(), 0);  // of an earlier attempt
  // With a name, not by O_TMPFILE: of a file that had none when it was opened the kernel never tells where it is.
  UniqueFd file(
      openat(place->directory.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kTemporaryMode));
  if (!file) {
    return SetError(Failed("cannot make a file in the directory of the image"), answer->mutable_error());
  }
  descriptors->push_back(file.release());
}

void ReplaceImageAs(const internal::Identity& caller, int image, int file, const std::string& name,
                    internal::TemporaryAnswer* answer) {
  absl::Status done = BecomeOwner(caller);
  if (done.ok()) done = Replace(image, file, name);
  struct stat attributes;
  if (done.ok() && fstat(file, &attributes) != 0) done = Failed("cannot look at the new image file");
  if (!done.ok()) return SetError(done, answer->mutable_error());
  answer->set_device(attributes.st_dev);
  answer->set_inode(attributes.st_ino);
}

void RemoveTemporaryAs(const internal::Identity& caller, const std::string& image_path, const std::string& name) {
  if (!BecomeOwner(caller).ok()) return;
  const size_t slash = image_path.rfind('/');
  if (slash == std::string::npos) return;
  const std::string directory = slash == 0 ? "/" : image_path.substr(0, slash);
  UniqueFd parent = OpenAt2(AT_FDCWD, directory.c_str(), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
  if (parent) unlinkat(parent.get(), name.c_str(), 0);
}

}  // namespace dismd
