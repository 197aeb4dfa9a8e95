// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/vhdx_layer.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/block/vhdx_log.h"

namespace libmount {
namespace {

constexpr uint32_t kPageSize = 4096;
constexpr uint32_t kBitmapPieceSize = 64;
constexpr char kSignature[] = "vhdxfile";
constexpr size_t kSignatureSize = 8;
constexpr size_t kCreatorSize = 512;
constexpr uint32_t kMaxLocatorSize = 1 << 20;
constexpr uint32_t kLeaveBlocksAllocated = 1;
constexpr uint32_t kHasParent = 2;

absl::Status Bad(const DiskFile& file, const std::string& text) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: %s", file.name(), text));
}

absl::Status InFile(const DiskFile& file, const absl::Status& status) {
  return MakeError(ReasonOf(status), absl::StrFormat("%s: %s", file.name(), std::string(status.message())));
}

absl::StatusOr<VhdxHeader> ReadHeader(const DiskFile& file) {
  std::optional<VhdxHeader> newest;
  for (uint64_t offset : kVhdxHeaderOffsets) {
    char bytes[kVhdxHeaderSize];
    if (absl::Status status = file.ReadPart(offset, absl::MakeSpan(bytes), "header"); !status.ok()) return status;
    std::optional<VhdxHeader> header = ParseVhdxHeader(bytes);
    if (header && (!newest || header->sequence_number > newest->sequence_number)) newest = header;
  }
  if (!newest) return Bad(file, "both VHDX headers are damaged");
  return *newest;
}

absl::StatusOr<VhdxRegions> ReadRegions(const DiskFile& file, const VhdxHeader& header) {
  absl::Status damage;
  std::string bytes(kVhdxRegionTableSize, '\0');
  for (uint64_t offset : kVhdxRegionTableOffsets) {
    if (absl::Status status = file.ReadPart(offset, absl::MakeSpan(bytes), "region table"); !status.ok()) {
      return status;
    }
    absl::StatusOr<VhdxRegions> regions = ParseVhdxRegionTable(bytes);
    if (!regions.ok()) {
      damage = InFile(file, regions.status());
      continue;
    }
    for (const VhdxRegion& region : {regions->bat, regions->metadata}) {
      if (region.offset > file.size() || region.size > file.size() - region.offset) {
        return Bad(file, absl::StrFormat("the region at offset %d lies beyond the end", region.offset));
      }
      if (region.offset < header.log_offset + header.log_size && header.log_offset < region.offset + region.size) {
        return Bad(file, absl::StrFormat("the region at offset %d overlaps the log", region.offset));
      }
    }
    return regions;
  }
  return damage;
}

// Reads items of the metadata region into `info` and `tables`.
class MetadataReader {
 public:
  MetadataReader(const DiskFile& file, DiskFileInfo* info, VhdxLayer::Tables* tables)
      : file_(file), info_(*info), tables_(*tables) {}

  absl::Status Read() {
    std::string bytes(kVhdxMetadataTableSize, '\0');
    const VhdxRegion& region = tables_.regions.metadata;
    if (absl::Status status = file_.ReadPart(region.offset, absl::MakeSpan(bytes), "metadata table"); !status.ok()) {
      return status;
    }
    absl::StatusOr<VhdxMetadataItems> items = ParseVhdxMetadataTable(bytes, region.size);
    if (!items.ok()) return InFile(file_, items.status());
    if (absl::Status status = ReadSizes(*items); !status.ok()) return status;
    if (absl::Status status = CheckSizes(); !status.ok()) return status;
    return tables_.geometry.has_parent ? ReadParentLocator(items->parent_locator) : absl::OkStatus();
  }

 private:
  absl::Status ReadItem(const VhdxMetadataItem& item, absl::Span<char> out, const char* what) const {
    if (item.size < out.size()) return Bad(file_, absl::StrFormat("no %s", what));
    return file_.ReadPart(tables_.regions.metadata.offset + item.offset, out, what);
  }

  absl::Status ReadSizes(const VhdxMetadataItems& items) {
    char bytes[8];
    Guid id;
    auto read = [&](const VhdxMetadataItem& item, size_t size, const char* what) {
      return ReadItem(item, absl::MakeSpan(bytes, size), what);
    };
    if (absl::Status status = read(items.file_parameters, 8, "file parameters"); !status.ok()) return status;
    tables_.geometry.block_size = LoadLe32(bytes);
    tables_.leave_blocks_allocated = (LoadLe32(bytes + 4) & kLeaveBlocksAllocated) != 0;
    tables_.geometry.has_parent = (LoadLe32(bytes + 4) & kHasParent) != 0;
    if (absl::Status status = read(items.virtual_disk_size, 8, "virtual disk size"); !status.ok()) return status;
    tables_.geometry.virtual_size = LoadLe64(bytes);
    if (absl::Status status = read(items.logical_sector_size, 4, "logical sector size"); !status.ok()) return status;
    tables_.geometry.sector_size = LoadLe32(bytes);
    if (absl::Status status = read(items.physical_sector_size, 4, "physical sector size"); !status.ok()) return status;
    info_.physical_sector_size = LoadLe32(bytes);
    if (absl::Status status = ReadItem(items.virtual_disk_id, absl::MakeSpan(id), "virtual disk id"); !status.ok()) {
      return status;
    }
    info_.identifier = FormatGuid(id);
    return absl::OkStatus();
  }

