// SPDX-License-Identifier: GPL-3.0-or-later
//
// The structures of a VHD. Format: "Virtual Hard Disk Image Format Specification", Microsoft, 2006. All is big endian.
//
//   dynamic and differencing:  [ footer's copy 512 ][ dynamic header 1024 ][ BAT, parent locators ... ]
//                              [ bitmap ][ block ] [ bitmap ][ block ] ... [ footer 512 ]
//   fixed:                     [ disk ............................................................... ][ footer 512 ]
//
// A footer tells the disk's size three times: CurrentSize, OriginalSize and cylinders x heads x sectors. Writers
// differ: Virtual PC and old QEMUs let the geometry (which ends at 127 GiB, and is rounded down) say how large the disk
// is to its guest. We follow CurrentSize, as Windows does since it attaches VHDs itself: anything less cuts partitions
// off that Windows has made at the end of a disk. OriginalSize is the size before the disk was resized.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_BLOCK_VHD_FORMAT_H_
#define LIBMOUNT_BLOCK_VHD_FORMAT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace libmount {

inline constexpr uint32_t kVhdSectorSize = 512;
inline constexpr size_t kVhdFooterSize = 512;
inline constexpr size_t kVhdOldFooterSize = 511;  // of the first Virtual PCs
inline constexpr size_t kVhdDynamicHeaderSize = 1024;
inline constexpr uint32_t kVhdUnusedEntry = 0xffffffff;
// The format's own limit is 2040 GiB; entries of the BAT could reach a little further.
inline constexpr uint64_t kVhdMaxVirtualSize = uint64_t{2} << 40;
// Windows makes 512 KiB and 2 MiB.
inline constexpr uint32_t kVhdMinBlockSize = 4096;
inline constexpr uint32_t kVhdMaxBlockSize = uint32_t{256} << 20;

enum class VhdType : uint32_t { kFixed = 2, kDynamic = 3, kDifferencing = 4 };

struct VhdFooter {
  VhdType type = VhdType::kFixed;
  uint64_t dynamic_header_offset = 0;
  uint64_t original_size = 0;
  uint64_t current_size = 0;
  uint64_t geometry_size = 0;
  std::string creator;  // "win 10.0"
  std::array<char, 16> unique_id = {};
};

struct VhdLocatorEntry {
  std::string platform;  // "W2ru", "W2ku", ...
  uint64_t offset = 0;
  uint32_t size = 0;
};

struct VhdDynamicHeader {
  uint64_t bat_offset = 0;
  uint32_t entries = 0;
  uint32_t block_size = 0;
  std::array<char, 16> parent_id = {};
  uint32_t parent_time = 0;  // seconds since 2000; 0: Windows 8 and later do not say
  std::string parent_name;   // WTF-8
  std::vector<VhdLocatorEntry> locators;
};

bool HasVhdCookie(absl::Span<const char> footer);
// The error's text says what is wrong, not in which file. REQUIRES: footer.size() >= kVhdOldFooterSize.
absl::StatusOr<VhdFooter> ParseVhdFooter(absl::Span<const char> footer);
// REQUIRES: header.size() == kVhdDynamicHeaderSize.
absl::StatusOr<VhdDynamicHeader> ParseVhdDynamicHeader(absl::Span<const char> header);

// Bytes of the sector bitmap in front of a block: one bit for each sector, in whole sectors.
constexpr uint32_t VhdBitmapSize(uint32_t block_size) {
  const uint32_t bytes = (block_size / kVhdSectorSize + 7) / 8;
  return (bytes + kVhdSectorSize - 1) / kVhdSectorSize * kVhdSectorSize;
}

// "01234567-89ab-...": a VHD's ids are shown in the order of their bytes.
std::string FormatUuid(const std::array<char, 16>& id);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_VHD_FORMAT_H_
