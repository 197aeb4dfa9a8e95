// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/tree/reparse.h"

#include <limits.h>

#include <algorithm>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/windows.h"

namespace libmount {
namespace {

constexpr size_t kJunctionNamesAt = 8;
constexpr size_t kSymlinkNamesAt = 12;
constexpr size_t kLxTargetAt = 4;
constexpr uint32_t kLxVersion = 2;

std::optional<std::string> SubstituteName(std::string_view data, size_t names_at) {
  if (data.size() < names_at) return std::nullopt;
  const size_t offset = LoadLe16(data.data());
  const size_t size = LoadLe16(data.data() + 2);
  if (size % 2 != 0 || names_at + offset + size > data.size()) return std::nullopt;
  return Utf16LeToWtf8(data.substr(names_at + offset, size));
}

bool TakePrefix(std::string_view prefix, std::string_view& text) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// "C:" in front of a path, or alone.
bool TakeDrive(std::string_view& text) {
  auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
  if (text.size() < 2 || !is_letter(text[0]) || text[1] != ':') return false;
  text.remove_prefix(2);
  return true;
}

std::vector<std::string> Split(std::string_view path, std::string_view separators) {
  std::vector<std::string> components;
  while (!path.empty()) {
    size_t end = std::min(path.find_first_of(separators), path.size());
    if (end > 0) components.emplace_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return components;
}

std::optional<LinkTarget> DecodeWindowsTarget(std::string_view name) {
  if (name.empty() || name.find('\0') != name.npos) return std::nullopt;
  LinkTarget target;
  std::string_view path = name;
  const bool prefixed = TakePrefix("\\??\\", path) || TakePrefix("\\\\?\\", path) || TakePrefix("\\\\.\\", path);
  if (TakeDrive(path) || (path.substr(0, 1) == "\\" && path.substr(0, 2) != "\\\\")) {
    target.kind = LinkTarget::Kind::kAbsolute;
  } else if (prefixed || path.substr(0, 2) == "\\\\") {
    target.kind = LinkTarget::Kind::kForeign;
    target.text = name;
    std::replace(target.text.begin(), target.text.end(), '/', '\\');
    return target;
  }
  target.components = Split(path, "\\/");
  return target;
}

std::optional<LinkTarget> DecodeLxTarget(std::string_view data) {
  if (data.size() <= kLxTargetAt || LoadLe32(data.data()) != kLxVersion) return std::nullopt;
  data.remove_prefix(kLxTargetAt);
  if (data.find('\0') != data.npos) return std::nullopt;
  LinkTarget target;
  if (data.front() == '/') target.kind = LinkTarget::Kind::kAbsolute;
  target.components = Split(data, "/");
  return target;
}

constexpr uint32_t kSymlinkRelative = 1;
// What Windows takes for something else than a part of a name.
constexpr std::string_view kNotInWindowsPaths = "\\:*?\"<>|";

bool IsWindowsPath(std::string_view target) {
  if (target.find_first_of(kNotInWindowsPaths) != target.npos) return false;
  // Two slashes in front would be a share; elsewhere, as at the end, they would come back as one, or as none.
  return target.find("//") == target.npos && (target.size() == 1 || target.back() != '/');
}

}  // namespace

std::optional<LinkTarget> DecodeLink(uint32_t tag, std::string_view data) {
  std::optional<std::string> name;
  switch (tag) {
    case kReparseSymlink: name = SubstituteName(data, kSymlinkNamesAt); break;
    case kReparseMountPoint: name = SubstituteName(data, kJunctionNamesAt); break;
    case kReparseLxSymlink: return DecodeLxTarget(data);
    default: return std::nullopt;
  }
  return name ? DecodeWindowsTarget(*name) : std::nullopt;
}

std::optional<ReparsePoint> EncodeLink(std::string_view target) {
  ReparsePoint point;
  std::optional<std::string> name = IsWindowsPath(target) ? Wtf8ToUtf16Le(target) : std::nullopt;
  if (name) {
    for (size_t i = 0; i + 1 < name->size(); i += 2) {
      if ((*name)[i] == '/' && (*name)[i + 1] == 0) (*name)[i] = '\\';
    }
    point.tag = kReparseSymlink;
    const auto size = static_cast<uint16_t>(name->size());
    // The substitute name and the print name are one. A path from the volume's root counts as relative too.
    for (uint16_t field : {uint16_t{0}, size, uint16_t{0}, size}) AppendLe(field, point.data);
    AppendLe(kSymlinkRelative, point.data);
    point.data += *name;
  } else {
    point.tag = kReparseLxSymlink;
    AppendLe(kLxVersion, point.data);
    point.data += target;
  }
  if (target.size() >= PATH_MAX || point.data.size() > kMaxReparseData) return std::nullopt;
  return point;
}

std::optional<std::string> LinkText(uint32_t tag, std::string_view data) {
  std::optional<LinkTarget> target = DecodeLink(tag, data);
  if (!target) return std::nullopt;
  if (target->kind == LinkTarget::Kind::kForeign) return target->text;
  std::string text;
  for (const std::string& component : target->components) {
    if (!text.empty()) text += '/';
    text += component;
  }
  if (target->kind == LinkTarget::Kind::kAbsolute) text.insert(0, "/");
  return text.empty() ? "." : text;
}

std::string ReparsePoint::Bytes() const {
  std::string bytes;
  AppendLe(tag, bytes);
  AppendLe(static_cast<uint16_t>(data.size()), bytes);
  AppendLe(uint16_t{0}, bytes);
  return bytes + data;
}

std::string RelativePath(const std::vector<std::string>& base, const std::vector<std::string>& path) {
  const size_t common =
      std::mismatch(base.begin(), base.begin() + std::min(base.size(), path.size()), path.begin()).first - base.begin();
  std::string result;
  for (size_t i = common; i < base.size(); ++i) result += result.empty() ? ".." : "/..";
  for (size_t i = common; i < path.size(); ++i) {
    if (!result.empty()) result += '/';
    result += path[i];
  }
  return result.empty() ? "." : result;
}

}  // namespace libmount
