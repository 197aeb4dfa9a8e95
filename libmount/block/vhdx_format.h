// SPDX-License-Identifier: GPL-3.0-or-later
//
// The structures of a VHDX. Format: [MS-VHDX]. All is little endian; everything large stands at multiples of 1 MiB.
//
//   0       file type identifier "vhdxfile"
//   64 KiB  header       } the one with the higher sequence number and a right checksum is valid
//   128 KiB header       }
//   192 KiB region table } the first that is whole
//   256 KiB region table }
//   1 MiB.. log, metadata region, BAT region, payload blocks, sector bitmap blocks: in any order
//
//   BAT     [ payload x ratio ][ bitmap ][ payload x ratio ][ bitmap ] ...      ratio = 2^23 * sector size / block size
//   entry   63                                20 19        3 2     0
//           [ offset in the file, in units of 1 MiB ][ reserved ][ state ]
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_BLOCK_VHDX_FORMAT_H_
#define LIBMOUNT_BLOCK_VHDX_FORMAT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace libmount {

inline constexpr uint64_t kVhdxUnit = uint64_t{1} << 20;  // what large things are aligned to
inline constexpr uint64_t kVhdxHeaderOffsets[] = {64 << 10, 128 << 10};
inline constexpr uint64_t kVhdxRegionTableOffsets[] = {192 << 10, 256 << 10};
inline constexpr size_t kVhdxHeaderSize = 4 << 10;
inline constexpr size_t kVhdxRegionTableSize = 64 << 10;
inline constexpr size_t kVhdxMetadataTableSize = 64 << 10;
inline constexpr uint64_t kVhdxMaxVirtualSize = uint64_t{64} << 40;
inline constexpr uint64_t kVhdxMaxFileSize = uint64_t{1} << 62;
inline constexpr uint32_t kVhdxMaxBlockSize = uint32_t{256} << 20;
inline constexpr uint64_t kVhdxBitmapBlockSize = uint64_t{1} << 20;  // holds the bits of 2^23 sectors

using Guid = std::array<char, 16>;
inline constexpr Guid kNoGuid = {};

// As Windows writes them, in lower case.
std::string FormatGuid(const Guid& guid);

// The CRC-32C of a structure whose own checksum, at `checksum_at`, counts as zeros.
uint32_t VhdxChecksum(absl::Span<const char> bytes, size_t checksum_at);

struct VhdxHeader {
  uint64_t sequence_number = 0;
  Guid file_write_guid = {};
  Guid data_write_guid = {};
  Guid log_guid = {};  // kNoGuid: the log is empty
  uint32_t log_size = 0;
  uint64_t log_offset = 0;
};

// nullopt: not a valid header. REQUIRES: bytes.size() == kVhdxHeaderSize.
std::optional<VhdxHeader> ParseVhdxHeader(absl::Span<const char> bytes);
// kVhdxHeaderSize bytes.
std::string EncodeVhdxHeader(const VhdxHeader& header);

struct VhdxRegion {
  uint64_t offset = 0;
  uint32_t size = 0;
};
struct VhdxRegions {
  VhdxRegion bat;
  VhdxRegion metadata;
  std::vector<VhdxRegion> others;  // that nobody has to understand
};

// Errors say what is wrong, not in which file. REQUIRES: bytes.size() == kVhdxRegionTableSize.
absl::StatusOr<VhdxRegions> ParseVhdxRegionTable(absl::Span<const char> bytes);

// Items of the metadata region. Offsets count from the region's start.
struct VhdxMetadataItem {
  uint32_t offset = 0;
  uint32_t size = 0;  // 0: absent
};
struct VhdxMetadataItems {
  VhdxMetadataItem file_parameters;
  VhdxMetadataItem virtual_disk_size;
  VhdxMetadataItem virtual_disk_id;
  VhdxMetadataItem logical_sector_size;
  VhdxMetadataItem physical_sector_size;
  VhdxMetadataItem parent_locator;
};

// REQUIRES: bytes.size() == kVhdxMetadataTableSize.
absl::StatusOr<VhdxMetadataItems> ParseVhdxMetadataTable(absl::Span<const char> bytes, uint32_t region_size);

struct VhdxParentPair {
  std::string key;
  std::string value;
};
absl::StatusOr<std::vector<VhdxParentPair>> ParseVhdxParentLocator(absl::Span<const char> bytes);

// Numbers of blocks: what the sizes come to.
struct VhdxGeometry {
  uint64_t virtual_size = 0;
  uint32_t block_size = 0;
  uint32_t sector_size = 0;
  bool has_parent = false;

  uint64_t ratio() const { return (uint64_t{1} << 23) * sector_size / block_size; }
  uint64_t payload_blocks() const { return (virtual_size + block_size - 1) / block_size; }
  uint64_t bitmap_blocks() const { return (payload_blocks() + ratio() - 1) / ratio(); }
  uint64_t bat_entries() const {
    return has_parent ? bitmap_blocks() * (ratio() + 1) : payload_blocks() + (payload_blocks() - 1) / ratio();
  }
  uint64_t payload_entry(uint64_t block) const { return block + block / ratio(); }
  uint64_t bitmap_entry(uint64_t block) const { return block / ratio() * (ratio() + 1) + ratio(); }
};

enum class VhdxBlockState : uint32_t {
  kNotPresent = 0,
  kUndefined = 1,
  kZero = 2,
  kUnmapped = 3,
  kFullyPresent = 6,
  kPartiallyPresent = 7,
};
inline constexpr uint64_t kVhdxBitmapPresent = 6;

constexpr VhdxBlockState VhdxStateOf(uint64_t entry) { return static_cast<VhdxBlockState>(entry & 7); }
constexpr uint64_t VhdxOffsetOf(uint64_t entry) { return entry & ~(kVhdxUnit - 1); }

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_VHDX_FORMAT_H_
