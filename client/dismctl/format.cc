// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/format.h"

#include <time.h>

#include <algorithm>
#include <cstdio>

namespace dismd {
namespace {

// Characters, not bytes: continuation bytes have no width.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string Dashed(std::string text) {
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

const char* TypeName(v1::ImageType type) {
  switch (type) {
    case v1::IMAGE_TYPE_WIM: return "wim";
    case v1::IMAGE_TYPE_VHD: return "vhd";
    default: return "unknown";
  }
}

const char* BootableName(v1::Bootable bootable) {
  switch (bootable) {
    case v1::BOOTABLE_YES: return "yes";
    case v1::BOOTABLE_NO: return "no";
    default: return "unknown";
  }
}

std::string Languages(const v1::ImageInfo& image) {
  std::string result;
  for (int i = 0; i < image.languages_size(); ++i) {
    if (i > 0) result += ", ";
    result += image.languages(i);
    if (static_cast<uint32_t>(i) == image.default_language_index()) result += " (default)";
  }
  return result;
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    // C1 controls are two bytes in UTF-8, C2 80 to C2 9F.
    const bool c1 = c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c >= 0x20 && c != 0x7F && !c1) {
      result += text[i];
      continue;
    }
    char escaped[8];
    snprintf(escaped, sizeof(escaped), "\\x%02x", c1 ? static_cast<unsigned char>(text[++i]) : c);
    result += escaped;
  }
  return result;
}

std::string Grouped(uint64_t number) {
  std::string digits = std::to_string(number);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - Width(row[i]) + 2, ' ');
    }
    text += '\n';
  }
  return text;
}

