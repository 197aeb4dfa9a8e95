// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/holders.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::UniqueFd;

// A process's status and maps are read up to here.
constexpr size_t kMaxProcText = size_t{4} << 20;

struct CloseDirectory {
  void operator()(DIR* stream) const { closedir(stream); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

std::string ReadText(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char buffer[16384];
  ssize_t n;
  while (file && text.size() < kMaxProcText && (n = read(file.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

// The real uid: the owner of /proc/PID is root for a program that cannot be dumped.
bool RunsAs(const std::string& process, uint32_t uid) {
  std::string status = ReadText(process + "/status");
  size_t found = status.find("\nUid:\t");
  if (found == std::string::npos) return false;
  size_t start = found + 6;
  uint32_t real_uid;
  return absl::SimpleAtoi(status.substr(start, status.find('\t', start) - start), &real_uid) && real_uid == uid;
}

bool LeadsInto(const std::string& link, const internal::KernelMount& mount) {
  std::optional<MountPosition> position = PositionOfPath(link.c_str());
  // By device, not by mount id: a process in another namespace holds a copy of the mount.
  return position.has_value() && SameDevice(position->mount, mount);
}

bool HoldsOpenFile(const std::string& process, const internal::KernelMount& mount) {
  Directory descriptors(opendir((process + "/fd").c_str()));
  if (!descriptors) return false;
  while (dirent* entry = readdir(descriptors.get())) {
    if (entry->d_name[0] != '.' && LeadsInto(absl::StrCat(process, "/fd/", entry->d_name), mount)) return true;
  }
  return false;
}

bool Holds(const std::string& process, const internal::KernelMount& mount) {
  for (const char* link : {"/cwd", "/root", "/exe"}) {
    if (LeadsInto(process + link, mount)) return true;
  }
  return HoldsOpenFile(process, mount) ||
         MapsDevice(ReadText(process + "/maps"), mount.device_major(), mount.device_minor());
}

}  // namespace

bool MapsDevice(std::string_view maps, uint32_t device_major, uint32_t device_minor) {
  // 7f12a000-7f12b000 r--p 00000000 00:3f 131  /path
  std::string wanted = absl::StrFormat("%02x:%02x", device_major, device_minor);
  constexpr int kDeviceField = 3;
  for (size_t start = 0; start < maps.size();) {
    size_t end = std::min(maps.find('\n', start), maps.size());
    std::string_view line = maps.substr(start, end - start);
    for (int field = 0; field < kDeviceField && !line.empty(); ++field) {
      size_t space = line.find(' ');
      line.remove_prefix(space == std::string_view::npos ? line.size() : space + 1);
    }
    if (line.starts_with(wanted) && line.size() > wanted.size() && line[wanted.size()] == ' ') return true;
    start = end + 1;
  }
  return false;
}

internal::BusyMount FindHolders(uint32_t uid, const internal::KernelMount& mount) {
  internal::BusyMount busy;
  Directory processes(opendir("/proc"));
  if (!processes) return busy;
  while (dirent* entry = readdir(processes.get())) {
    int pid;
    if (!absl::SimpleAtoi(entry->d_name, &pid) || pid == getpid()) continue;
    std::string process = absl::StrCat("/proc/", pid);
    if (!RunsAs(process, uid) || !Holds(process, mount)) continue;
    internal::Process* holder = busy.add_holders();
    holder->set_pid(pid);
    std::string name = ReadText(process + "/comm");
    if (!name.empty() && name.back() == '\n') name.pop_back();
    holder->set_name(name);
    if (busy.holders_size() == kMaxHolders) break;
  }
  return busy;
}

std::string DescribeHolders(const internal::BusyMount& busy) {
  if (busy.holders_size() == 0) return " by a process of another user, or by a mount inside it";
  std::string text = " by ";
  for (int i = 0; i < busy.holders_size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", busy.holders(i).name(), " (", busy.holders(i).pid(), ")");
  }
  return text;
}

}  // namespace dismd
