// SPDX-License-Identifier: GPL-3.0-or-later
//
// Where data lies in a WIM: resources, and blobs within them.
//
// On disk a resource is (compressed chunks with a table of their offsets):
//
//   not solid:  [ chunk table: n-1 offsets, u32 or u64 ][ chunk 0 ][ chunk 1 ] ... [ chunk n-1 ]
//   solid:      [ u64 uncompressed size, u32 chunk size, u32 compression ][ n compressed sizes, u32 ][ chunk 0 ] ...
//
//   pipable:    [ u32 size, chunk 0 ][ u32 size, chunk 1 ] ... [ chunk table as above, not counting the u32s ]
//
// A chunk stored with its full uncompressed size is raw. A resource without the compressed flag is raw as a whole.
// Layouts: "Windows Imaging File Format (WIM)", Microsoft; solid resources: wimlib's include/wimlib/resource.h.

#ifndef LIBMOUNT_WIM_RESOURCE_H_
#define LIBMOUNT_WIM_RESOURCE_H_

#include <cstdint>

namespace libmount {

// Numbers as in the header of a solid resource.
enum class Compression : uint8_t { kNone = 0, kXpress = 1, kLzx = 2, kLzms = 3 };

// Flags of a resource header.
inline constexpr uint8_t kResourceFree = 0x01;
inline constexpr uint8_t kResourceMetadata = 0x02;
inline constexpr uint8_t kResourceCompressed = 0x04;
inline constexpr uint8_t kResourceSpanned = 0x08;
inline constexpr uint8_t kResourceSolid = 0x10;

// A resource as it lies in one part of the set. All numbers have been checked against the part's size.
struct ResourceLocation {
  uint64_t offset = 0;        // in the part's file, bytes
  uint64_t size_in_file = 0;  // bytes
  uint64_t size = 0;          // uncompressed bytes
  uint32_t chunk_size = 0;    // uncompressed bytes of a chunk; 0 for a raw resource
  uint16_t part = 1;          // of the split set, from 1
  Compression compression = Compression::kNone;
  bool solid : 1 = false;
  bool pipable : 1 = false;  // the file is a pipable WIM
};
static_assert(sizeof(ResourceLocation) == 32, "a table of Windows has 100,000 of them");

// A blob: `size` bytes at `offset` of a resource's uncompressed data. Where the resource is not solid, that is all of
// it.
struct BlobLocation {
  uint32_t resource = 0;  // index into the blob table's resources
  uint64_t offset = 0;
  uint64_t size = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_RESOURCE_H_
