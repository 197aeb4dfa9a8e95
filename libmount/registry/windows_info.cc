// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/registry/windows_info.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "libmount/base/utf16.h"
#include "libmount/registry/hive.h"

namespace libmount {
namespace {

// PROCESSOR_ARCHITECTURE_* of winnt.h, by the word that BuildLabEx has: "19041.1.amd64fre.vb_release.191206-1406".
constexpr std::pair<std::string_view, uint32_t> kArchitectures[] = {{"x86", 0}, {"woa", 5},  {"arm64", 12},
                                                                    {"arm", 5}, {"ia64", 6}, {"amd64", 9}};

std::optional<NodeAttributes> Find(const FileTree& volume, std::initializer_list<std::string_view> path) {
  ErrnoOr<NodeAttributes> node = volume.GetAttributes(kRootNode);
  if (!node.ok()) return std::nullopt;
  NodeAttributes at = *node;
  for (std::string_view name : path) {
    ErrnoOr<LookupResult> next = volume.Lookup(at.node, name);
    if (!next.ok()) return std::nullopt;
    at = next->attributes;
  }
  return at;
}

std::optional<RegistryHive> OpenHive(const FileTree& volume, std::string_view name) {
  std::optional<NodeAttributes> file = Find(volume, {"Windows", "System32", "config", name});
  if (!file.has_value() || !S_ISREG(file->mode)) return std::nullopt;
  return RegistryHive::Open([&volume, node = file->node](uint64_t offset, absl::Span<char> out) {
    ErrnoOr<size_t> read = volume.Read(node, offset, out);
    return read.ok() && *read == out.size();
  });
}

void Take(std::optional<std::string> from, std::string* to) {
  if (from.has_value() && !from->empty()) *to = *std::move(from);
}

std::optional<uint32_t> Number(const std::optional<std::string>& text) {
  uint32_t number;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &number)) return std::nullopt;
  return number;
}

void TakeVersion(const RegistryHive& hive, RegistryHive::Key key, ImageInfo* info) {
  // From Windows 10 on as numbers; CurrentVersion says 6.3 there, for good.
  std::optional<uint32_t> major = hive.GetNumber(key, "CurrentMajorVersionNumber");
  std::optional<uint32_t> minor = hive.GetNumber(key, "CurrentMinorVersionNumber");
  if (!major.has_value() || !minor.has_value()) {
    std::vector<std::string> parts = absl::StrSplit(hive.GetString(key, "CurrentVersion").value_or(""), '.');
    if (parts.size() == 2) major = Number(parts[0]), minor = Number(parts[1]);
  }
  info->major_version = major.value_or(0);
  info->minor_version = minor.value_or(0);
  std::optional<uint32_t> build = Number(hive.GetString(key, "CurrentBuildNumber"));
  if (!build.has_value()) build = Number(hive.GetString(key, "CurrentBuild"));
  info->build = build.value_or(0);
  info->service_pack_build = hive.GetNumber(key, "UBR").value_or(0);
  constexpr std::string_view kServicePack = "Service Pack ";
  std::string pack = hive.GetString(key, "CSDVersion").value_or("");
  if (pack.starts_with(kServicePack)) info->service_pack_level = Number(pack.substr(kServicePack.size())).value_or(0);
}

void TakeArchitecture(const RegistryHive& hive, RegistryHive::Key key, ImageInfo* info) {
  std::string label = hive.GetString(key, "BuildLabEx").value_or("");
  if (label.empty()) label = hive.GetString(key, "BuildLab").value_or("");
  for (const auto& [word, number] : kArchitectures) {
    if (label.find("." + std::string(word) + "fre") == label.npos &&
        label.find("." + std::string(word) + "chk") == label.npos) {
      continue;
    }
    info->architecture = number;
    return;
  }
}

// What SYSTEM calls the control set that Windows starts with.
std::optional<RegistryHive::Key> CurrentControlSet(const RegistryHive& hive) {
  uint32_t current = 1;
  if (std::optional<RegistryHive::Key> select = hive.FindKey(hive.root(), "Select")) {
    current = hive.GetNumber(*select, "Current").value_or(current);
  }
  return hive.FindKey(hive.root(), absl::StrFormat("ControlSet%03u", current));
}

void TakeProduct(const RegistryHive& hive, RegistryHive::Key control_set, ImageInfo* info) {
  std::optional<RegistryHive::Key> options = hive.FindKey(control_set, "Control\\ProductOptions");
  if (!options.has_value()) return;
  Take(hive.GetString(*options, "ProductType"), &info->product_type);
  std::optional<std::vector<std::string>> suites = hive.GetStrings(*options, "ProductSuite");
  if (suites.has_value() && !suites->empty()) info->product_suite = suites->front();
}

// Those installed; of them the one that MUI\Settings prefers, else the first.
void TakeLanguages(const RegistryHive& hive, RegistryHive::Key control_set, ImageInfo* info) {
  std::optional<RegistryHive::Key> installed = hive.FindKey(control_set, "Control\\MUI\\UILanguages");
  if (!installed.has_value()) return;
  std::vector<std::string> languages = hive.SubkeyNames(*installed);
  if (languages.empty()) return;
  info->languages = std::move(languages);
  info->default_language = 0;
  std::optional<RegistryHive::Key> settings = hive.FindKey(control_set, "Control\\MUI\\Settings");
  if (!settings.has_value()) return;
  std::optional<std::vector<std::string>> preferred = hive.GetStrings(*settings, "PreferredUILanguages");
  if (!preferred.has_value() || preferred->empty()) return;
  for (size_t i = 0; i < info->languages.size(); ++i) {
    if (EqualFolded(info->languages[i], preferred->front())) info->default_language = static_cast<uint32_t>(i);
  }
}

}  // namespace

bool HasWindows(const FileTree& volume) {
  std::optional<NodeAttributes> found = Find(volume, {"Windows"});
  return found.has_value() && S_ISDIR(found->mode);
}

void ReadWindowsInfo(const FileTree& volume, ImageInfo* info) {
  if (std::optional<RegistryHive> hive = OpenHive(volume, "SOFTWARE")) {
    constexpr std::string_view kCurrentVersion = "Microsoft\\Windows NT\\CurrentVersion";
    if (std::optional<RegistryHive::Key> key = hive->FindKey(hive->root(), kCurrentVersion)) {
      Take(hive->GetString(*key, "ProductName"), &info->product_name);
      Take(hive->GetString(*key, "EditionID"), &info->edition_id);
      Take(hive->GetString(*key, "InstallationType"), &info->installation_type);
      TakeVersion(*hive, *key, info);
      TakeArchitecture(*hive, *key, info);
      info->system_root = "WINDOWS";  // as a WIM's XML has it: without the drive, which a file has not
    }
  }
  if (std::optional<RegistryHive> hive = OpenHive(volume, "SYSTEM")) {
    if (std::optional<RegistryHive::Key> control_set = CurrentControlSet(*hive)) {
      TakeProduct(*hive, *control_set, info);
      TakeLanguages(*hive, *control_set, info);
    }
  }
}

}  // namespace libmount