  absl::Status CheckSizes() {
    const VhdxGeometry& geometry = tables_.geometry;
    if (!std::has_single_bit(geometry.block_size) || geometry.block_size < kVhdxUnit ||
        geometry.block_size > kVhdxMaxBlockSize) {
      return Bad(file_, absl::StrFormat("a VHDX block size of %d bytes is not possible", geometry.block_size));
    }
    if (geometry.sector_size != 512 && geometry.sector_size != 4096) {
      return Bad(file_, absl::StrFormat("sectors of %d bytes are not possible", geometry.sector_size));
    }
    if (geometry.virtual_size == 0 || geometry.virtual_size > kVhdxMaxVirtualSize ||
        geometry.virtual_size % geometry.sector_size != 0) {
      return Bad(file_, absl::StrFormat("a VHDX of %d bytes is not possible", geometry.virtual_size));
    }
    if (geometry.bat_entries() * sizeof(uint64_t) > tables_.regions.bat.size) {
      return Bad(file_, absl::StrFormat("a BAT of %d bytes is too small for %d entries", tables_.regions.bat.size,
                                        geometry.bat_entries()));
    }
    info_.virtual_size = geometry.virtual_size;
    info_.sector_size = geometry.sector_size;
    info_.block_size = geometry.block_size;
    info_.type = geometry.has_parent              ? DiskType::kDifferencing
                 : tables_.leave_blocks_allocated ? DiskType::kFixed
                                                  : DiskType::kDynamic;
    return absl::OkStatus();
  }

  absl::Status ReadParentLocator(const VhdxMetadataItem& item) {
    if (item.size == 0 || item.size > kMaxLocatorSize) {
      return Bad(file_, absl::StrFormat("a parent locator of %d bytes", item.size));
    }
    std::string bytes(item.size, '\0');
    if (absl::Status status = ReadItem(item, absl::MakeSpan(bytes), "parent locator"); !status.ok()) return status;
    absl::StatusOr<std::vector<VhdxParentPair>> pairs = ParseVhdxParentLocator(bytes);
    if (!pairs.ok()) return InFile(file_, pairs.status());
    for (VhdxParentPair& pair : *pairs) {
      if (pair.key == "parent_linkage") info_.parent_identifier = GuidText(pair.value);
      info_.parent_locators.push_back({std::move(pair.key), std::move(pair.value)});
    }
    if (info_.parent_identifier.empty()) return Bad(file_, "the parent locator does not identify the parent");
    return absl::OkStatus();
  }

  // "{7584F8FB-...}" as FormatGuid has it.
  static std::string GuidText(std::string text) {
    if (text.size() >= 2 && text.front() == '{' && text.back() == '}') text = text.substr(1, text.size() - 2);
    for (char& c : text) {
      if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    }
    return text;
  }

  const DiskFile& file_;
  DiskFileInfo& info_;
  VhdxLayer::Tables& tables_;
};

}  // namespace

absl::StatusOr<bool> LooksLikeVhdx(const DiskFile& file) {
  char bytes[kSignatureSize];
  if (file.size() < sizeof bytes) return false;
  if (absl::Status status = file.ReadPart(0, absl::MakeSpan(bytes), "signature"); !status.ok()) return status;
  return memcmp(bytes, kSignature, kSignatureSize) == 0;
}

absl::StatusOr<std::unique_ptr<DiskLayer>> OpenVhdxLayer(std::unique_ptr<DiskFile> file) {
  DiskFileInfo info;
  info.name = file->name();
  info.format = DiskFormat::kVhdx;
  info.file_size = file->size();
  std::string creator(kCreatorSize, '\0');
  if (absl::Status status = file->ReadPart(kSignatureSize, absl::MakeSpan(creator), "creator"); !status.ok()) {
    return status;
  }
  info.creator = Utf16LeToWtf8(creator);
  info.creator.resize(std::min(info.creator.size(), info.creator.find('\0')));

  VhdxLayer::Tables tables;
  absl::StatusOr<VhdxHeader> header = ReadHeader(*file);
  if (!header.ok()) return header.status();
  tables.header = *header;
  info.data_write_identifier = FormatGuid(header->data_write_guid);
  if (header->log_guid != kNoGuid) {
    absl::StatusOr<std::unique_ptr<FilePatches>> patches = ReplayVhdxLog(*file, *header);
    if (!patches.ok()) return patches.status();
    file->SetPatches(*std::move(patches));
    info.log_replayed = true;
  }
  absl::StatusOr<VhdxRegions> regions = ReadRegions(*file, *header);
  if (!regions.ok()) return regions.status();
  tables.regions = *std::move(regions);
  if (absl::Status status = MetadataReader(*file, &info, &tables).Read(); !status.ok()) return status;
  return std::make_unique<VhdxLayer>(std::move(file), std::move(info), tables);
}

