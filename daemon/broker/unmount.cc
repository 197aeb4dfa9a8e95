// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/holders.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/kernel.h"
#include "daemon/broker/mountinfo.h"
#include "daemon/broker/rootless_mount.h"
#include "libmount/base/test_seam.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

// Opens the parent of a mount that only its path is known of (a record of a broker that died; a mount that was moved).
UniqueFd OpenParent(UnmountRequest* request) {
  size_t slash = request->path.rfind('/');
  if (slash == std::string::npos) return UniqueFd();
  request->name = request->path.substr(slash + 1);
  std::string parent = slash == 0 ? "/" : request->path.substr(0, slash);
  return OpenAt2(AT_FDCWD, parent.c_str(), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
}

// What is mounted at the name now. Its descriptor is closed again: one that is open would keep the mount busy.
std::optional<MountPosition> PositionOfName(int parent_fd, const std::string& name) {
  UniqueFd found = OpenAt2(parent_fd, name.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
  return found ? PositionOf(found.get()) : std::nullopt;
}

// Enters the directory of the mount; false: its name does not lead to the mount there.
absl::StatusOr<bool> EnterParent(const UnmountRequest& request) {
  if (fchdir(request.parent_fd) != 0) {
    return MakeErrnoError(Reason::kAccessDenied, errno, absl::StrCat("cannot enter the directory of ", request.path));
  }
  std::optional<MountPosition> position = PositionOfName(AT_FDCWD, request.name);
  return position.has_value() && SameMount(position->mount, request.mount);
}

absl::Status TakeAway(const UnmountRequest& request) {
  if (request.rootless) return RootlessUnmount(request.name, request.detach);
  int flags = UMOUNT_NOFOLLOW | (request.detach ? MNT_DETACH : 0);
  if (umount2(request.name.c_str(), flags) == 0) return absl::OkStatus();
  if (errno == EBUSY) return absl::ResourceExhaustedError("busy");
  return MakeErrnoError(Reason::kOutOfResources, errno, absl::StrCat("cannot unmount ", request.path));
}

absl::Status Unmount(UnmountRequest request, internal::UnmountAnswer* answer) {
  // CAP_SYS_ADMIN to unmount, the others to reach the parent and to look at processes that hold the mount. The uid is
  // the owner's: a mount point may lie in a FUSE mount of theirs that lets nobody else in.
  absl::Status became = BecomeUser(request.owner, {CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE});
  if (!became.ok()) return became;
  libmount::TestSeam("broker-unmount-child");
  if (!IsAttached(ReadMountinfo(), request.mount)) {
    answer->set_was_gone(true);
    return absl::OkStatus();
  }
  UniqueFd own_parent;
  if (request.parent_fd < 0) {
    own_parent = OpenParent(&request);
    request.parent_fd = own_parent.get();
  }
  if (!IsPlainName(request.name)) return MakeError(Reason::kInvalidPath, "not a mount point's name");
  // Only the mount that we made is unmounted, whatever is at its place by now. The parent is held, and a directory that
  // is a mount point cannot be renamed from this mount namespace, so the name hardly comes to mean another mount in
  // between; what could be mounted over ours in that moment is the owner's own, since the directory is.
  absl::StatusOr<bool> entered = EnterParent(request);
  std::optional<MountinfoEntry> entry = FindMount(ReadMountinfo(), request.mount.mount_id());
  if (entered.ok() && !*entered && entry.has_value() && entry->mount_point != request.path) {
    // From another mount namespace its owner can rename it all the same. The kernel knows where it is now.
    request.path = entry->mount_point;
    own_parent = OpenParent(&request);
    request.parent_fd = own_parent.get();
    if (own_parent && IsPlainName(request.name)) entered = EnterParent(request);
  }
  if (!entered.ok()) return entered.status();
  if (!*entered) {
    return MakeError(Reason::kMountBusy,
                     absl::StrCat("another file system is mounted over ", request.path, "; unmount that one first"));
  }
  // Before it goes: afterwards its device number may be another connection's.
  if (request.detach) AbortConnection(request.mount);
  absl::Status taken = TakeAway(request);
  if (!absl::IsResourceExhausted(taken) || libmount::ReasonOf(taken) != Reason::kUnspecified) return taken;
  *answer->mutable_busy() = FindHolders(request.owner.uid(), request.mount);
  return MakeError(Reason::kMountBusy, absl::StrCat(request.path, " is in use", DescribeHolders(answer->busy())));
}

}  // namespace

bool AbortConnection(const internal::KernelMount& mount) {
  // The directory's name is the device number as the kernel counts inside: 20 bits of minor below the major.
  uint64_t connection = (static_cast<uint64_t>(mount.device_major()) << 20) | mount.device_minor();
  UniqueFd file(open(absl::StrCat("/sys/fs/fuse/connections/", connection, "/abort").c_str(), O_WRONLY | O_CLOEXEC));
  return file && write(file.get(), "1", 1) == 1;
}

void UnmountAs(UnmountRequest request, internal::UnmountAnswer* answer) {
  absl::Status unmounted = Unmount(std::move(request), answer);
  if (!unmounted.ok()) SetError(unmounted, answer->mutable_error());
}

}  // namespace dismd
