// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/vhdx_format.h"

#include <cstring>
#include <string_view>

#include "absl/strings/str_format.h"
#include "libmount/base/crc32c.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

constexpr size_t kChecksumAt = 4;
constexpr uint16_t kVersion = 1;
constexpr uint32_t kMaxRegions = 2047;
constexpr size_t kRegionHeaderSize = 16;
constexpr size_t kRegionEntrySize = 32;
constexpr uint32_t kMaxMetadataItems = 2047;
constexpr size_t kMetadataHeaderSize = 32;
constexpr size_t kMetadataEntrySize = 32;
constexpr uint32_t kRegionRequired = 1;
constexpr uint32_t kMetadataRequired = 4;
constexpr size_t kLocatorHeaderSize = 20;
constexpr size_t kLocatorEntrySize = 12;

constexpr uint8_t Nibble(char c) { return static_cast<uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10); }

// From the text form: the first three groups are little-endian numbers.
constexpr Guid MakeGuid(std::string_view text) {
  Guid bytes = {};
  constexpr int kPlace[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  size_t at = 0;
  for (int place : kPlace) {
    if (text[at] == '-') ++at;
    bytes[static_cast<size_t>(place)] = static_cast<char>(Nibble(text[at]) << 4 | Nibble(text[at + 1]));
    at += 2;
  }
  return bytes;
}

constexpr Guid kBatRegion = MakeGuid("2dc27766-f623-4200-9d64-115e9bfd4a08");
constexpr Guid kMetadataRegion = MakeGuid("8b7ca206-4790-4b9a-b8fe-575f050f886e");
constexpr Guid kFileParameters = MakeGuid("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
constexpr Guid kVirtualDiskSize = MakeGuid("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
constexpr Guid kVirtualDiskId = MakeGuid("beca12ab-b2e6-4523-93ef-c309e000c746");
constexpr Guid kLogicalSectorSize = MakeGuid("8141bf1d-a96f-4709-ba47-f233a8faab5f");
constexpr Guid kPhysicalSectorSize = MakeGuid("cda348c7-445d-4471-9cc9-e9885251c556");
constexpr Guid kParentLocator = MakeGuid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
constexpr Guid kVhdxLocatorType = MakeGuid("b04aefb7-d19e-4a81-b789-25b8e9445913");

absl::Status Bad(std::string text) { return MakeError(Reason::kBadImageFormat, std::move(text)); }

Guid LoadGuid(const char* at) {
  Guid guid;
  memcpy(guid.data(), at, guid.size());
  return guid;
}

bool Overlap(const VhdxRegion& a, const VhdxRegion& b) {
  return a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

}  // namespace

std::string FormatGuid(const Guid& guid) {
  const char* at = guid.data();
  std::string text = absl::StrFormat("%08x-%04x-%04x-", LoadLe32(at), LoadLe16(at + 4), LoadLe16(at + 6));
  for (size_t i = 8; i < guid.size(); ++i) {
    if (i == 10) text.push_back('-');
    absl::StrAppendFormat(&text, "%02x", static_cast<uint8_t>(at[i]));
  }
  return text;
}

uint32_t VhdxChecksum(absl::Span<const char> bytes, size_t checksum_at) {
  constexpr char kZeros[4] = {};
  const uint32_t crc = Crc32c(kZeros, Crc32c(bytes.first(checksum_at)));
  return Crc32c(bytes.subspan(checksum_at + sizeof kZeros), crc);
}

std::optional<VhdxHeader> ParseVhdxHeader(absl::Span<const char> bytes) {
  const char* at = bytes.data();
  if (memcmp(at, "head", 4) != 0 || VhdxChecksum(bytes, kChecksumAt) != LoadLe32(at + kChecksumAt)) {
    return std::nullopt;
  }
  VhdxHeader header;
  header.sequence_number = LoadLe64(at + 8);
  header.file_write_guid = LoadGuid(at + 16);
  header.data_write_guid = LoadGuid(at + 32);
  header.log_guid = LoadGuid(at + 48);
  const uint16_t log_version = LoadLe16(at + 64);
  const uint16_t version = LoadLe16(at + 66);
  if (version != kVersion || (log_version != 0 && header.log_guid != kNoGuid)) return std::nullopt;
  header.log_size = LoadLe32(at + 68);
  header.log_offset = LoadLe64(at + 72);
  return header;
}

std::string EncodeVhdxHeader(const VhdxHeader& header) {
  std::string bytes = "head";
  AppendLe(uint32_t{0}, bytes);
  AppendLe(header.sequence_number, bytes);
  bytes.append(header.file_write_guid.data(), header.file_write_guid.size());
  bytes.append(header.data_write_guid.data(), header.data_write_guid.size());
  bytes.append(header.log_guid.data(), header.log_guid.size());
  AppendLe(uint16_t{0}, bytes);  // the log's version
  AppendLe(kVersion, bytes);
  AppendLe(header.log_size, bytes);
  AppendLe(header.log_offset, bytes);
  bytes.resize(kVhdxHeaderSize);
  const uint32_t checksum = Crc32c(bytes);
  memcpy(bytes.data() + kChecksumAt, &checksum, sizeof checksum);
  return bytes;
}

absl::StatusOr<VhdxRegions> ParseVhdxRegionTable(absl::Span<const char> bytes) {
  const char* at = bytes.data();
  if (memcmp(at, "regi", 4) != 0) return Bad("no VHDX region table");
  if (VhdxChecksum(bytes, kChecksumAt) != LoadLe32(at + kChecksumAt)) {
    return Bad("the region table's checksum does not match");
  }
  const uint32_t count = LoadLe32(at + 8);
  if (count > kMaxRegions) return Bad(absl::StrFormat("a region table of %d entries", count));
  VhdxRegions regions;
  std::vector<VhdxRegion> all;
  for (uint32_t i = 0; i < count; ++i) {
    const char* entry = at + kRegionHeaderSize + i * kRegionEntrySize;
    const Guid id = LoadGuid(entry);
    const VhdxRegion region = {LoadLe64(entry + 16), LoadLe32(entry + 24)};
    if (region.offset < kVhdxUnit || region.offset % kVhdxUnit != 0 || region.size % kVhdxUnit != 0 ||
        region.offset > kVhdxMaxFileSize) {
      return Bad(absl::StrFormat("region %s at offset %d with %d bytes", FormatGuid(id), region.offset, region.size));
    }
    for (const VhdxRegion& other : all) {
      if (Overlap(region, other)) return Bad(absl::StrFormat("the regions at offset %d overlap", region.offset));
    }
    all.push_back(region);
    if (id == kBatRegion || id == kMetadataRegion) {
      VhdxRegion& known = id == kBatRegion ? regions.bat : regions.metadata;
      if (known.size != 0) return Bad(absl::StrFormat("region %s is there twice", FormatGuid(id)));
      known = region;
    } else if ((LoadLe32(entry + 28) & kRegionRequired) != 0) {
      return Bad(absl::StrFormat("region %s is required, and not known", FormatGuid(id)));
    } else {
      regions.others.push_back(region);
    }
  }
  if (regions.bat.size == 0 || regions.metadata.size == 0) return Bad("no BAT or no metadata region");
  return regions;
}

absl::StatusOr<VhdxMetadataItems> ParseVhdxMetadataTable(absl::Span<const char> bytes, uint32_t region_size) {
  const char* at = bytes.data();
  if (memcmp(at, "metadata", 8) != 0) return Bad("no metadata table where the region table says");
  const uint32_t count = LoadLe16(at + 10);
  if (count > kMaxMetadataItems) return Bad(absl::StrFormat("a metadata table of %d entries", count));
  VhdxMetadataItems items;
  struct Known {
    Guid id;
    VhdxMetadataItem* item;
  };
  const Known known[] = {
      {kFileParameters, &items.file_parameters},          {kVirtualDiskSize, &items.virtual_disk_size},
      {kVirtualDiskId, &items.virtual_disk_id},           {kLogicalSectorSize, &items.logical_sector_size},
      {kPhysicalSectorSize, &items.physical_sector_size}, {kParentLocator, &items.parent_locator}};
  for (uint32_t i = 0; i < count; ++i) {
    const char* entry = at + kMetadataHeaderSize + i * kMetadataEntrySize;
    const Guid id = LoadGuid(entry);
    const VhdxMetadataItem item = {LoadLe32(entry + 16), LoadLe32(entry + 20)};
    if (item.offset > region_size || item.size > region_size - item.offset) {
      return Bad(absl::StrFormat("metadata item %s lies beyond its region", FormatGuid(id)));
    }
    bool found = false;
    for (const Known& candidate : known) {
      if (candidate.id != id) continue;
      *candidate.item = item;
      found = true;
    }
    if (!found && (LoadLe32(entry + 24) & kMetadataRequired) != 0) {
      return Bad(absl::StrFormat("metadata item %s is required, and not known", FormatGuid(id)));
    }
  }
  return items;
}

absl::StatusOr<std::vector<VhdxParentPair>> ParseVhdxParentLocator(absl::Span<const char> bytes) {
  if (bytes.size() < kLocatorHeaderSize) return Bad("the parent locator is too short");
  const char* at = bytes.data();
  const Guid type = LoadGuid(at);
  if (type != kVhdxLocatorType) {
    return Bad(absl::StrFormat("a parent locator of type %s is not known", FormatGuid(type)));
  }
  const uint16_t count = LoadLe16(at + 18);
  if (count * kLocatorEntrySize > bytes.size() - kLocatorHeaderSize) return Bad("the parent locator is cut off");
  std::vector<VhdxParentPair> pairs;
  auto text = [&](uint32_t offset, uint16_t size) -> std::optional<std::string> {
    if (offset > bytes.size() || size > bytes.size() - offset) return std::nullopt;
    return Utf16LeToWtf8(std::string_view(at + offset, size));
  };
  for (uint16_t i = 0; i < count; ++i) {
    const char* entry = at + kLocatorHeaderSize + i * kLocatorEntrySize;
    std::optional<std::string> key = text(LoadLe32(entry), LoadLe16(entry + 8));
    std::optional<std::string> value = text(LoadLe32(entry + 4), LoadLe16(entry + 10));
    if (!key || !value) return Bad("a pair of the parent locator lies beyond its end");
    pairs.push_back({*std::move(key), *std::move(value)});
  }
  return pairs;
}

}  // namespace libmount
