// SPDX-License-Identifier: GPL-3.0-or-later
//
// The first sector of a volume: what file system it holds, and whether an NTFS one is sane enough for libntfs-3g, which
// takes much of it on trust.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_NTFS_BOOT_SECTOR_H_
#define LIBMOUNT_NTFS_BOOT_SECTOR_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "libmount/block/block_device.h"

namespace libmount {

inline constexpr size_t kBootSectorSize = 512;

struct NtfsGeometry {
  uint32_t sector_size = 0;
  uint32_t cluster_size = 0;
  uint32_t mft_record_size = 0;
  uint32_t index_record_size = 0;
  uint64_t sectors = 0;
  uint64_t mft_cluster = 0;
  uint64_t serial_number = 0;
};

enum class VolumeKind { kUnknown, kNtfs, kBitLocker, kRefs, kExFat, kFat };

// What the first `boot.size()` bytes of a volume say that it is. REQUIRES: boot.size() >= kBootSectorSize.
VolumeKind IdentifyVolume(std::string_view boot);

// The name to show: "NTFS", "BitLocker", ...
std::string_view VolumeKindName(VolumeKind kind);

// kEncryptedVolume: BitLocker. kRefsVolume, kUnsupportedVolume: no NTFS. kBadImageFormat: one whose numbers make no
// sense on a device of `device_size` bytes.
absl::StatusOr<NtfsGeometry> ParseBootSector(std::string_view boot, uint64_t device_size);
absl::StatusOr<NtfsGeometry> ReadBootSector(const BlockDevice& device);

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_BOOT_SECTOR_H_
