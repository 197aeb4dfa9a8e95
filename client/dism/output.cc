// SPDX-License-Identifier: Apache-2.0

#include "client/dism/output.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "client/dismapi/hresult.h"
#include "client/dismctl/format.h"

namespace dismd::dism {
namespace {

constexpr size_t kBarWidth = 58;  // between the brackets

std::string Row(const char* label, const std::string& value) { return std::string(label) + " : " + value + "\n"; }

std::string Text(const std::string& value) { return value.empty() ? "<undefined>" : Printable(value); }

std::string Size(uint64_t bytes) { return Grouped(bytes) + " bytes"; }

// "1/31/2026 - 12:00:00 PM", local time, from a FILETIME.
std::string Date(uint64_t filetime) {
  constexpr uint64_t kTicksPerSecond = 10'000'000;
  constexpr int64_t kSecondsTo1970 = 11'644'473'600;
  const time_t seconds = static_cast<time_t>(filetime / kTicksPerSecond) - kSecondsTo1970;
  tm parts = {};
  if (filetime == 0 || localtime_r(&seconds, &parts) == nullptr) return "<undefined>";
  const int hour = parts.tm_hour % 12 == 0 ? 12 : parts.tm_hour % 12;
  char text[64];
  snprintf(text, sizeof(text), "%d/%d/%d - %d:%02d:%02d %s", parts.tm_mon + 1, parts.tm_mday, parts.tm_year + 1900,
           hour, parts.tm_min, parts.tm_sec, parts.tm_hour < 12 ? "AM" : "PM");
  return text;
}

const char* MountStatusText(v1::MountStatus status) {
  switch (status) {
    case v1::MOUNT_STATUS_OK: return "Ok";
    case v1::MOUNT_STATUS_NEEDS_REMOUNT: return "Needs Remount";
    default: return "Invalid";
  }
}

// Columns between bars, a line of dashes below the first row.
std::string TableOf(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t pass = 0; pass < (r == 0 ? 2 : 1); ++pass) {
      for (size_t i = 0; i < widths.size(); ++i) {
        std::string cell = pass == 0 ? rows[r][i] : std::string(widths[i], '-');
        cell.resize(i + 1 < widths.size() ? widths[i] : cell.size(), ' ');
        text += (i == 0 ? "" : " | ") + cell;
      }
      text += "\n";
    }
  }
  return text;
}

}  // namespace

std::string Banner() { return "\nDeployment Image Servicing and Management tool\nVersion: " DISMD_VERSION ".0\n\n"; }

std::string ProgressBar(double percent) {
  percent = std::clamp(percent, 0.0, 100.0);
  std::string bar(static_cast<size_t>(std::lround(percent * kBarWidth / 100)), '=');
  bar.resize(kBarWidth, ' ');
  char number[16];
  snprintf(number, sizeof(number), "%.1f%%", percent);
  const std::string text = number;
  bar.replace(text.size() > 5 ? 26 : 27, text.size(), text);
  return "[" + bar + "]";
}

std::string ImageList(const std::string& file, const v1::GetImageInfoResponse& images, bool table) {
  std::string text = "Details for image : " + Printable(file) + "\n\n";
  if (table) {
    std::vector<std::vector<std::string>> rows = {{"Index", "Name", "Description", "Size"}};
    for (const v1::ImageInfo& image : images.images()) {
      rows.push_back({std::to_string(image.image_index()), Text(image.image_name()), Text(image.image_description()),
                      Size(image.image_size())});
    }
    return text + TableOf(rows) + "\n";
  }
  for (const v1::ImageInfo& image : images.images()) {
    text += Row("Index", std::to_string(image.image_index())) + Row("Name", Text(image.image_name())) +
            Row("Description", Text(image.image_description())) + Row("Size", Size(image.image_size())) + "\n";
  }
  return text;
}

