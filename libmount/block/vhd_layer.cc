// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/vhd_layer.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/block/big_endian.h"

namespace libmount {
namespace {

constexpr uint32_t kBatPageSize = 4096;
constexpr uint32_t kMaxLocatorSize = 64 << 10;  // a path has at most 32767 characters
constexpr uint32_t kBitmapPieceSize = 64;       // bytes of a bitmap looked at in one go

absl::Status Bad(const DiskFile& file, const std::string& text) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: %s", file.name(), text));
}

absl::Status InFile(const DiskFile& file, const absl::Status& status) {
  return MakeError(ReasonOf(status), absl::StrFormat("%s: %s", file.name(), std::string(status.message())));
}

// The footer at the file's end, or the one that a sparse disk keeps a copy of at its start.
absl::StatusOr<VhdFooter> ReadFooter(const DiskFile& file, std::vector<std::string>* warnings,
                                     uint64_t* footer_offset) {
  absl::Status damage = Bad(file, "too small for a VHD");
  char bytes[kVhdFooterSize];
  for (const size_t size : {kVhdFooterSize, kVhdOldFooterSize}) {
    if (file.size() < size) continue;
    *footer_offset = file.size() - size;
    const auto footer_bytes = absl::MakeSpan(bytes, size);
    if (absl::Status status = file.ReadPart(*footer_offset, footer_bytes, "footer"); !status.ok()) return status;
    absl::StatusOr<VhdFooter> footer = ParseVhdFooter(footer_bytes);
    if (footer.ok()) return footer;
    if (size == kVhdFooterSize || HasVhdCookie(footer_bytes)) damage = InFile(file, footer.status());
  }
  if (file.size() >= kVhdFooterSize) {
    if (absl::Status status = file.ReadPart(0, absl::MakeSpan(bytes), "footer's copy"); !status.ok()) return status;
    absl::StatusOr<VhdFooter> copy = ParseVhdFooter(bytes);
    if (copy.ok() && copy->type != VhdType::kFixed) {
      warnings->push_back("the footer at the end is missing or damaged; its copy at the start is used");
      *footer_offset = file.size();
      return copy;
    }
  }
  return damage;
}

absl::Status ReadLocators(const DiskFile& file, const VhdDynamicHeader& header, DiskFileInfo* info) {
  for (const VhdLocatorEntry& entry : header.locators) {
    if (entry.platform != "W2ru" && entry.platform != "W2ku") continue;  // MacOS's, and Windows' of the nineties
    if (entry.size == 0 || entry.size > kMaxLocatorSize) {
      info->warnings.push_back(absl::StrFormat("a parent locator of %d bytes is left out", entry.size));
      continue;
    }
    std::string path(entry.size, '\0');
    if (absl::Status status = file.ReadPart(entry.offset, absl::MakeSpan(path), "parent locator"); !status.ok()) {
      return status;
    }
    std::string text = Utf16LeToWtf8(path);
    text.resize(std::min(text.size(), text.find('\0')));
    info->parent_locators.push_back({entry.platform, std::move(text)});
  }
  if (!header.parent_name.empty()) info->parent_locators.push_back({"name", header.parent_name});
  return absl::OkStatus();
}

uint64_t LocatorsEnd(const VhdDynamicHeader& header) {
  uint64_t end = 0;
  for (const VhdLocatorEntry& entry : header.locators) {
    end = std::max(end, std::min(entry.offset, kVhdMaxVirtualSize) + entry.size);
  }
  return end;
}

absl::StatusOr<std::unique_ptr<DiskLayer>> OpenSparse(std::unique_ptr<DiskFile> file, const VhdFooter& footer,
                                                      DiskFileInfo info) {
  char bytes[kVhdDynamicHeaderSize];
  if (absl::Status status = file->ReadPart(footer.dynamic_header_offset, absl::MakeSpan(bytes), "dynamic header");
      !status.ok()) {
    return status;
  }
  absl::StatusOr<VhdDynamicHeader> header = ParseVhdDynamicHeader(bytes);
  if (!header.ok()) return InFile(*file, header.status());
  const uint64_t blocks = (footer.current_size + header->block_size - 1) / header->block_size;
  if (header->entries < blocks) {
    return Bad(*file, absl::StrFormat("a BAT of %d entries is too small for %d blocks", header->entries, blocks));
  }
  if (header->bat_offset > file->size() || blocks * sizeof(uint32_t) > file->size() - header->bat_offset) {
    return Bad(*file, absl::StrFormat("the BAT at offset %d lies beyond the end", header->bat_offset));
  }
  info.block_size = header->block_size;
  if (footer.type == VhdType::kDifferencing) {
    info.parent_identifier = FormatUuid(header->parent_id);
    if (absl::Status status = ReadLocators(*file, *header, &info); !status.ok()) return status;
  }
  return std::make_unique<VhdSparseLayer>(std::move(file), std::move(info), *header);
}

}  // namespace