std::string IsoTime(int64_t unix_seconds) {
  const time_t seconds = static_cast<time_t>(unix_seconds);
  tm parts = {};
  char text[40];
  if (gmtime_r(&seconds, &parts) == nullptr || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
    return "";
  return text;
}

std::string IsoTimeOfFiletime(uint64_t filetime) {
  constexpr uint64_t kTicksPerSecond = 10'000'000;
  constexpr int64_t kSecondsTo1970 = 11'644'473'600;
  return filetime == 0 ? "" : IsoTime(static_cast<int64_t>(filetime / kTicksPerSecond) - kSecondsTo1970);
}

const char* PhaseName(v1::Phase phase) {
  switch (phase) {
    case v1::PHASE_OPENING: return "opening";
    case v1::PHASE_CHECKING_INTEGRITY: return "checking_integrity";
    case v1::PHASE_READING_METADATA: return "reading_metadata";
    case v1::PHASE_MOUNTING: return "mounting";
    case v1::PHASE_UNMOUNTING: return "unmounting";
    case v1::PHASE_COMMITTING: return "committing";
    case v1::PHASE_WAITING: return "waiting";
    case v1::PHASE_REBUILDING: return "rebuilding";
    case v1::PHASE_RECOVERING: return "recovering";
    default: return "starting";
  }
}

const char* StatusName(v1::MountStatus status) {
  switch (status) {
    case v1::MOUNT_STATUS_OK: return "ok";
    case v1::MOUNT_STATUS_NEEDS_REMOUNT: return "needs_remount";
    default: return "invalid";
  }
}

const char* EventName(v1::MountEvent event) {
  switch (event) {
    case v1::MOUNT_EVENT_ADDED: return "added";
    case v1::MOUNT_EVENT_CHANGED: return "changed";
    case v1::MOUNT_EVENT_REMOVED: return "removed";
    case v1::MOUNT_EVENT_SYNCED: return "synced";
    default: return "unknown";
  }
}

std::string ArchitectureName(uint32_t architecture) {
  switch (architecture) {
    case 0: return "x86";
    case 5: return "ARM";
    case 6: return "IA64";
    case 9: return "x64";
    case 12: return "ARM64";
    default: return "unknown";
  }
}

std::string ChangesText(const v1::Mount& mount) {
  // Of a disk, nobody counts files.
  if (mount.changed_files() == 0) return Grouped(mount.staged_bytes()) + " bytes staged";
  return Grouped(mount.changed_files()) + (mount.changed_files() == 1 ? " changed file (" : " changed files (") +
         Grouped(mount.staged_bytes()) + " bytes staged)";
}

std::string MountTable(const v1::ListMountsResponse& response) {
  std::vector<std::vector<std::string>> rows = {{"MOUNT POINT", "IMAGE", "INDEX", "MODE", "STATUS", "OWNER"}};
  std::string notes;
  for (const v1::Mount& mount : response.mounts()) {
    rows.push_back({Printable(mount.mount_path()), Printable(mount.image_path()), std::to_string(mount.image_index()),
                    mount.read_only() ? "ro" : "rw", Dashed(StatusName(mount.status())),
                    std::to_string(mount.owner_uid())});
    if (!mount.status_message().empty()) {
      notes += Printable(mount.mount_path()) + ": " + Printable(mount.status_message()) + "\n";
    }
    if (mount.has_changes()) {
      notes += Printable(mount.mount_path()) + ": not committed: " + ChangesText(mount) +
               (mount.scratch_directory().empty() ? "" : " in " + Printable(mount.scratch_directory())) + "\n";
    }
    if (mount.commit_pending()) {
      notes += Printable(mount.mount_path()) + ": a commit into the disk is under way, or was broken off\n";
    }
    if (mount.damaged_file_count() > 0) {
      notes += Printable(mount.mount_path()) + ": damaged files: " + Grouped(mount.damaged_file_count()) + "\n";
    }
    for (const v1::DamagedFile& file : mount.damaged_files()) {
      notes += "  " + Printable(file.path()) + ": " + Printable(file.message()) + "\n";
    }
  }
  return Table(rows) + notes;
}

std::string DiskText(const v1::DiskInfo& disk) {
  std::string text;
  for (const v1::DiskFile& file : disk.chain()) {
    std::vector<std::vector<std::string>> rows;
    const auto add = [&rows](const char* label, const std::string& value) {
      if (!value.empty()) rows.push_back({label, Printable(value)});
    };
    add("File:", file.name());
    add("Format:", file.format() + ", " + file.disk_type());
    add("Virtual size:", Grouped(file.virtual_size()) + " bytes");
    add("File size:", Grouped(file.file_size()) + " bytes");
    add("Sector size:", Grouped(file.sector_size()) + " bytes");
    if (file.block_size() != 0) add("Block size:", Grouped(file.block_size()) + " bytes");
    add("Made by:", file.creator());
    add("Identifier:", file.identifier());
    add("Parent:", file.parent_identifier());
    for (const std::string& path : file.parent_paths()) add("Parent's path:", path);
    if (file.log_pending()) add("State:", "not closed cleanly; its log is taken into account");
    for (const std::string& warning : file.warnings()) add("Warning:", warning);
    text += (text.empty() ? "" : "\n") + Table(rows);
  }
  text += "\nPartition table: " + Printable(disk.partition_table()) + "\n";
  std::vector<std::vector<std::string>> rows = {{"PARTITION", "SIZE", "OFFSET", "TYPE", "FILE SYSTEM", "LABEL", ""}};
  for (const v1::Partition& partition : disk.partitions()) {
    std::string note = partition.has_windows() ? "Windows" : "";
    if (partition.is_default()) note += note.empty() ? "mounted by default" : ", mounted by default";
    rows.push_back({std::to_string(partition.number()), Grouped(partition.size()), Grouped(partition.offset()),
                    Printable(partition.type()), Printable(partition.file_system()), Printable(partition.label()),
                    note});
  }
  return text + Table(rows);
}

std::string ImageText(const v1::ImageInfo& image) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](const char* label, const std::string& value) {
    if (!value.empty()) rows.push_back({label, Printable(value)});
  };
  add("Index:", std::to_string(image.image_index()));
  add("Name:", image.image_name());
  add("Description:", image.image_description());
  add("Size:", Grouped(image.image_size()) + " bytes");
  if (image.image_type() == v1::IMAGE_TYPE_WIM) {  // a disk does not count them
    add("Directories:", Grouped(image.directory_count()));
    add("Files:", Grouped(image.file_count()));
  }
  add("Created:", IsoTimeOfFiletime(image.creation_time()));
  add("Modified:", IsoTimeOfFiletime(image.modification_time()));
  add("Bootable:", BootableName(image.bootable()));
  if (!image.product_name().empty() || image.major_version() != 0) {
    add("Product:", image.product_name());
    add("Edition:", image.edition_id());
    add("Installation:", image.installation_type());
    add("Architecture:", ArchitectureName(image.architecture()));
    add("Version:", std::to_string(image.major_version()) + "." + std::to_string(image.minor_version()) + "." +
                        std::to_string(image.build()) + "." + std::to_string(image.service_pack_build()));
    add("Service pack:", std::to_string(image.service_pack_level()));
    add("Product type:", image.product_type());
    add("Product suite:", image.product_suite());
    add("HAL:", image.hal());
    add("System root:", image.system_root());
    add("Languages:", Languages(image));
  }
  return Table(rows);
}

