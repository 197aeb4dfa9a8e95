// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/mountinfo.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

// A line is
//   36 35 98:0 /root /mount/point options [optional fields...] - type source options
// with spaces, tabs, newlines and backslashes in paths as \ooo.
constexpr size_t kMountPointField = 4;

std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::optional<uint32_t> UserOf(const std::string& super_options) {
  constexpr std::string_view kUser = "user_id=";
  const std::vector<std::string> options = absl::StrSplit(super_options, ',');
  for (const std::string& option : options) {
    uint32_t user;
    if (option.starts_with(kUser) && absl::SimpleAtoi(option.substr(kUser.size()), &user)) return user;
  }
  return std::nullopt;
}

std::optional<MountinfoEntry> ParseLine(std::string_view line) {
  std::vector<std::string> fields = absl::StrSplit(std::string(line), ' ');
  if (fields.size() <= kMountPointField + 1) return std::nullopt;
  MountinfoEntry entry;
  std::vector<std::string> device = absl::StrSplit(fields[2], ':');
  if (!absl::SimpleAtoi(fields[0], &entry.mount_id) || device.size() != 2 ||
      !absl::SimpleAtoi(device[0], &entry.device_major) || !absl::SimpleAtoi(device[1], &entry.device_minor)) {
    return std::nullopt;
  }
  entry.mount_point = Unescape(fields[kMountPointField]);
  for (size_t i = kMountPointField + 2; i + 1 < fields.size(); ++i) {
    if (fields[i] == "-") {
      entry.type = Unescape(fields[i + 1]);
      if (i + 3 < fields.size()) entry.fuse_user = UserOf(fields[i + 3]);
      return entry;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string ReadMountinfo() {
  libmount::UniqueFd file(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!file) return text;
  char buffer[32768];
  ssize_t n;
  while ((n = read(file.get(), buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

std::optional<MountinfoEntry> FindMount(std::string_view mountinfo, uint64_t mount_id) {
  std::string wanted = std::to_string(mount_id) + " ";
  for (size_t start = 0; start < mountinfo.size();) {
    size_t end = std::min(mountinfo.find('\n', start), mountinfo.size());
    std::string_view line = mountinfo.substr(start, end - start);
    if (line.starts_with(wanted)) return ParseLine(line);
    start = end + 1;
  }
  return std::nullopt;
}

bool IsAttached(std::string_view mountinfo, const internal::KernelMount& mount) {
  std::optional<MountinfoEntry> entry = FindMount(mountinfo, mount.mount_id());
  return entry.has_value() && entry->device_major == mount.device_major() &&
         entry->device_minor == mount.device_minor();
}

}  // namespace dismd