std::string ImageDetails(const std::string& file, const v1::ImageInfo& image) {
  std::string text = "Details for image : " + Printable(file) + "\n\n";
  text += Row("Index", std::to_string(image.image_index())) + Row("Name", Text(image.image_name())) +
          Row("Description", Text(image.image_description())) + Row("Size", Size(image.image_size()));
  if (image.image_type() == v1::IMAGE_TYPE_WIM) {
    text += Row("WIM Bootable", image.bootable() == v1::BOOTABLE_YES ? "Yes" : "No");
  }
  const std::string architecture = ArchitectureName(image.architecture());
  text +=
      Row("Architecture", architecture == "unknown" ? "<undefined>" : architecture) + Row("Hal", Text(image.hal())) +
      Row("Version", image.major_version() == 0
                         ? "<undefined>"
                         : std::to_string(image.major_version()) + "." + std::to_string(image.minor_version()) + "." +
                               std::to_string(image.build())) +
      Row("ServicePack Build", std::to_string(image.service_pack_build())) +
      Row("ServicePack Level", std::to_string(image.service_pack_level())) + Row("Edition", Text(image.edition_id())) +
      Row("Installation", Text(image.installation_type())) + Row("ProductType", Text(image.product_type())) +
      Row("ProductSuite", Text(image.product_suite())) + Row("System Root", Text(image.system_root())) +
      Row("Directories", std::to_string(image.directory_count())) + Row("Files", std::to_string(image.file_count())) +
      Row("Created", Date(image.creation_time())) + Row("Modified", Date(image.modification_time()));
  if (image.languages_size() == 0) return text + Row("Languages", "<undefined>") + "\n";
  text += "Languages :\n";
  for (int i = 0; i < image.languages_size(); ++i) {
    const bool is_default = static_cast<uint32_t>(i) == image.default_language_index();
    text += "\t" + Printable(image.languages(i)) + (is_default ? " (Default)" : "") + "\n";
  }
  return text + "\n";
}

std::string MountedImages(const v1::ListMountsResponse& mounts, bool table) {
  if (mounts.mounts_size() == 0) return "No mounted images were found.\n\n";
  std::string text = "Mounted images:\n\n";
  std::vector<std::vector<std::string>> rows = {
      {"Mount Dir", "Image File", "Image Index", "Mounted Read/Write", "Status"}};
  for (const v1::Mount& mount : mounts.mounts()) {
    rows.push_back({Printable(mount.mount_path()), Printable(mount.image_path()), std::to_string(mount.image_index()),
                    mount.read_only() ? "No" : "Yes", MountStatusText(mount.status())});
  }
  if (table) return text + TableOf(rows) + "\n";
  for (size_t r = 1; r < rows.size(); ++r) {
    for (size_t i = 0; i < rows[r].size(); ++i) text += Row(rows[0][i].c_str(), rows[r][i]);
    text += "\n";
  }
  return text;
}

uint32_t ErrorOf(HRESULT result) {
  const auto code = static_cast<uint32_t>(result);
  constexpr uint32_t kWin32 = 0x80070000;
  return (code & 0xFFFF0000) == kWin32 ? code & 0xFFFF : code;
}

uint32_t ErrorOf(const CallStatus& status, bool is_remount) {
  // Where the command says more than the function does, or another thing.
  constexpr uint32_t kPathNotFound = 3;
  switch (status.reason()) {
    case v1::IMAGE_NOT_FOUND: return ERROR_FILE_NOT_FOUND;
    case v1::MOUNT_POINT_NOT_FOUND: return kPathNotFound;
    case v1::NOT_MOUNTED: return is_remount ? 0xC1420123 : 0xC142011C;
    case v1::IMAGE_CHANGED: return is_remount ? 0xC1420124 : 0xC1420122;
    case v1::OPERATION_IN_PROGRESS: return is_remount ? 0xC1420125 : 0xC15101FD;
    default: return ErrorOf(HresultOf(status));
  }
}

std::string ErrorText(uint32_t error) {
  char text[16];
  snprintf(text, sizeof(text), error > 0xFFFF ? "0x%08x" : "%u", error);
  return text;
}

int ExitStatusOf(uint32_t error) {
  const auto low = static_cast<int>(error & 0xFF);
  return low == 0 ? 1 : low;
}

}  // namespace dismd::dism
