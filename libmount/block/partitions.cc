// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/block/partitions.h"

#include <errno.h>
#include <zlib.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

// --- MBR
constexpr size_t kMbrBytes = 512;
constexpr size_t kMbrEntriesAt = 446, kMbrEntryBytes = 16, kMbrEntries = 4, kMbrSignatureAt = 510;
constexpr uint8_t kMbrProtective = 0xee, kMbrDynamic = 0x42;
constexpr uint32_t kFirstLogicalNumber = 5;
constexpr size_t kMaxLogicalPartitions = 128;

struct MbrEntry {
  uint8_t type = 0;
  uint64_t first = 0;  // sectors
  uint64_t count = 0;
};

bool IsExtended(uint8_t type) { return type == 0x05 || type == 0x0f || type == 0x85; }

bool HasMbrSignature(std::string_view sector) { return LoadLe16(sector.data() + kMbrSignatureAt) == 0xaa55; }

MbrEntry MbrEntryAt(std::string_view sector, size_t index) {
  const char* entry = sector.data() + kMbrEntriesAt + index * kMbrEntryBytes;
  return {static_cast<uint8_t>(entry[4]), LoadLe32(entry + 8), LoadLe32(entry + 12)};
}

std::string MbrTypeName(uint8_t type) { return absl::StrFormat("0x%02x", type); }

// Whether it is the boot sector of a volume, which has the MBR's signature too.
bool IsBootSector(std::string_view sector) {
  for (std::string_view name : {"NTFS    ", "-FVE-FS-", "EXFAT   ", "ReFS"}) {
    if (sector.substr(3, name.size()) == name) return true;
  }
  return sector.substr(54, 3) == "FAT" || sector.substr(82, 3) == "FAT";
}

// --- GPT
constexpr std::string_view kGptSignature = "EFI PART";
constexpr size_t kGptHeaderBytes = 92;
constexpr size_t kGptHeaderSizeAt = 12, kGptHeaderCrcAt = 16, kGptEntriesAt = 72;
constexpr size_t kGptCountAt = 80, kGptEntrySizeAt = 84, kGptEntriesCrcAt = 88;
constexpr size_t kGptMinTableBytes = 16384;
constexpr uint32_t kGptMaxEntries = 1024, kGptMinEntryBytes = 128, kGptMaxEntryBytes = 4096;
constexpr size_t kGuidBytes = 16;

struct GptType {
  std::string_view guid;
  std::string_view name;
  bool dynamic = false;
};

