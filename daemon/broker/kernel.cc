// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

// Linux 6.8; Debian 12's headers do not know it.
constexpr unsigned kStatxUniqueMountId = 0x4000;

std::optional<MountPosition> Position(int directory, const char* path, int flags) {
  // No basic field is asked for, and no synchronisation: FUSE then answers from memory, even to those it refuses.
  struct statx plain;
  if (statx(directory, path, flags | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &plain) != 0) return std::nullopt;
  MountPosition position;
  position.mount.set_mount_id(plain.stx_mnt_id);
  position.mount.set_device_major(plain.stx_dev_major);
  position.mount.set_device_minor(plain.stx_dev_minor);
  position.is_mount_root = (plain.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
  struct statx unique;
  if (statx(directory, path, flags | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, kStatxUniqueMountId, &unique) == 0 &&
      (unique.stx_mask & kStatxUniqueMountId) != 0) {
    position.mount.set_unique_mount_id(unique.stx_mnt_id);
  }
  return position;
}

}  // namespace

UniqueFd OpenAt2(int directory, const char* path, uint64_t flags, uint64_t resolve) {
  open_how how = {};
  how.flags = flags | O_CLOEXEC;
  how.resolve = resolve | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, directory, path, &how, sizeof(how))));
}

UniqueFd Reopen(int path_fd, int flags) {
  return UniqueFd(open(absl::StrCat("/proc/self/fd/", path_fd).c_str(), flags | O_CLOEXEC));
}

std::optional<MountPosition> PositionOf(int fd) { return Position(fd, "", AT_EMPTY_PATH); }

std::optional<MountPosition> PositionOfPath(const char* path) { return Position(AT_FDCWD, path, 0); }

bool SameDevice(const internal::KernelMount& a, const internal::KernelMount& b) {
  return a.device_major() == b.device_major() && a.device_minor() == b.device_minor();
}

bool SameMount(const internal::KernelMount& a, const internal::KernelMount& b) {
  // FUSE tells the unique id only to those it lets in, so one side may lack it.
  bool both_unique = a.unique_mount_id() != 0 && b.unique_mount_id() != 0;
  if (both_unique && a.unique_mount_id() != b.unique_mount_id()) return false;
  return a.mount_id() == b.mount_id() && SameDevice(a, b);
}

std::string PathOf(int fd) {
  char path[PATH_MAX];
  ssize_t length = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path, sizeof(path));
  // A deleted file reads as "... (deleted)", which could also be a name: the caller compares with what is there.
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path)) || path[0] != '/') return "";
  return std::string(path, static_cast<size_t>(length));
}

UniqueFd PidfdOpen(int pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

bool PidfdSignal(const UniqueFd& pidfd, int signal) {
  return syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0;
}

uint64_t ProcessStartTime(int pid) {
  UniqueFd stat(open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024];
  ssize_t length = stat ? read(stat.get(), text, sizeof(text)) : -1;
  if (length <= 0) return 0;
  // The second field is the program's name in parentheses, and may hold anything, parentheses too.
  std::string_view rest(text, static_cast<size_t>(length));
  size_t end_of_name = rest.rfind(')');
  if (end_of_name == std::string_view::npos) return 0;
  rest.remove_prefix(std::min(end_of_name + 2, rest.size()));
  constexpr size_t kStartTime = 22 - 3;  // `rest` begins with field 3
  std::vector<std::string> fields = absl::StrSplit(std::string(rest), ' ');
  uint64_t start_time = 0;
  if (fields.size() <= kStartTime || !absl::SimpleAtoi(fields[kStartTime], &start_time)) return 0;
  return start_time;
}

}  // namespace dismd
