// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/disk_volumes.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/registry/windows_info.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;
using libmount::VolumeKind;

// What lies behind a partition's start and is no other's.
uint64_t RoomFor(const libmount::PartitionInfo& partition, const libmount::Partitions& all, uint64_t disk_size) {
  uint64_t end = disk_size;
  for (const libmount::PartitionInfo& other : all.partitions) {
    if (other.offset > partition.offset) end = std::min(end, other.offset);
  }
  return end - partition.offset;
}

// And is no table either. A volume that reaches over one can be read there: it may be the volume's by now.
uint64_t WritableFor(const libmount::PartitionInfo& partition, const libmount::Partitions& all, uint64_t room) {
  uint64_t writable = std::min(room, partition.size);
  for (const uint64_t table : all.further_tables) {
    if (table > partition.offset) writable = std::min(writable, table - partition.offset);
  }
  return writable;
}

// A volume may reach beyond its partition's end: tools that are told where it begins, and not where it ends, make it as
// large as the rest of the disk. Where nothing else is there, it is taken for as large as it says.
void Extend(std::string_view boot, uint64_t room, libmount::PartitionInfo* partition) {
  auto geometry = libmount::ParseBootSector(boot, room);
  if (!geometry.ok()) return;
  const uint64_t with_copy_of_boot_sector = (geometry->sectors + 1) * geometry->sector_size;
  partition->size = std::max(partition->size, std::min(room, with_copy_of_boot_sector));
}

// Of an NTFS volume: its name, and whether there is a Windows on it.
void LookInside(const libmount::BlockDevice& disk, DiskVolume* volume) {
  libmount::PartitionDevice device(&disk, volume->partition.offset, volume->partition.size);
  auto tree = libmount::NtfsTree::Open(&device, {});
  if (!tree.ok()) return;
  volume->has_windows = libmount::HasWindows(**tree);
  volume->label = (*tree)->label();
}

DiskVolume LookAt(const libmount::BlockDevice& disk, libmount::PartitionInfo partition, uint64_t room) {
  DiskVolume volume;
  volume.partition = std::move(partition);
  std::string boot(libmount::kBootSectorSize, '\0');
  if (volume.partition.size < boot.size()) return volume;
  volume.unreadable = disk.Read(volume.partition.offset, absl::MakeSpan(boot)) != 0;
  if (volume.unreadable) return volume;
  volume.kind = libmount::IdentifyVolume(boot);
  if (volume.kind != VolumeKind::kNtfs) return volume;
  Extend(boot, room, &volume.partition);
  LookInside(disk, &volume);
  return volume;
}

bool IsRecovery(const DiskVolume& volume) {
  return volume.partition.type == "Windows recovery" || volume.partition.type == "0x27";
}

std::string SizeText(uint64_t bytes) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  if (bytes < kMiB) return absl::StrCat(bytes >> 10, " KiB");
  if (bytes < (kMiB << 10)) return absl::StrCat(bytes / kMiB, " MiB");
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / static_cast<double>(kMiB << 10));
}

std::string FileSystemText(VolumeKind kind) {
  return kind == VolumeKind::kUnknown ? std::string() : std::string(libmount::VolumeKindName(kind));
}

}  // namespace

absl::StatusOr<DiskVolumes> DiskVolumes::Read(const libmount::BlockDevice& disk) {
  absl::StatusOr<libmount::Partitions> partitions = libmount::ReadPartitions(disk);
  if (!partitions.ok()) return partitions.status();
  std::vector<DiskVolume> volumes;
  for (const libmount::PartitionInfo& partition : partitions->partitions) {
    const uint64_t room = RoomFor(partition, *partitions, disk.size());
    DiskVolume& volume = volumes.emplace_back(LookAt(disk, partition, room));
    volume.writable = WritableFor(volume.partition, *partitions, room);
  }
  return DiskVolumes(partitions->table, partitions->is_dynamic_disk, std::move(volumes));
}

