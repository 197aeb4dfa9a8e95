// SPDX-License-Identifier: Apache-2.0

#include "client/common/paths.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <vector>

#include "client/common/unicode.h"

namespace dismd {
namespace {

constexpr size_t kMaxPathBytes = 4095;
constexpr std::streamsize kMaxConfigBytes = 64 << 10;
constexpr std::string_view kVerbatim = "\\\\?\\";
constexpr char kSystemConfig[] = "/etc/dismd/dismctl.conf";

bool IsLetter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
char ToUpper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// "C: = /srv/c" or "C = /srv/c"; "* = /srv/drives".
void AddDrive(std::string_view entry, DriveMap* map) {
  size_t equals = entry.find('=');
  if (equals == std::string_view::npos) return;
  std::string_view drive = Trim(entry.substr(0, equals));
  std::string_view directory = Trim(entry.substr(equals + 1));
  if (drive.size() == 2 && drive[1] == ':') drive.remove_suffix(1);
  if (drive.size() != 1 || !(IsLetter(drive[0]) || drive[0] == kOtherDrives) || directory.empty() ||
      directory[0] != '/')
    return;
  while (directory.size() > 1 && directory.back() == '/') directory.remove_suffix(1);
  map->emplace(ToUpper(drive[0]), directory);
}

std::string ReadConfig(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(kMaxConfigBytes), '\0');
  file.read(text.data(), kMaxConfigBytes);
  text.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return text;
}

std::string UserConfigPath() {
  if (const char* base = secure_getenv("XDG_CONFIG_HOME"); base != nullptr && base[0] == '/') {
    return std::string(base) + "/dismd/dismctl.conf";
  }
  const char* home = secure_getenv("HOME");
  return home == nullptr || home[0] != '/' ? "" : std::string(home) + "/.config/dismd/dismctl.conf";
}

std::string WithSlashes(std::string_view path) {
  std::string result(path);
  std::replace(result.begin(), result.end(), '\\', '/');
  return result;
}

// Resolves "." and ".." in the text of a path below a drive's root, as Windows does.
std::string NormaliseBelowRoot(const std::string& path) {
  std::vector<std::string> parts;
  std::istringstream stream(path);
  for (std::string part; std::getline(stream, part, '/');) {
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.push_back(part);
    } else if (!parts.empty()) {
      parts.pop_back();
    }
  }
  std::string result;
  for (const std::string& part : parts) result += "/" + part;
  return result;
}

// Where the drive is in the file system; none: it is not mapped.
std::optional<std::string> RootOfDrive(const DriveMap& map, char drive) {
  if (auto found = map.find(drive); found != map.end()) return found->second;
  if (auto others = map.find(kOtherDrives); others != map.end()) {
    return (others->second == "/" ? "" : others->second) + "/" + drive;
  }
  return std::nullopt;
}

// Whether the path is a drive's root ("X:", "X:\") that is mapped only through kOtherDrives.
bool IsFreeDrive(std::string_view path) {
  if (path.substr(0, kVerbatim.size()) == kVerbatim) path.remove_prefix(kVerbatim.size());
  if (path.size() < 2 || !IsLetter(path[0]) || path[1] != ':') return false;
  if (path.find_first_not_of("\\/", 2) != std::string_view::npos) return false;
  const DriveMap map = LoadDriveMap();
  return map.count(ToUpper(path[0])) == 0 && map.count(kOtherDrives) != 0;
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && strncasecmp(text.data() + text.size() - end.size(), end.data(), end.size()) == 0;
}

