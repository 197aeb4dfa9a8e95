// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/mount_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/file_systems.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/parked_descriptor.h"
#include "libmount/base/test_seam.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

constexpr char kFuseDevice[] = "/dev/fuse";

// The root of the mount is a directory; FUSE wants its mode in octal.
constexpr char kRootMode[] = "40000";

absl::Status Configure(int context, const FuseMountRequest& request, int fuse_fd) {
  auto set = [context](const char* key, const std::string& value) {
    return fsconfig(context, FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  };
  auto flag = [context](const char* key) { return fsconfig(context, FSCONFIG_SET_FLAG, key, nullptr, 0) == 0; };
  // Each option is ours. The only text of the caller's is the source, which the kernel does not interpret.
  bool done = set("source", SanitizeDescription(request.description)) && set("subtype", "dismd") &&
              set("fd", absl::StrCat(fuse_fd)) && set("rootmode", kRootMode) &&
              set("user_id", absl::StrCat(request.owner.uid())) && set("group_id", absl::StrCat(request.owner.gid())) &&
              set("max_read", absl::StrCat(kMaxRead)) &&
              // The kernel checks permissions by the modes that the worker tells, for those who are let in at all.
              flag("default_permissions") && (!request.allow_other || flag("allow_other")) &&
              (!request.read_only || flag("ro")) && fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0;
  if (!done) return MakeErrnoError(Reason::kOutOfResources, errno, "the kernel refuses to configure a FUSE mount");
  return absl::OkStatus();
}

// A mount without this works, and reads slowly.
std::string RaiseReadAhead(const internal::KernelMount& mount) {
  std::string path = absl::StrCat("/sys/class/bdi/", mount.device_major(), ":", mount.device_minor(), "/read_ahead_kb");
  std::string value = absl::StrCat(kReadAheadKilobytes);
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file && write(file.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) return "";
  return absl::StrCat("read-ahead stays low: cannot write ", path, ": ", strerror(errno));
}

absl::Status Create(const FuseMountRequest& request, internal::CreateAnswer* answer, std::vector<int>* descriptors) {
  UniqueFd fuse(open(kFuseDevice, O_RDWR | O_CLOEXEC));
  if (!fuse) {
    return MakeErrnoError(
        Reason::kOutOfResources, errno,
        "cannot open /dev/fuse; is the fuse module loaded, and the device passed into this container");
  }
  UniqueFd context(fsopen("fuse", FSOPEN_CLOEXEC));
  if (!context) return MakeErrnoError(Reason::kOutOfResources, errno, "fsopen(fuse)");
  absl::Status configured = Configure(context.get(), request, fuse.get());
  if (!configured.ok()) return configured;
  // Nothing in an image is ever a program with another user's rights, or a device.
  unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (request.read_only ? MOUNT_ATTR_RDONLY : 0);
  UniqueFd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount) return MakeErrnoError(Reason::kOutOfResources, errno, "fsmount");
  std::optional<MountPosition> position = PositionOf(mount.get());
  if (!position.has_value()) return MakeErrnoError(Reason::kOutOfResources, errno, "statx of the new mount");
  *answer->mutable_mount() = position->mount;
  answer->set_warning(RaiseReadAhead(position->mount));
  absl::StatusOr<UniqueFd> parked = ParkDescriptor(mount.get());
  if (!parked.ok()) return MakeError(Reason::kOutOfResources, std::string(parked.status().message()));
  descriptors->push_back(fuse.release());
  descriptors->push_back(parked->release());
  return absl::OkStatus();
}

