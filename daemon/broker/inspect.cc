// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/file_systems.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/mountinfo.h"
#include "libmount/base/test_seam.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::UniqueFd;

// Of root's rights a root caller keeps reading and searching everywhere, as the command line would have; others keep
// none.
absl::Status BecomeCaller(const internal::Identity& caller) {
  if (caller.uid() == 0) return BecomeUser(caller, {CAP_DAC_READ_SEARCH});
  return BecomeUser(caller, {});
}

uint64_t MagicOf(const struct statfs& file_system) {
  return static_cast<uint32_t>(file_system.f_type);  // sign-extended on some architectures
}

// FUSE asks the file system's program at each close of a file (FLUSH), and waits for its answer. The broker's children
// close what they have of its descriptors, those of all users: a program that does not answer would stop the service.
// Ours says once that it need not be asked, on read-write mounts to who opens with O_NONBLOCK.
bool IsServedByUser(int fd, uint64_t magic, const std::vector<OwnMount>& own_mounts, uid_t service) {
  if (magic != FUSE_SUPER_MAGIC) return false;
  const std::optional<MountPosition> position = PositionOf(fd);
  if (!position.has_value()) return true;
  for (const OwnMount& own : own_mounts) {
    if (SameDevice(own.mount, position->mount)) return false;
  }
  const std::optional<MountinfoEntry> entry = FindMount(ReadMountinfo(), position->mount.mount_id());
  if (!entry.has_value() || !entry->fuse_user.has_value()) return true;
  return *entry->fuse_user != 0 && *entry->fuse_user != service;
}

// Has our program say so here, where waiting for it hurts nobody.
void CloseOnce(int fd) { UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)).reset(); }

struct Parent {
  UniqueFd directory;
  std::string name;
};

Parent ParentOf(int fd, const std::string& real_path) {
  Parent parent;
  parent.directory = OpenParent(fd, real_path, &parent.name);
  return parent;
}