void WriteMount(const v1::Mount& mount, JsonWriter* json) {
  json->String("mount_id", mount.mount_id())
      .String("mount_path", mount.mount_path())
      .String("image_path", mount.image_path())
      .String("image_type", TypeName(mount.image_type()))
      .Number("image_index", mount.image_index())
      .Number("partition", mount.partition())
      .String("image_name", mount.image_name())
      .Bool("read_only", mount.read_only())
      .String("status", StatusName(mount.status()))
      .String("status_message", mount.status_message())
      .Number("owner_uid", mount.owner_uid())
      .Bool("allow_other", mount.allow_other())
      .Bool("unix_data", mount.unix_data())
      .Bool("has_changes", mount.has_changes())
      .Number("changed_files", mount.changed_files())
      .Number("staged_bytes", mount.staged_bytes())
      .Bool("commit_pending", mount.commit_pending())
      .String("scratch_directory", mount.scratch_directory())
      .StringOrNull("mount_time", mount.has_mount_time() ? IsoTime(mount.mount_time().seconds()) : "")
      .Number("damaged_file_count", mount.damaged_file_count())
      .Begin("damaged_files", '[');
  for (const v1::DamagedFile& file : mount.damaged_files()) {
    json->Begin('{').String("path", file.path()).String("message", file.message()).End('}');
  }
  json->End(']').Number("worker_pid", static_cast<uint64_t>(std::max(0, mount.worker_pid())));
}

void WriteDisk(const v1::DiskInfo& disk, JsonWriter* json) {
  json->Begin("disk", '{').Begin("chain", '[');
  for (const v1::DiskFile& file : disk.chain()) {
    json->Begin('{')
        .String("name", file.name())
        .String("format", file.format())
        .String("disk_type", file.disk_type())
        .Number("file_size", file.file_size())
        .Number("virtual_size", file.virtual_size())
        .Number("sector_size", file.sector_size())
        .Number("block_size", file.block_size())
        .String("creator", file.creator())
        .String("identifier", file.identifier())
        .String("parent_identifier", file.parent_identifier())
        .Begin("parent_paths", '[');
    for (const std::string& path : file.parent_paths()) json->String(path);
    json->End(']').Bool("log_pending", file.log_pending()).Begin("warnings", '[');
    for (const std::string& warning : file.warnings()) json->String(warning);
    json->End(']').End('}');
  }
  json->End(']').String("partition_table", disk.partition_table()).Begin("partitions", '[');
  for (const v1::Partition& partition : disk.partitions()) {
    json->Begin('{')
        .Number("number", partition.number())
        .Number("offset", partition.offset())
        .Number("size", partition.size())
        .String("type", partition.type())
        .String("file_system", partition.file_system())
        .String("label", partition.label())
        .Bool("has_windows", partition.has_windows())
        .Bool("is_default", partition.is_default())
        .End('}');
  }
  json->End(']').End('}');
}

void WriteImage(const v1::ImageInfo& image, JsonWriter* json) {
  json->String("image_type", TypeName(image.image_type()))
      .Number("image_index", image.image_index())
      .String("image_name", image.image_name())
      .String("image_description", image.image_description())
      .Number("image_size", image.image_size())
      .Number("architecture", image.architecture())
      .String("product_name", image.product_name())
      .String("edition_id", image.edition_id())
      .String("installation_type", image.installation_type())
      .String("hal", image.hal())
      .String("product_type", image.product_type())
      .String("product_suite", image.product_suite())
      .Number("major_version", image.major_version())
      .Number("minor_version", image.minor_version())
      .Number("build", image.build())
      .Number("service_pack_build", image.service_pack_build())
      .Number("service_pack_level", image.service_pack_level())
      .String("bootable", BootableName(image.bootable()))
      .String("system_root", image.system_root())
      .Begin("languages", '[');
  for (const std::string& language : image.languages()) json->String(language);
  json->End(']')
      .Number("default_language_index", image.default_language_index())
      .Number("directory_count", image.directory_count())
      .Number("file_count", image.file_count())
      .StringOrNull("creation_time", IsoTimeOfFiletime(image.creation_time()))
      .StringOrNull("modification_time", IsoTimeOfFiletime(image.modification_time()));
}

}  // namespace dismd