absl::StatusOr<bool> LooksLikeVhd(const DiskFile& file) {
  char bytes[kVhdFooterSize];
  for (const uint64_t offset : {file.size() - kVhdFooterSize, file.size() - kVhdOldFooterSize, uint64_t{0}}) {
    if (file.size() < kVhdFooterSize) return false;
    const auto cookie = absl::MakeSpan(bytes, kVhdOldFooterSize);
    if (absl::Status status = file.ReadPart(offset, cookie, "footer"); !status.ok()) return status;
    if (HasVhdCookie(cookie)) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<DiskLayer>> OpenVhdLayer(std::unique_ptr<DiskFile> file) {
  DiskFileInfo info;
  info.name = file->name();
  info.format = DiskFormat::kVhd;
  info.file_size = file->size();
  uint64_t footer_offset = 0;
  absl::StatusOr<VhdFooter> footer = ReadFooter(*file, &info.warnings, &footer_offset);
  if (!footer.ok()) return footer.status();
  info.virtual_size = footer->current_size;
  info.creator = footer->creator;
  info.identifier = FormatUuid(footer->unique_id);
  if (footer->type == VhdType::kFixed) {
    info.type = DiskType::kFixed;
    if (footer->current_size > footer_offset) {
      return Bad(*file,
                 absl::StrFormat("cut off: the disk has %d bytes, the file %d", footer->current_size, footer_offset));
    }
    return std::make_unique<FlatLayer>(std::move(file), std::move(info));
  }
  info.type = footer->type == VhdType::kDynamic ? DiskType::kDynamic : DiskType::kDifferencing;
  return OpenSparse(std::move(file), *footer, std::move(info));
}

VhdSparseLayer::VhdSparseLayer(std::unique_ptr<DiskFile> file, DiskFileInfo info, const VhdDynamicHeader& header)
    : DiskLayer(std::move(file), std::move(info)),
      differencing_(this->info().type == DiskType::kDifferencing),
      bat_offset_(header.bat_offset),
      locators_end_(differencing_ ? LocatorsEnd(header) : 0),
      block_count_((size() + header.block_size - 1) / header.block_size),
      bitmap_size_(VhdBitmapSize(header.block_size)),
      bat_(&this->file(), kBatPageSize, block_count_ * sizeof(uint32_t)),
      bitmaps_(&this->file(), bitmap_size_, differencing_ ? block_count_ * bitmap_size_ : 0) {}

int VhdSparseLayer::LoadEntry(uint64_t block, uint32_t* sector) const {
  const uint32_t at = static_cast<uint32_t>(block * sizeof(uint32_t) % bat_.page_size());
  if (int error = bat_.Load(PageOf(block), PlaceOf(block), at, sector); error != 0) return error;
  *sector = LoadBe32(sector);
  return 0;
}

void VhdSparseLayer::StoreEntry(uint64_t block, uint32_t sector) {
  StoreBe32(sector, &sector);
  bat_.Store(PageOf(block), PlaceOf(block), static_cast<uint32_t>(block * sizeof(uint32_t) % bat_.page_size()), sector);
}

int VhdSparseLayer::MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const {
  const uint64_t block = offset / block_size();
  const uint32_t within = static_cast<uint32_t>(offset % block_size());
  limit = std::min<uint64_t>(limit, block_size() - within);
  uint32_t entry;
  if (int error = LoadEntry(block, &entry); error != 0) return error;
  if (entry == kVhdUnusedEntry) {
    *extent = {differencing_ ? DiskExtent::Source::kParent : DiskExtent::Source::kZeros, 0, limit};
    return 0;
  }
  const uint64_t bitmap_place = uint64_t{entry} * kVhdSectorSize;
  *extent = {DiskExtent::Source::kFile, bitmap_place + bitmap_size_ + within, limit};
  // A dynamic disk's bitmaps are not looked at: a block that is there is there whole, zeros included, whatever a writer
  // made of its bitmap. (QEMU reads it so, too.)
  if (!differencing_) return 0;
  const uint32_t first = within / kVhdSectorSize;
  const uint32_t behind = static_cast<uint32_t>((within + limit + kVhdSectorSize - 1) / kVhdSectorSize);
  bool here;
  uint32_t count;
  if (int error = SameBits(block, bitmap_place, first, behind - first, &here, &count); error != 0) return error;
  extent->size = std::min<uint64_t>(limit, uint64_t{first + count} * kVhdSectorSize - within);
  if (!here) extent->source = DiskExtent::Source::kParent;
  return 0;
}

int VhdSparseLayer::SameBits(uint64_t block, uint64_t bitmap_place, uint32_t first, uint32_t limit, bool* bit,
                             uint32_t* count) const {
  *count = 0;
  uint32_t sector = first;
  while (*count < limit) {
    char piece[kBitmapPieceSize];
    const uint32_t at = sector / 8 / kBitmapPieceSize * kBitmapPieceSize;
    if (int error = bitmaps_.Copy(block, bitmap_place, at, absl::MakeSpan(piece)); error != 0) return error;
    for (; *count < limit && sector / 8 < at + kBitmapPieceSize; ++sector, ++*count) {
      // The first sector of eight is the byte's highest bit.
      const bool here = (static_cast<uint8_t>(piece[sector / 8 - at]) >> (7 - sector % 8) & 1) != 0;
      if (*count == 0) *bit = here;
      if (here != *bit) return 0;
    }
  }
  return 0;
}

}  // namespace libmount