absl::Status Attach(const internal::Identity& owner, int parked_mount, int directory_fd, int parent_fd,
                    const std::string& name) {
  // As the owner, with the one capability that mounting takes: where root may not look (a FUSE mount of the owner's),
  // the owner may, and nothing that root alone may reach is ever mounted over.
  absl::Status became = BecomeUser(owner, {CAP_SYS_ADMIN});
  if (!became.ok()) return became;
  absl::Status checked = CheckMountPoint(owner, directory_fd, parent_fd, name);
  if (!checked.ok()) return checked;
  absl::StatusOr<UniqueFd> mount = BorrowParked(parked_mount);
  if (!mount.ok()) return MakeError(Reason::kOutOfResources, std::string(mount.status().message()));
  if (move_mount(mount->get(), "", directory_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0) {
    return MakeErrnoError(Reason::kMountPointUnsupported, errno, "the kernel refuses the mount point");
  }
  // Only now: a mount that was not attached stays parked, and keeps its device number, until the broker gives it up.
  DropParked(parked_mount);
  return absl::OkStatus();
}

}  // namespace

std::string SanitizeDescription(const std::string& description) {
  std::string out;
  for (unsigned char c : description) {
    if (out.size() == kMaxDescription) break;
    // Commas separate options, backslashes escape; bytes beyond ASCII could be cut in the middle of a character.
    bool plain = c > 0x20 && c < 0x7f && c != ',' && c != '\\' && c != '"' && c != '#';
    out.push_back(plain ? static_cast<char>(c) : '_');
  }
  return out.empty() ? "dismd" : out;
}

absl::Status CheckMountPoint(const internal::Identity& owner, int directory_fd, int parent_fd,
                             const std::string& name) {
  std::optional<MountPosition> position = PositionOf(directory_fd);
  struct stat attributes;
  struct statfs file_system;
  if (!position.has_value() || fstat(directory_fd, &attributes) != 0 || fstatfs(directory_fd, &file_system) != 0) {
    return MakeErrnoError(Reason::kMountPointNotFound, errno, "the mount point cannot be looked at any more");
  }
  if (!S_ISDIR(attributes.st_mode)) return MakeError(Reason::kInvalidPath, "the mount point is not a directory");
  if (position->is_mount_root) {
    return MakeError(Reason::kMountPointIsRoot, "the mount point is the root of a file system");
  }
  if (!MayCarryMounts(static_cast<uint32_t>(file_system.f_type))) {
    return MakeError(Reason::kMountPointUnsupported, "the file system at the mount point cannot carry a mount");
  }
  if (owner.uid() != 0 && attributes.st_uid != owner.uid()) {
    return MakeError(Reason::kAccessDenied, "the mount point does not belong to the caller");
  }
  // The name must still lead there: it is how the mount will be taken away again. What was mounted on it meanwhile
  // would be found by the name, not by the descriptor.
  UniqueFd named = OpenAt2(parent_fd, name.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
  std::optional<MountPosition> named_position = named ? PositionOf(named.get()) : std::nullopt;
  if (named_position.has_value() && !SameMount(named_position->mount, position->mount)) {
    return MakeError(Reason::kMountPointInUse, "something was mounted on the mount point meanwhile");
  }
  struct stat named_attributes;
  if (!named_position.has_value() || fstat(named.get(), &named_attributes) != 0 ||
      named_attributes.st_dev != attributes.st_dev || named_attributes.st_ino != attributes.st_ino) {
    return MakeError(Reason::kMountPointNotFound, "the mount point was moved or replaced meanwhile");
  }
  int entries = CountEntries(directory_fd);
  if (entries < 0) return MakeErrnoError(Reason::kAccessDenied, -entries, "cannot read the mount point");
  if (entries > 0) return MakeError(Reason::kMountPointNotEmpty, "the mount point is not empty");
  return absl::OkStatus();
}

void CreateFuseMount(const FuseMountRequest& request, internal::CreateAnswer* answer, std::vector<int>* descriptors) {
  libmount::TestSeam("broker-create-child");
  absl::Status created = Create(request, answer, descriptors);
  if (!created.ok()) SetError(created, answer->mutable_error());
}

void AttachFuseMount(const internal::Identity& owner, int parked_mount, int directory_fd, int parent_fd,
                     const std::string& name, internal::AttachAnswer* answer) {
  libmount::TestSeam("broker-attach-child");
  absl::Status attached = Attach(owner, parked_mount, directory_fd, parent_fd, name);
  if (!attached.ok()) SetError(attached, answer->mutable_error());
}

}  // namespace dismd