constexpr GptType kGptTypes[] = {
    {"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "basic data"},
    {"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"},
    {"e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"},
    {"de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"},
    {"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "LDM metadata", true},
    {"af9b60a0-1431-4f62-bc68-3311714a69ad", "LDM data", true},
    {"e75caf8f-f680-4cee-afa3-b001e56efc2d", "storage spaces"},
    {"0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"},
};

std::string GuidText(const char* guid) {
  std::string text = absl::StrFormat("%08x-%04x-%04x-", LoadLe32(guid), LoadLe16(guid + 4), LoadLe16(guid + 6));
  for (size_t i = 8; i < kGuidBytes; ++i) {
    if (i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", static_cast<uint8_t>(guid[i]));
  }
  return text;
}

uint32_t Crc32(std::string_view bytes) {
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

class TableReader {
 public:
  explicit TableReader(const BlockDevice& disk) : disk_(disk), sector_size_(disk.sector_size()) {}

  absl::StatusOr<Partitions> Run() {
    std::string first(kMbrBytes, '\0');
    if (disk_.size() < kMbrBytes || disk_.Read(0, absl::MakeSpan(first)) != 0) {
      return MakeError(Reason::kBadImageFormat, "the first sector of the disk cannot be read");
    }
    if (IsBootSector(first) || !HasMbrSignature(first)) return WholeDisk();
    bool protective = false;
    for (size_t i = 0; i < kMbrEntries; ++i) protective |= MbrEntryAt(first, i).type == kMbrProtective;
    if (protective && (ReadGpt(1) || ReadGpt(disk_.size() / sector_size_ - 1))) return std::move(found_);
    ReadMbr(first);
    return std::move(found_);
  }

 private:
  Partitions WholeDisk() {
    found_.partitions.push_back({1, 0, disk_.size(), ""});
    return std::move(found_);
  }

  // Sectors to bytes; nothing that does not lie within the disk.
  void Add(uint32_t number, uint64_t first, uint64_t count, std::string type) {
    const uint64_t sectors = disk_.size() / sector_size_;
    if (count == 0 || first == 0 || first >= sectors || count > sectors - first) return;
    found_.partitions.push_back({number, first * sector_size_, count * sector_size_, std::move(type)});
  }

  void ReadMbr(std::string_view sector) {
    found_.table = PartitionTable::kMbr;
    uint64_t extended = 0;
    for (size_t i = 0; i < kMbrEntries; ++i) {
      MbrEntry entry = MbrEntryAt(sector, i);
      if (entry.type == 0) continue;
      if (IsExtended(entry.type)) {
        if (extended == 0) extended = entry.first;
        continue;
      }
      found_.is_dynamic_disk |= entry.type == kMbrDynamic;
      Add(static_cast<uint32_t>(i + 1), entry.first, entry.count, MbrTypeName(entry.type));
    }
    if (extended != 0) ReadLogical(extended);
  }

  // Each logical partition has a table of its own, with a link to the next one.
  void ReadLogical(uint64_t extended) {
    uint64_t at = extended;
    for (uint32_t i = 0; i < kMaxLogicalPartitions; ++i) {
      std::string sector(kMbrBytes, '\0');
      if (at >= disk_.size() / sector_size_) return;
      found_.further_tables.push_back(at * sector_size_);
      if (disk_.Read(at * sector_size_, absl::MakeSpan(sector)) != 0 || !HasMbrSignature(sector)) return;
      MbrEntry own = MbrEntryAt(sector, 0);
      MbrEntry next = MbrEntryAt(sector, 1);
      if (own.type != 0) Add(kFirstLogicalNumber + i, at + own.first, own.count, MbrTypeName(own.type));
      // Links lead forward: what leads back goes round for ever.
      if (!IsExtended(next.type) || extended + next.first <= at) return;
      at = extended + next.first;
    }
  }

  bool ReadGpt(uint64_t sector) {
    std::string header(kGptHeaderBytes, '\0');
    if (sector >= disk_.size() / sector_size_) return false;
    if (disk_.Read(sector * sector_size_, absl::MakeSpan(header)) != 0) return false;
    if (!header.starts_with(kGptSignature)) return false;
    const uint32_t header_size = LoadLe32(header.data() + kGptHeaderSizeAt);
    if (header_size < kGptHeaderBytes || header_size > sector_size_) return false;
    std::string whole(header_size, '\0');
    if (disk_.Read(sector * sector_size_, absl::MakeSpan(whole)) != 0) return false;
    whole.replace(kGptHeaderCrcAt, sizeof(uint32_t), sizeof(uint32_t), '\0');
    if (Crc32(whole) != LoadLe32(header.data() + kGptHeaderCrcAt)) return false;
    std::optional<std::string> entries = ReadGptEntries(header);
    if (!entries.has_value()) return false;
    TakeGptEntries(*entries, LoadLe32(header.data() + kGptEntrySizeAt));
    // The copy of the entries, and in the last sector that of the header.
    const uint64_t copy = 1 + (std::max(entries->size(), kGptMinTableBytes) + sector_size_ - 1) / sector_size_;
    const uint64_t sectors = disk_.size() / sector_size_;
    if (sectors > copy) found_.further_tables.push_back((sectors - copy) * sector_size_);
    return true;
  }

  std::optional<std::string> ReadGptEntries(std::string_view header) const {
    const uint64_t at = LoadLe64(header.data() + kGptEntriesAt);
    const uint32_t count = LoadLe32(header.data() + kGptCountAt);
    const uint32_t size = LoadLe32(header.data() + kGptEntrySizeAt);
    if (count > kGptMaxEntries || size < kGptMinEntryBytes || size > kGptMaxEntryBytes) return std::nullopt;
    if (at >= disk_.size() / sector_size_) return std::nullopt;
    std::string entries(size_t{count} * size, '\0');
    if (disk_.Read(at * sector_size_, absl::MakeSpan(entries)) != 0) return std::nullopt;
    if (Crc32(entries) != LoadLe32(header.data() + kGptEntriesCrcAt)) return std::nullopt;
    return entries;
  }

  void TakeGptEntries(std::string_view entries, uint32_t size) {
    found_.table = PartitionTable::kGpt;
    for (size_t at = 0, number = 1; at < entries.size(); at += size, ++number) {
      const char* entry = entries.data() + at;
      if (std::all_of(entry, entry + kGuidBytes, [](char c) { return c == 0; })) continue;
      const uint64_t first = LoadLe64(entry + 32), last = LoadLe64(entry + 40);
      if (last < first || last == UINT64_MAX) continue;
      std::string type = GuidText(entry);
      for (const GptType& known : kGptTypes) {
        if (type != known.guid) continue;
        type = known.name;
        found_.is_dynamic_disk |= known.dynamic;
        break;
      }
      Add(static_cast<uint32_t>(number), first, last - first + 1, std::move(type));
    }
  }

  const BlockDevice& disk_;
  const uint64_t sector_size_;
  Partitions found_;
};

bool Within(uint64_t offset, size_t length, uint64_t size) { return offset <= size && length <= size - offset; }

}  // namespace

const char* PartitionTableName(PartitionTable table) {
  switch (table) {
    case PartitionTable::kNone: return "none";
    case PartitionTable::kMbr: return "mbr";
    case PartitionTable::kGpt: return "gpt";
  }
  return "none";
}

absl::StatusOr<Partitions> ReadPartitions(const BlockDevice& disk) { return TableReader(disk).Run(); }

int PartitionDevice::Read(uint64_t offset, absl::Span<char> out) const {
  return Within(offset, out.size(), size_) ? disk_->Read(offset_ + offset, out) : EINVAL;
}

int WritablePartitionDevice::Read(uint64_t offset, absl::Span<char> out) const {
  return Within(offset, out.size(), size_) ? disk_->Read(offset_ + offset, out) : EINVAL;
}

int WritablePartitionDevice::Write(uint64_t offset, absl::Span<const char> data) {
  if (!Within(offset, data.size(), size_)) return EINVAL;
  return Within(offset, data.size(), writable_) ? disk_->Write(offset_ + offset, data) : ENOSPC;
}

}  // namespace libmount
