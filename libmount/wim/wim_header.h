// SPDX-License-Identifier: GPL-3.0-or-later
//
// The header of a WIM, 208 bytes (all numbers little endian):
//
//   0x00 magic "MSWIM\0\0\0"     0x28 u16 part, u16 parts        0x78 u32 boot index
//   0x08 u32 header size         0x2c u32 number of images       0x7c integrity table
//   0x0c u32 version             0x30 blob table                 0x94 zeros
//   0x10 u32 flags               0x48 XML data
//   0x14 u32 chunk size          0x60 metadata of the boot image
//   0x18 GUID
//
// The four tables are named by resource headers, 24 bytes: u56 size in the file, u8 flags, u64 offset, u64 size.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_WIM_WIM_HEADER_H_
#define LIBMOUNT_WIM_WIM_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

inline constexpr size_t kWimHeaderSize = 208;
inline constexpr size_t kResourceHeaderSize = 24;

// Flags of the header.
inline constexpr uint32_t kWimReadOnly = 0x04;
inline constexpr uint32_t kWimSpanned = 0x08;
inline constexpr uint32_t kWimWriteInProgress = 0x40;
// Those that say how the file is compressed.
inline constexpr uint32_t kWimCompressionFlags = 0x02 | 0x20000 | 0x40000 | 0x80000 | 0x200000;
uint32_t CompressionFlags(Compression compression);

struct ResourceHeader {
  uint64_t size_in_file = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  uint8_t flags = 0;

  bool empty() const { return offset == 0 || size_in_file == 0; }
};

// REQUIRES: at least kResourceHeaderSize bytes at `at`.
ResourceHeader ParseResourceHeader(const void* at);

struct WimHeader {
  uint32_t flags = 0;
  uint32_t chunk_size = 0;  // 0: nothing is compressed
  Compression compression = Compression::kNone;
  bool solid_version = false;  // version 0xe00: solid resources may occur
  bool pipable = false;
  std::array<uint8_t, 16> guid = {};
  uint16_t part = 1;
  uint16_t part_count = 1;
  uint32_t image_count = 0;
  uint32_t boot_index = 0;
  ResourceHeader blob_table;
  ResourceHeader xml;
  ResourceHeader integrity_table;
};

// REQUIRES: bytes.size() == kWimHeaderSize. kBadImageFormat, naming `file`.
absl::StatusOr<WimHeader> ParseWimHeader(std::string_view bytes, const std::string& file);

// Reads the header of a part: the one at the end of a pipable file, which alone is complete, else the one in front.
absl::StatusOr<WimHeader> ReadWimHeader(const WimSource& source, uint16_t part);

// Where the resource lies, all numbers checked against the part's size; kBadImageFormat, calling it `what`.
absl::StatusOr<ResourceLocation> LocateResource(const ResourceHeader& resource, const WimHeader& header,
                                                const WimSource& source, uint16_t part, std::string_view what);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_HEADER_H_
