// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/boot_sector.h"

#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

// Offsets of a boot sector; the name is where all of these file systems have one.
constexpr size_t kNameAt = 3;
constexpr size_t kNameSize = 8;
constexpr size_t kSectorSizeAt = 0xb;
constexpr size_t kSectorsPerClusterAt = 0xd;
constexpr size_t kFatTypeAt = 0x36;
constexpr size_t kFat32TypeAt = 0x52;
constexpr size_t kSectorsAt = 0x28;
constexpr size_t kMftAt = 0x30;
constexpr size_t kMftRecordSizeAt = 0x40;
constexpr size_t kIndexRecordSizeAt = 0x44;
constexpr size_t kSerialAt = 0x48;

constexpr uint32_t kMinSectorSize = 256;
constexpr uint32_t kMaxSectorSize = 4096;
constexpr uint32_t kMaxClusterSize = 2u << 20;
constexpr uint32_t kMinRecordSize = 512;
constexpr uint32_t kMaxRecordSize = 64u << 10;

absl::Status Damaged(std::string_view what) {
  return MakeError(Reason::kBadImageFormat,
                   absl::StrCat("the NTFS volume is damaged: its boot sector says ", std::string(what)));
}

// 128 and above: a power of two, negated.
uint64_t ClusterSize(uint8_t code, uint32_t sector_size) {
  if (code <= 128) return uint64_t{code} * sector_size;
  const unsigned shift = 256u - code;
  return shift < 32 ? uint64_t{sector_size} << shift : 0;
}

// In clusters where positive, else a power of two of bytes.
uint64_t RecordSize(int8_t code, uint32_t cluster_size) {
  if (code >= 0) return uint64_t(code) * cluster_size;
  return -code < 32 ? uint64_t{1} << -code : 0;
}

bool IsRecordSize(uint64_t size) {
  return std::has_single_bit(size) && size >= kMinRecordSize && size <= kMaxRecordSize;
}

}  // namespace

VolumeKind IdentifyVolume(std::string_view boot) {
  const std::string_view name = boot.substr(kNameAt, kNameSize);
  if (name == "NTFS    ") return VolumeKind::kNtfs;
  if (name == "-FVE-FS-") return VolumeKind::kBitLocker;
  if (name.substr(0, 4) == "ReFS") return VolumeKind::kRefs;
  if (name == "EXFAT   ") return VolumeKind::kExFat;
  if (boot.substr(kFatTypeAt, 3) == "FAT" || boot.substr(kFat32TypeAt, 5) == "FAT32") return VolumeKind::kFat;
  return VolumeKind::kUnknown;
}

std::string_view VolumeKindName(VolumeKind kind) {
  switch (kind) {
    case VolumeKind::kNtfs: return "NTFS";
    case VolumeKind::kBitLocker: return "BitLocker";
    case VolumeKind::kRefs: return "ReFS";
    case VolumeKind::kExFat: return "exFAT";
    case VolumeKind::kFat: return "FAT";
    case VolumeKind::kUnknown: break;
  }
  return "unknown";
}

absl::StatusOr<NtfsGeometry> ParseBootSector(std::string_view boot, uint64_t device_size) {
  if (boot.size() < kBootSectorSize) return MakeError(Reason::kBadImageFormat, "the volume is too small for NTFS");
  const VolumeKind kind = IdentifyVolume(boot);
  if (kind == VolumeKind::kBitLocker) {
    return MakeError(Reason::kEncryptedVolume,
                     "the volume is encrypted with BitLocker: decrypt it, or suspend its protection, with Windows");
  }
  if (kind == VolumeKind::kUnknown)
    return MakeError(Reason::kUnsupportedVolume, "the volume holds no NTFS file system");
  if (kind != VolumeKind::kNtfs) {
    return MakeError(kind == VolumeKind::kRefs ? Reason::kRefsVolume : Reason::kUnsupportedVolume,
                     absl::StrCat("the volume holds a ", std::string(VolumeKindName(kind)),
                                  " file system; only NTFS can be mounted"));
  }

  NtfsGeometry geometry;
  geometry.sector_size = LoadLe16(&boot[kSectorSizeAt]);
  if (!std::has_single_bit(geometry.sector_size) || geometry.sector_size < kMinSectorSize ||
      geometry.sector_size > kMaxSectorSize) {
    return Damaged(absl::StrCat("that a sector has ", geometry.sector_size, " bytes"));
  }
  const uint64_t cluster_size = ClusterSize(static_cast<uint8_t>(boot[kSectorsPerClusterAt]), geometry.sector_size);
  if (!std::has_single_bit(cluster_size) || cluster_size < geometry.sector_size || cluster_size > kMaxClusterSize) {
    return Damaged(absl::StrCat("that a cluster has ", cluster_size, " bytes"));
  }
  geometry.cluster_size = static_cast<uint32_t>(cluster_size);
  geometry.sectors = LoadLe64(&boot[kSectorsAt]);
  // One more sector, behind the volume, holds the copy of this one; an image may have been cut there.
  if (geometry.sectors == 0 || geometry.sectors > device_size / geometry.sector_size) {
    return Damaged(absl::StrCat("that it has ", geometry.sectors, " sectors of ", geometry.sector_size,
                                " bytes; the partition has ", device_size, " bytes"));
  }
  const uint64_t clusters = geometry.sectors * geometry.sector_size / cluster_size;
  geometry.mft_cluster = LoadLe64(&boot[kMftAt]);
  if (geometry.mft_cluster == 0 || geometry.mft_cluster >= clusters) {
    return Damaged(absl::StrCat("that the MFT begins at cluster ", geometry.mft_cluster, " of ", clusters));
  }
  const uint64_t mft_record = RecordSize(static_cast<int8_t>(boot[kMftRecordSizeAt]), geometry.cluster_size);
  const uint64_t index_record = RecordSize(static_cast<int8_t>(boot[kIndexRecordSizeAt]), geometry.cluster_size);
  if (!IsRecordSize(mft_record)) return Damaged(absl::StrCat("that an MFT record has ", mft_record, " bytes"));
  if (!IsRecordSize(index_record)) return Damaged(absl::StrCat("that an index record has ", index_record, " bytes"));
  geometry.mft_record_size = static_cast<uint32_t>(mft_record);
  geometry.index_record_size = static_cast<uint32_t>(index_record);
  geometry.serial_number = LoadLe64(&boot[kSerialAt]);
  return geometry;
}

absl::StatusOr<NtfsGeometry> ReadBootSector(const BlockDevice& device) {
  std::string boot(kBootSectorSize, '\0');
  if (device.size() < boot.size()) return MakeError(Reason::kBadImageFormat, "the volume is too small for NTFS");
  if (int error = device.Read(0, absl::MakeSpan(boot))) {
    return MakeErrnoError(Reason::kBadImageFormat, error, "cannot read the volume's boot sector");
  }
  return ParseBootSector(boot, device.size());
}

}  // namespace libmount