absl::StatusOr<const DiskVolume*> DiskVolumes::Choose(uint32_t partition) const {
  if (is_dynamic_disk_) {
    return MakeError(Reason::kDynamicDisk,
                     absl::StrCat("it is a dynamic disk, whose volumes this program cannot put together; convert it to "
                                  "a basic disk with Windows. It has ",
                                  List()));
  }
  if (partition == 0) return ChooseDefault();
  for (const DiskVolume& volume : volumes_) {
    if (volume.partition.number != partition) continue;
    if (volume.kind == VolumeKind::kNtfs) return &volume;
    return DiskVolumes(table_, false, {volume}).NothingToMount();
  }
  return MakeError(Reason::kPartitionNotFound, absl::StrCat("it has no partition ", partition, "; it has ", List()));
}

absl::StatusOr<const DiskVolume*> DiskVolumes::ChooseDefault() const {
  std::vector<const DiskVolume*> candidates;
  for (bool recovery : {false, true}) {
    for (const DiskVolume& volume : volumes_) {
      if (volume.kind == VolumeKind::kNtfs && IsRecovery(volume) == recovery) candidates.push_back(&volume);
    }
    if (!candidates.empty()) break;
    // Rather than what the recovery tools are on, tell why it is not the volume that everybody means.
    auto is_closed = [](const DiskVolume& v) {
      return v.kind == VolumeKind::kBitLocker || v.kind == VolumeKind::kRefs;
    };
    if (std::any_of(volumes_.begin(), volumes_.end(), is_closed)) break;
  }
  if (candidates.empty()) return NothingToMount();
  if (candidates.size() == 1) return candidates.front();
  std::erase_if(candidates, [](const DiskVolume* volume) { return !volume->has_windows; });
  if (candidates.size() == 1) return candidates.front();
  return MakeError(Reason::kAmbiguousPartition,
                   absl::StrCat("it has several NTFS volumes, and ", candidates.empty() ? "none" : "more than one",
                                " has a Windows on it; choose a partition (dismctl: --partition N) of ", List()));
}

absl::Status DiskVolumes::NothingToMount() const {
  auto has = [this](VolumeKind kind) {
    return std::any_of(volumes_.begin(), volumes_.end(), [kind](const DiskVolume& v) { return v.kind == kind; });
  };
  if (has(VolumeKind::kBitLocker)) {
    return MakeError(
        Reason::kEncryptedVolume,
        absl::StrCat("the volume is encrypted with BitLocker; decrypt it with Windows first. It has ", List()));
  }
  if (std::any_of(volumes_.begin(), volumes_.end(), [](const DiskVolume& v) { return v.unreadable; })) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrCat("it is damaged or cut off: not all of its partitions can be read. It has ", List()));
  }
  const Reason reason = has(VolumeKind::kRefs) ? Reason::kRefsVolume : Reason::kUnsupportedVolume;
  return MakeError(reason, absl::StrCat("there is no NTFS volume to mount; it has ", List()));
}

std::string DiskVolumes::List() const {
  if (volumes_.empty()) return "no partitions";
  std::string list;
  for (const DiskVolume& volume : volumes_) {
    absl::StrAppend(&list, list.empty() ? "" : "; ");
    if (table_ == libmount::PartitionTable::kNone) {
      absl::StrAppend(&list, "no partition table, but one volume");
    } else {
      absl::StrAppend(&list, "partition ", volume.partition.number);
    }
    absl::StrAppend(&list, ": ", SizeText(volume.partition.size), ", ",
                    volume.unreadable ? "unreadable" : std::string(libmount::VolumeKindName(volume.kind)));
    if (!volume.partition.type.empty()) absl::StrAppend(&list, " (", volume.partition.type, ")");
    if (!volume.label.empty()) absl::StrAppend(&list, ", \"", volume.label, "\"");
    if (volume.has_windows) absl::StrAppend(&list, ", with a Windows");
  }
  return list;
}

void DiskVolumes::Describe(internal::DiskInfo* info) const {
  info->set_partition_table(libmount::PartitionTableName(table_));
  absl::StatusOr<const DiskVolume*> chosen = Choose(0);
  for (const DiskVolume& volume : volumes_) {
    internal::Partition* partition = info->add_partitions();
    partition->set_number(volume.partition.number);
    partition->set_offset(volume.partition.offset);
    partition->set_size(volume.partition.size);
    partition->set_type(volume.partition.type);
    partition->set_file_system(FileSystemText(volume.kind));
    partition->set_label(volume.label);
    partition->set_has_windows(volume.has_windows);
    partition->set_is_default(chosen.ok() && *chosen == &volume);
  }
}

}  // namespace dismd