void InspectImage(const std::string& path, bool read_write, const std::vector<OwnMount>& own_mounts, uid_t service,
                  internal::InspectAnswer* answer, std::vector<int>* descriptors) {
  internal::PathFacts* facts = answer->mutable_facts();
  // First without opening it: opening a device or a FIFO does things, and may wait.
  UniqueFd found = OpenAt2(AT_FDCWD, path.c_str(), O_PATH);
  struct stat attributes;
  struct statfs file_system;
  if (!found || fstat(found.get(), &attributes) != 0 || fstatfs(found.get(), &file_system) != 0) {
    facts->set_image_errno(errno);
    return;
  }
  facts->set_image_is_regular(S_ISREG(attributes.st_mode));
  facts->set_image_is_directory(S_ISDIR(attributes.st_mode));
  std::string type = TypeOf(found.get());
  facts->set_image_on_network(IsNetworkFileSystem(MagicOf(file_system), type));
  facts->set_image_file_system(FileSystemName(MagicOf(file_system), type));
  facts->set_image_served_by_user(IsServedByUser(found.get(), MagicOf(file_system), own_mounts, service));
  if (!S_ISREG(attributes.st_mode) || facts->image_served_by_user()) return;

  // Then what was found, not what the path leads to by now. The kernel checks the caller's right to read it.
  UniqueFd image;
  // Tried by opening: a file system that is read-only, and an immutable file, say no as well.
  if (read_write) image = Reopen(found.get(), O_RDWR | O_NONBLOCK | O_NOCTTY);
  facts->set_image_writable(image.valid());
  if (!image) image = Reopen(found.get(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!image) {
    facts->set_image_errno(errno);
    return;
  }
  CloseOnce(image.get());
  facts->set_image_device(attributes.st_dev);
  facts->set_image_inode(attributes.st_ino);
  facts->set_image_real_path(PathOf(image.get()));
  Parent parent = ParentOf(image.get(), facts->image_real_path());
  answer->set_has_image(true);
  descriptors->push_back(image.release());
  if (parent.directory) {
    answer->set_has_image_directory(true);
    descriptors->push_back(parent.directory.release());
  }
}

uint64_t OwnMountAt(const MountPosition& position, const std::vector<OwnMount>& own_mounts) {
  if (!position.is_mount_root) return 0;
  for (const OwnMount& own : own_mounts) {
    if (SameMount(own.mount, position.mount)) return own.slot_id;
  }
  return 0;
}

void InspectMountPoint(const internal::Identity& caller, const std::string& path,
                       const std::vector<OwnMount>& own_mounts, internal::InspectAnswer* answer,
                       std::vector<int>* descriptors) {
  internal::PathFacts* facts = answer->mutable_facts();
  UniqueFd directory = OpenAt2(AT_FDCWD, path.c_str(), O_PATH);
  std::optional<MountPosition> position = directory ? PositionOf(directory.get()) : std::nullopt;
  if (!position.has_value()) {
    facts->set_mount_errno(errno);
    return;
  }
  facts->set_mount_real_path(PathOf(directory.get()));
  facts->set_mount_is_root(position->is_mount_root);
  facts->set_mount_in_use_slot(OwnMountAt(*position, own_mounts));
  if (facts->mount_in_use_slot() != 0) {
    facts->set_mount_is_directory(true);
    return;  // a mount of ours: its root is asked nothing, its worker may be dead or busy
  }

  struct stat attributes;
  struct statfs file_system;
  if (fstat(directory.get(), &attributes) != 0 || fstatfs(directory.get(), &file_system) != 0) {
    facts->set_mount_errno(errno);
    return;
  }
  facts->set_mount_is_directory(S_ISDIR(attributes.st_mode));
  facts->set_mount_owner(attributes.st_uid);
  facts->set_mount_owned_by_caller(caller.uid() == 0 || attributes.st_uid == caller.uid());
  facts->set_mount_file_system_allowed(MayCarryMounts(MagicOf(file_system)));
  facts->set_mount_file_system(FileSystemName(MagicOf(file_system), TypeOf(directory.get())));
  if (!S_ISDIR(attributes.st_mode)) return;
  int entries = CountEntries(directory.get());
  facts->set_mount_is_empty(entries == 0);
  if (entries < 0) facts->set_mount_errno(-entries);

  Parent parent = ParentOf(directory.get(), facts->mount_real_path());
  if (parent.directory && !facts->mount_is_root()) {
    answer->set_has_mount_point(true);
    answer->set_has_mount_parent(true);
    answer->set_mount_name(parent.name);
    descriptors->push_back(directory.release());
    descriptors->push_back(parent.directory.release());
  }
}

}  // namespace

std::string TypeOf(int fd) {
  std::optional<MountPosition> position = PositionOf(fd);
  return position.has_value() ? MountinfoType(ReadMountinfo(), position->mount.mount_id()) : "";
}

