// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/wim_header.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr std::string_view kMagic("MSWIM\0\0\0", 8);
constexpr std::string_view kPipableMagic("WLPWM\0\0\0", 8);
constexpr uint32_t kVersionDefault = 0x10d00;
constexpr uint32_t kVersionSolid = 0xe00;

constexpr uint32_t kFlagCompressed = 0x02;
constexpr uint32_t kFlagXpress = 0x20000;
constexpr uint32_t kFlagLzx = 0x40000;
constexpr uint32_t kFlagLzms = 0x80000;
constexpr uint32_t kFlagXpress2 = 0x200000;

// The codecs' own limits. A chunk is decoded as a whole, so this also bounds the memory that one costs.
constexpr uint32_t kMinChunkSize = 1 << 12;
constexpr uint32_t kMaxChunkSizeXpress = 1 << 16;
constexpr uint32_t kMaxChunkSizeLzx = 1 << 21;
constexpr uint32_t kMaxChunkSizeLzms = 1 << 30;

absl::Status BadHeader(const std::string& file, std::string_view what) {
  return MakeError(Reason::kBadImageFormat,
                   absl::StrFormat("%s is not a WIM file that can be read: %s. Check that the file is complete and "
                                   "really a WIM.",
                                   file, what));
}

bool ChunkSizeIsValid(Compression compression, uint32_t size) {
  uint32_t most = 0;
  switch (compression) {
    case Compression::kNone: return size == 0;
    case Compression::kXpress: most = kMaxChunkSizeXpress; break;
    case Compression::kLzx: most = kMaxChunkSizeLzx; break;
    case Compression::kLzms: most = kMaxChunkSizeLzms; break;
    default: return false;
  }
  return std::has_single_bit(size) && size >= kMinChunkSize && size <= most;
}

// The size that the table of a compressed resource's chunk offsets needs at least.
uint64_t MinChunkTableSize(const ResourceLocation& location) {
  uint64_t chunks = location.size / location.chunk_size + (location.size % location.chunk_size != 0);
  uint64_t entry = location.size > 0xffffffff ? 8 : 4;
  return chunks == 0 ? 0 : (chunks - 1) * entry;
}

}  // namespace

uint32_t CompressionFlags(Compression compression) {
  switch (compression) {
    case Compression::kNone: return 0;
    case Compression::kXpress: return kFlagCompressed | kFlagXpress;
    case Compression::kLzx: return kFlagCompressed | kFlagLzx;
    case Compression::kLzms: return kFlagCompressed | kFlagLzms;
  }
  return 0;
}

ResourceHeader ParseResourceHeader(const void* at) {
  const char* bytes = static_cast<const char*>(at);
  ResourceHeader header;
  uint64_t size_and_flags = LoadLe64(bytes);
  header.size_in_file = size_and_flags & 0x00ffffffffffffff;
  header.flags = static_cast<uint8_t>(size_and_flags >> 56);
  header.offset = LoadLe64(bytes + 8);
  header.size = LoadLe64(bytes + 16);
  return header;
}

absl::StatusOr<WimHeader> ParseWimHeader(std::string_view bytes, const std::string& file) {
  const char* at = bytes.data();
  WimHeader header;
  std::string_view magic = bytes.substr(0, kMagic.size());
  if (magic != kMagic && magic != kPipableMagic) return BadHeader(file, "it does not start with a WIM signature");
  header.pipable = magic == kPipableMagic;
  if (LoadLe32(at + 0x08) != kWimHeaderSize) return BadHeader(file, "its header has an unknown size");
  uint32_t version = LoadLe32(at + 0x0c);
  if (version != kVersionDefault && version != kVersionSolid) {
    return BadHeader(file, absl::StrFormat("its version is 0x%x, and 0x%x and 0x%x are known", version, kVersionDefault,
                                           kVersionSolid));
  }
  header.solid_version = version == kVersionSolid;
  header.flags = LoadLe32(at + 0x10);
  if (header.flags & kFlagCompressed) {
    if (header.flags & (kFlagXpress | kFlagXpress2)) {
      header.compression = Compression::kXpress;
    } else if (header.flags & kFlagLzx) {
      header.compression = Compression::kLzx;
    } else if (header.flags & kFlagLzms) {
      header.compression = Compression::kLzms;
    } else {
      return BadHeader(file, "it is compressed in an unknown way");
    }
    header.chunk_size = LoadLe32(at + 0x14);
    if (!ChunkSizeIsValid(header.compression, header.chunk_size)) {
      return BadHeader(file, absl::StrFormat("its chunk size of %u bytes is invalid", header.chunk_size));
    }
  }
  memcpy(header.guid.data(), at + 0x18, header.guid.size());
  header.part = LoadLe16(at + 0x28);
  header.part_count = LoadLe16(at + 0x2a);
  if (header.part == 0 || header.part > header.part_count) {
    return BadHeader(file, absl::StrFormat("it claims to be part %d of %d", header.part, header.part_count));
  }
  header.image_count = LoadLe32(at + 0x2c);
  header.blob_table = ParseResourceHeader(at + 0x30);
  header.xml = ParseResourceHeader(at + 0x48);
  header.boot_index = LoadLe32(at + 0x78);
  header.integrity_table = ParseResourceHeader(at + 0x7c);
  return header;
}

absl::StatusOr<WimHeader> ReadWimHeader(const WimSource& source, uint16_t part) {
  char bytes[kWimHeaderSize];
  const std::string& file = source.part_name(part);
  if (source.part_size(part) < sizeof bytes) return BadHeader(file, "it is shorter than a header");
  absl::Status status = source.Read(part, 0, absl::MakeSpan(bytes));
  if (!status.ok()) return status;
  std::string_view view(bytes, sizeof bytes);
  if (view.substr(0, kPipableMagic.size()) == kPipableMagic) {
    status = source.Read(part, source.part_size(part) - sizeof bytes, absl::MakeSpan(bytes));
    if (!status.ok()) return status;
  }
  return ParseWimHeader(view, file);
}

absl::StatusOr<ResourceLocation> LocateResource(const ResourceHeader& resource, const WimHeader& header,
                                                const WimSource& source, uint16_t part, std::string_view what) {
  auto bad = [&](std::string_view why) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the %s (%d bytes at offset %d) %s. The file is truncated or damaged.",
                                     source.part_name(part), what, resource.size_in_file, resource.offset, why));
  };
  const uint64_t file_size = source.part_size(part);
  if (resource.offset > file_size || resource.size_in_file > file_size - resource.offset) {
    return bad("does not lie within the file");
  }
  ResourceLocation location;
  location.offset = resource.offset;
  location.size_in_file = resource.size_in_file;
  location.size = resource.size;
  location.part = part;
  location.pipable = header.pipable;
  if (!(resource.flags & kResourceCompressed)) {
    if (resource.size != resource.size_in_file) return bad("has two different sizes");
    return location;
  }
  if (header.compression == Compression::kNone) return bad("is compressed, and the file is not");
  location.compression = header.compression;
  location.chunk_size = header.chunk_size;
  if (MinChunkTableSize(location) > location.size_in_file) return bad("is too small for what it claims to hold");
  return location;
}

}  // namespace libmount