CallStatus TranslateDrivePath(std::string_view path, std::string* absolute) {
  const std::string shown(path);
  const char drive = ToUpper(path[0]);
  if (path.size() > 2 && path[2] != '\\' && path[2] != '/') {
    return InvalidPath(shown + ": a path after a drive letter starts with a backslash (write ./" + shown +
                       " for a file of that name)");
  }
  const std::optional<std::string> root = RootOfDrive(LoadDriveMap(), drive);
  if (!root) {
    return InvalidPath(shown + ": drive " + drive + ": is not mapped to a directory; set DISMD_DRIVES=" + drive +
                       ":=/DIRECTORY or add it to [drives] in " + kSystemConfig);
  }
  const std::string below = NormaliseBelowRoot(WithSlashes(path.substr(2)));
  *absolute = *root == "/" && !below.empty() ? below : *root + below;
  return CallStatus();
}

CallStatus TranslateRelativePath(std::string_view path, std::string* absolute) {
  std::unique_ptr<char, decltype(&free)> directory(getcwd(nullptr, 0), &free);
  // "(unreachable)/..." is what Linux answers outside the process's root.
  if (directory == nullptr || directory.get()[0] != '/') {
    return InvalidPath(std::string(path) + ": the current directory has gone; use an absolute path");
  }
  std::string relative = path.find('/') == std::string_view::npos ? WithSlashes(path) : std::string(path);
  std::string base = directory.get();
  *absolute = (base == "/" ? "" : base) + "/" + relative;
  return CallStatus();
}

}  // namespace

void AddDrivesFromVariable(std::string_view text, DriveMap* map) {
  while (!text.empty()) {
    size_t end = std::min(text.find(';'), text.size());
    AddDrive(text.substr(0, end), map);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void AddDrivesFromConfig(std::string_view text, DriveMap* map) {
  bool in_drives = false;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      in_drives = line == "[drives]";
    } else if (in_drives) {
      AddDrive(line, map);
    }
  }
}

DriveMap LoadDriveMap() {
  DriveMap map;
  if (const char* variable = secure_getenv("DISMD_DRIVES"); variable != nullptr) AddDrivesFromVariable(variable, &map);
  if (std::string path = UserConfigPath(); !path.empty()) AddDrivesFromConfig(ReadConfig(path), &map);
  AddDrivesFromConfig(ReadConfig(kSystemConfig), &map);
  return map;
}

CallStatus TranslatePath(std::string_view path, std::string* absolute) {
  if (path.empty()) return InvalidPath("the path is empty");
  if (path.find('\0') != std::string_view::npos) return InvalidPath("the path holds a zero byte");
  if (path.substr(0, kVerbatim.size()) == kVerbatim) path.remove_prefix(kVerbatim.size());
  CallStatus status;
  if (path.size() >= 2 && path[0] == '\\' && path[1] == '\\') {
    return InvalidPath(std::string(path) + ": network paths are not supported; copy the image to a local file system");
  } else if (path.size() >= 2 && IsLetter(path[0]) && path[1] == ':') {
    status = TranslateDrivePath(path, absolute);
  } else if (!path.empty() && path[0] == '/') {
    *absolute = std::string(path);
  } else {
    status = TranslateRelativePath(path, absolute);
  }
  if (!status.ok()) return status;
  if (absolute->size() > kMaxPathBytes) {
    return InvalidPath("the path is longer than " + std::to_string(kMaxPathBytes) +
                       " bytes: " + absolute->substr(0, 80) + "...");
  }
  // A limit of the protocol, whose strings are UTF-8; said here, since gRPC would only fail to encode the message.
  if (!IsValidUtf8(*absolute)) return InvalidPath("the path is not valid UTF-8, which the service needs it to be");
  return CallStatus();
}

CallStatus TranslateMountPoint(std::string_view path, std::string_view image_path, std::string* absolute) {
  CallStatus status = TranslatePath(path, absolute);
  const bool is_disk = EndsWith(image_path, ".vhd") || EndsWith(image_path, ".vhdx");
  if (!status.ok() || !is_disk || !IsFreeDrive(path)) return status;
  if (mkdir(absolute->c_str(), 0755) != 0 && errno != EEXIST) {
    return InvalidPath("cannot make " + *absolute + " for drive " + path[0] + ": " + strerror(errno));
  }
  return status;
}

}  // namespace dismd