VhdxLayer::VhdxLayer(std::unique_ptr<DiskFile> file, DiskFileInfo info, const Tables& tables)
    : DiskLayer(std::move(file), std::move(info)),
      tables_(tables),
      bat_(&this->file(), kPageSize, tables.geometry.bat_entries() * sizeof(uint64_t)),
      bitmaps_(&this->file(), kPageSize,
               tables.geometry.has_parent ? tables.geometry.bitmap_blocks() * kVhdxBitmapBlockSize : 0) {}

int VhdxLayer::LoadEntry(uint64_t index, uint64_t* entry) const {
  return bat_.Load(PageOf(index), PlaceOf(index), static_cast<uint32_t>(index * sizeof(uint64_t) % kPageSize), entry);
}

void VhdxLayer::StoreEntry(uint64_t index, uint64_t entry) {
  bat_.Store(PageOf(index), PlaceOf(index), static_cast<uint32_t>(index * sizeof(uint64_t) % kPageSize), entry);
}

int VhdxLayer::MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const {
  const uint64_t block_size = geometry().block_size;
  const uint64_t block = offset / block_size;
  const uint64_t within = offset % block_size;
  limit = std::min(limit, block_size - within);
  uint64_t entry;
  if (int error = LoadEntry(geometry().payload_entry(block), &entry); error != 0) return error;
  *extent = {DiskExtent::Source::kZeros, VhdxOffsetOf(entry) + within, limit};
  switch (VhdxStateOf(entry)) {
    case VhdxBlockState::kNotPresent:
      if (geometry().has_parent) extent->source = DiskExtent::Source::kParent;
      return 0;
    case VhdxBlockState::kUndefined:
    case VhdxBlockState::kZero:
    case VhdxBlockState::kUnmapped: return 0;
    case VhdxBlockState::kFullyPresent:
      extent->source = DiskExtent::Source::kFile;
      return VhdxOffsetOf(entry) == 0 ? EIO : 0;
    case VhdxBlockState::kPartiallyPresent:
      if (VhdxOffsetOf(entry) == 0 || !geometry().has_parent) return EIO;
      return MapPartial(block, within, limit, extent);
  }
  return EIO;  // a state that no writer makes
}

int VhdxLayer::MapPartial(uint64_t block, uint64_t within, uint64_t limit, DiskExtent* extent) const {
  uint64_t entry;
  if (int error = LoadEntry(geometry().bitmap_entry(block), &entry); error != 0) return error;
  if ((entry & 7) != kVhdxBitmapPresent || VhdxOffsetOf(entry) == 0) return EIO;
  const uint64_t sector_size = geometry().sector_size;
  const uint64_t first = within / sector_size;
  const uint64_t behind = (within + limit + sector_size - 1) / sector_size;
  bool here;
  uint64_t count;
  if (int error = SameBits(VhdxOffsetOf(entry), block * (geometry().block_size / sector_size) + first, behind - first,
                           &here, &count);
      error != 0) {
    return error;
  }
  extent->size = std::min(limit, (first + count) * sector_size - within);
  extent->source = here ? DiskExtent::Source::kFile : DiskExtent::Source::kParent;
  return 0;
}

int VhdxLayer::SameBits(uint64_t bitmap_place, uint64_t sector, uint64_t limit, bool* bit, uint64_t* count) const {
  constexpr uint64_t kPieceSectors = kBitmapPieceSize * 8;
  *count = 0;
  while (*count < limit) {
    char piece[kBitmapPieceSize];
    const uint64_t byte = sector / kPieceSectors * kBitmapPieceSize;  // in the row of all bitmap blocks
    const uint64_t place = bitmap_place + byte % kVhdxBitmapBlockSize / kPageSize * kPageSize;
    if (int error = bitmaps_.Copy(byte / kPageSize, place, byte % kPageSize, absl::MakeSpan(piece)); error != 0) {
      return error;
    }
    do {
      // The first sector of eight is the byte's lowest bit.
      const bool here = (static_cast<uint8_t>(piece[sector / 8 % kBitmapPieceSize]) >> (sector % 8) & 1) != 0;
      if (*count == 0) *bit = here;
      if (here != *bit) return 0;
      ++sector;
      ++*count;
    } while (*count < limit && sector % kPieceSectors != 0);
  }
  return 0;
}

}  // namespace libmount