UniqueFd OpenParent(int fd, const std::string& real_path, std::string* name) {
  size_t slash = real_path.rfind('/');
  if (slash == std::string::npos || slash + 1 == real_path.size()) return UniqueFd();  // "/" has no parent
  std::string path = slash == 0 ? "/" : real_path.substr(0, slash);
  *name = real_path.substr(slash + 1);
  // The path came from the kernel and holds no links; if it does now, someone is moving things under us.
  UniqueFd directory = OpenAt2(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
  if (!directory) return directory;
  struct stat expected, found;
  if (fstat(fd, &expected) != 0 ||
      fstatat(directory.get(), name->c_str(), &found, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 ||
      expected.st_dev != found.st_dev || expected.st_ino != found.st_ino) {
    directory.reset();
  }
  return directory;
}

int CountEntries(int directory_fd) {
  UniqueFd readable(openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!readable) return -errno;
  DIR* stream = fdopendir(readable.get());
  if (stream == nullptr) return -errno;
  static_cast<void>(readable.release());  // the stream's now
  int result = 0;
  errno = 0;
  while (dirent* entry = readdir(stream)) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    result = 1;
    break;
  }
  if (result == 0 && errno != 0) result = -errno;
  closedir(stream);
  return result;
}

bool IsAbsolutePath(const std::string& path) {
  return path.starts_with('/') && path.size() < PATH_MAX && path.find('\0') == std::string::npos;
}

bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

bool IsPlainPath(const std::string& path) {
  if (path.size() >= PATH_MAX) return false;
  std::vector<std::string> parts = absl::StrSplit(path, '/');
  return std::all_of(parts.begin(), parts.end(), IsPlainName);
}

void InspectPathsAs(const internal::Identity& caller, const internal::InspectPaths& request,
                    const std::vector<OwnMount>& own_mounts, internal::InspectAnswer* answer,
                    std::vector<int>* descriptors) {
  const uid_t service = geteuid();
  if (absl::Status became = BecomeCaller(caller); !became.ok()) {
    answer->mutable_facts()->set_image_errno(EPERM);
    answer->mutable_facts()->set_mount_errno(EPERM);
    return;
  }
  libmount::TestSeam("broker-inspect-child");
  InspectImage(request.image_path(), request.read_write(), own_mounts, service, answer, descriptors);
  if (!request.mount_path().empty()) {
    InspectMountPoint(caller, request.mount_path(), own_mounts, answer, descriptors);
  }
}

void ResolvePathAs(const internal::Identity& caller, const std::string& path, const std::vector<OwnMount>& own_mounts,
                   internal::ResolveAnswer* answer) {
  if (absl::Status became = BecomeCaller(caller); !became.ok()) {
    SetError(became, answer->mutable_error());
    return;
  }
  UniqueFd found = OpenAt2(AT_FDCWD, path.c_str(), O_PATH);
  std::optional<MountPosition> position = found ? PositionOf(found.get()) : std::nullopt;
  if (!position.has_value()) {
    Reason reason = errno == EACCES || errno == EPERM ? Reason::kAccessDenied : Reason::kMountPointNotFound;
    SetError(libmount::MakeErrnoError(reason, errno, absl::StrCat("cannot open ", path)), answer->mutable_error());
    return;
  }
  answer->mutable_resolved()->set_real_path(PathOf(found.get()));
  answer->mutable_resolved()->set_slot_id(OwnMountAt(*position, own_mounts));
}

void OpenSiblingAs(const internal::Identity& caller, int image_directory,
                   const std::vector<std::string>& other_directories, const std::string& name,
                   const std::vector<OwnMount>& own_mounts, internal::OpenSiblingAnswer* answer,
                   std::vector<int>* descriptors) {
  const uid_t service = geteuid();
  absl::Status became = BecomeCaller(caller);
  if (!became.ok()) return SetError(became, answer->mutable_error());
  // A link may lead to another file beneath the same directory, as a link does for an image; not out of it, since the
  // name comes from a worker, and what a worker says may be the image's doing.
  UniqueFd found = OpenAt2(image_directory, name.c_str(), O_PATH, RESOLVE_BENEATH);
  for (size_t i = 0; !found && errno == ENOENT && i < other_directories.size(); ++i) {
    UniqueFd directory = OpenAt2(AT_FDCWD, other_directories[i].c_str(), O_PATH | O_DIRECTORY);
    if (directory) found = OpenAt2(directory.get(), name.c_str(), O_PATH, RESOLVE_BENEATH);
    if (!found) errno = ENOENT;  // one that is closed to this caller hides none behind it
  }
  struct stat attributes;
  struct statfs file_system;
  if (!found || fstat(found.get(), &attributes) != 0 || fstatfs(found.get(), &file_system) != 0) {
    Reason reason = errno == ENOENT ? Reason::kImageNotFound : Reason::kAccessDenied;
    return SetError(libmount::MakeErrnoError(reason, errno, absl::StrCat("cannot open ", name)),
                    answer->mutable_error());
  }
  if (!S_ISREG(attributes.st_mode)) {
    return SetError(libmount::MakeError(Reason::kImageNotFound, absl::StrCat(name, " is not a regular file")),
                    answer->mutable_error());
  }
  if (IsServedByUser(found.get(), MagicOf(file_system), own_mounts, service)) {
    return SetError(libmount::MakeError(Reason::kImageOnNetwork,
                                        absl::StrCat(name, " lies in a file system that a user's program serves")),
                    answer->mutable_error());
  }
  UniqueFd file = Reopen(found.get(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file) {
    return SetError(libmount::MakeErrnoError(Reason::kAccessDenied, errno, absl::StrCat("cannot open ", name)),
                    answer->mutable_error());
  }
  CloseOnce(file.get());
  descriptors->push_back(file.release());
}

}  // namespace dismd
