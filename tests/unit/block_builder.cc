// SPDX-License-Identifier: GPL-3.0-or-later
#include "tests/unit/block_builder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/block/big_endian.h"

namespace libmount {
namespace {

constexpr uint64_t kMiB = 1 << 20;

void Put(std::string& file, uint64_t offset, const std::string& bytes) {
  if (file.size() < offset + bytes.size()) file.resize(offset + bytes.size());
  file.replace(offset, bytes.size(), bytes);
}

template <typename T>
std::string Le(T value) {
  std::string bytes;
  AppendLe(value, bytes);
  return bytes;
}
template <typename T>
std::string Be(T value) {
  std::string bytes;
  AppendBe(value, bytes);
  return bytes;
}

// The GUID's bytes from its text, lower case.
std::string GuidBytes(const std::string& text) {
  std::string plain;
  for (char c : text) {
    if (c != '-') plain.push_back(c);
  }
  std::string bytes;
  for (int place : {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}) {
    bytes.push_back(static_cast<char>(std::stoi(plain.substr(static_cast<size_t>(place) * 2, 2), nullptr, 16)));
  }
  return bytes;
}

std::string Utf16(const std::string& text) { return *Wtf8ToUtf16Le(text); }

void SetChecksum(std::string& file, uint64_t offset, size_t size) {
  const uint32_t checksum = VhdxChecksum(absl::MakeConstSpan(file).subspan(offset, size), 4);
  memcpy(file.data() + offset + 4, &checksum, sizeof checksum);
}

std::string Locator(const BuiltParent& parent) {
  std::vector<std::pair<std::string, std::string>> pairs = {{"parent_linkage", parent.linkage}};
  if (!parent.relative.empty()) pairs.emplace_back("relative_path", parent.relative);
  if (!parent.absolute.empty()) pairs.emplace_back("absolute_win32_path", parent.absolute);
  std::string bytes =
      GuidBytes("b04aefb7-d19e-4a81-b789-25b8e9445913") + Le(uint16_t{0}) + Le(static_cast<uint16_t>(pairs.size()));
  std::string texts;
  const size_t texts_at = bytes.size() + 12 * pairs.size();
  for (const auto& [key, value] : pairs) {
    bytes += Le(static_cast<uint32_t>(texts_at + texts.size()));
    const std::string key_text = Utf16(key);
    const std::string value_text = Utf16(value);
    bytes += Le(static_cast<uint32_t>(texts_at + texts.size() + key_text.size()));
    bytes += Le(static_cast<uint16_t>(key_text.size())) + Le(static_cast<uint16_t>(value_text.size()));
    texts += key_text + value_text;
  }
  return bytes + texts;
}

void PutMetadata(std::string& file, const VhdxPlan& plan) {
  std::vector<std::pair<std::string, std::string>> items = {
      {"caa16737-fa36-4d43-b3b6-33f0aa44e76b", Le(plan.block_size) + Le(uint32_t{plan.has_parent ? 2u : 0u})},
      {"2fa54224-cd1b-4876-b211-5dbed83bf4b8", Le(plan.virtual_size)},
      {"beca12ab-b2e6-4523-93ef-c309e000c746", std::string(16, 'i')},
      {"8141bf1d-a96f-4709-ba47-f233a8faab5f", Le(plan.sector_size)},
      {"cda348c7-445d-4471-9cc9-e9885251c556", Le(uint32_t{4096})}};
  if (plan.has_parent) items.emplace_back("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", Locator(plan.parent));
  Put(file, kBuiltMetadata, "metadata" + Le(uint16_t{0}) + Le(static_cast<uint16_t>(items.size())));
  uint32_t at = 64 << 10;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& [id, bytes] = items[i];
    Put(file, kBuiltMetadata + 32 + 32 * i,
        GuidBytes(id) + Le(at) + Le(static_cast<uint32_t>(bytes.size())) + Le(uint32_t{4}) + Le(uint32_t{0}));
    Put(file, kBuiltMetadata + at, bytes);
    at += static_cast<uint32_t>((bytes.size() + 7) / 8 * 8);
  }
}

void PutRegions(std::string& file, uint32_t bat_size) {
  for (uint64_t offset : kVhdxRegionTableOffsets) {
    Put(file, offset, "regi" + Le(uint32_t{0}) + Le(uint32_t{2}) + Le(uint32_t{0}));
    Put(file, offset + 16,
        GuidBytes("2dc27766-f623-4200-9d64-115e9bfd4a08") + Le(kBuiltBat) + Le(bat_size) + Le(uint32_t{1}));
    Put(file, offset + 48,
        GuidBytes("8b7ca206-4790-4b9a-b8fe-575f050f886e") + Le(kBuiltMetadata) + Le(static_cast<uint32_t>(kMiB)) +
            Le(uint32_t{1}));
    SetChecksum(file, offset, kVhdxRegionTableSize);
  }
}

// Puts a block, and its bits into the bitmap block of its chunk; that is made where it is not there yet.
void PutVhdxBlock(std::string& file, const VhdxGeometry& geometry, uint64_t block, const BuiltBlock& built) {
  const uint64_t place = (file.size() + kMiB - 1) / kMiB * kMiB;
  std::string data = built.data;
  data.resize(geometry.block_size);
  Put(file, place, data);
  const uint64_t state = built.present.empty() ? 6 : 7;
  Put(file, kBuiltBat + geometry.payload_entry(block) * 8, Le(place | state));
  if (built.present.empty()) return;
  const uint64_t entry_at = kBuiltBat + geometry.bitmap_entry(block) * 8;
  uint64_t bitmap = LoadLe64(file.data() + entry_at) & ~(kMiB - 1);
  if (bitmap == 0) {
    bitmap = file.size();
    Put(file, bitmap, std::string(kMiB, '\0'));
    Put(file, entry_at, Le(bitmap | 6));
  }
  const uint64_t sectors = geometry.block_size / geometry.sector_size;
  for (uint64_t i = 0; i < built.present.size(); ++i) {
    const uint64_t bit = block % geometry.ratio() * sectors + i;
    if (built.present[i]) file[bitmap + bit / 8] |= static_cast<char>(1 << (bit % 8));
  }
}

}  // namespace

std::string BuildVhdx(const VhdxPlan& plan) {
  const VhdxGeometry geometry = {plan.virtual_size, plan.block_size, plan.sector_size, plan.has_parent};
  const uint64_t bat_size = (geometry.bat_entries() * 8 + kMiB - 1) / kMiB * kMiB;
  std::string file = "vhdxfile" + Utf16("dismd test");
  file.resize(kBuiltBat + bat_size);
  VhdxHeader header;
  header.sequence_number = 7;
  header.file_write_guid.fill('f');
  header.data_write_guid.fill(plan.data_write_byte);
  header.log_size = kMiB;
  header.log_offset = kBuiltLog;
  Put(file, kVhdxHeaderOffsets[1], EncodeVhdxHeader(header));
  --header.sequence_number;
  Put(file, kVhdxHeaderOffsets[0], EncodeVhdxHeader(header));
  PutRegions(file, static_cast<uint32_t>(bat_size));
  PutMetadata(file, plan);
  for (const auto& [block, entry] : plan.raw_entries) {
    Put(file, kBuiltBat + geometry.payload_entry(block) * 8, Le(entry));
    file.resize(std::max<size_t>(file.size(), VhdxOffsetOf(entry) == 0 ? 0 : VhdxOffsetOf(entry) + plan.block_size));
  }
  for (const auto& [block, built] : plan.blocks) PutVhdxBlock(file, geometry, block, built);
  return file;
}

void AddLog(std::string& vhdx, const std::vector<LogEntryPlan>& entries) {
  VhdxHeader header = *ParseVhdxHeader(absl::MakeConstSpan(vhdx).subspan(kVhdxHeaderOffsets[1], kVhdxHeaderSize));
  header.log_guid.fill('l');
  header.sequence_number += 2;
  Put(vhdx, kVhdxHeaderOffsets[1], EncodeVhdxHeader(header));
  const uint64_t file_size = vhdx.size();
  for (const LogEntryPlan& plan : entries) {
    std::string descriptors;
    std::string sectors;
    for (const LogWrite& write : plan.writes) {
      if (write.bytes.empty()) {
        descriptors += "zero" + Le(uint32_t{0}) + Le(write.zero_size);
      } else {
        descriptors += "desc" + write.bytes.substr(4092) + write.bytes.substr(0, 8);
        sectors += "data" + Le(static_cast<uint32_t>(plan.sequence_number >> 32)) + write.bytes.substr(8, 4084) +
                   Le(static_cast<uint32_t>(plan.sequence_number));
      }
      descriptors += Le(write.offset) + Le(plan.sequence_number);
    }
    std::string entry(64, '\0');
    entry += descriptors;
    entry.resize((entry.size() + 4095) / 4096 * 4096);
    entry += sectors;
    Put(entry, 0,
        "loge" + Le(uint32_t{0}) + Le(static_cast<uint32_t>(entry.size())) + Le(plan.tail) + Le(plan.sequence_number) +
            Le(static_cast<uint32_t>(plan.writes.size())) + Le(uint32_t{0}) + std::string(16, 'l') + Le(file_size) +
            Le(plan.last_file_size == 0 ? file_size : plan.last_file_size));
    SetChecksum(entry, 0, entry.size());
    for (size_t i = 0; i < entry.size(); i += 4096) {  // the log is a ring
      Put(vhdx, kBuiltLog + (plan.at + i) % kMiB, entry.substr(i, 4096));
    }
  }
}

std::string BuildVhd(const VhdPlan& plan) {
  auto checksum = [](std::string& bytes, size_t at) {
    uint32_t sum = 0;
    for (char byte : bytes) sum += static_cast<uint8_t>(byte);
    StoreBe32(~sum, bytes.data() + at);
  };
  std::string footer = "conectix" + Be(uint32_t{2}) + Be(uint32_t{0x10000}) + Be(uint64_t{512}) + Be(uint32_t{0}) +
                       "dism" + Be(uint32_t{0x10000}) + "Wi2k" + Be(plan.virtual_size) + Be(plan.virtual_size) +
                       Be(uint32_t{0}) + Be(uint32_t{plan.has_parent ? 4u : 3u}) + Be(uint32_t{0}) + plan.unique_id;
  footer.resize(512);
  checksum(footer, 64);
  const uint32_t blocks = static_cast<uint32_t>((plan.virtual_size + plan.block_size - 1) / plan.block_size);
  constexpr uint64_t kBat = 1536;
  const uint64_t locators = kBat + (blocks * 4 + 511) / 512 * 512;
  std::string header = "cxsparse" + Be(~uint64_t{0}) + Be(kBat) + Be(uint32_t{0x10000}) + Be(blocks) +
                       Be(plan.block_size) + Be(uint32_t{0}) +
                       (plan.has_parent ? plan.parent.linkage : std::string(16, '\0'));
  header.resize(1024);
  std::string file(locators, '\0');
  std::fill(file.begin() + kBat, file.begin() + static_cast<ptrdiff_t>(kBat + blocks * 4), '\xff');
  size_t entry_at = 576;
  for (const auto& [platform, path] : {std::pair("W2ru", plan.parent.relative), {"W2ku", plan.parent.absolute}}) {
    if (!plan.has_parent || path.empty()) continue;
    const std::string text = Utf16(path);
    Put(header, entry_at,
        platform + Be(uint32_t{1}) + Be(static_cast<uint32_t>(text.size())) + Be(uint32_t{0}) +
            Be(uint64_t{file.size()}));
    entry_at += 24;
    Put(file, file.size(), text);
    file.resize((file.size() + 511) / 512 * 512);
  }
  checksum(header, 36);
  Put(file, 0, footer);
  Put(file, 512, header);
  const uint32_t sectors = plan.block_size / 512;
  for (const auto& [block, built] : plan.blocks) {
    std::string bitmap(std::max<size_t>(512, sectors / 8), built.present.empty() ? '\xff' : '\0');
    for (size_t i = 0; i < built.present.size(); ++i) {
      if (built.present[i]) bitmap[i / 8] |= static_cast<char>(0x80 >> (i % 8));
    }
    Put(file, kBat + block * 4, Be(static_cast<uint32_t>(file.size() / 512)));
    std::string data = built.data;
    data.resize(plan.block_size);
    file += bitmap + data;
  }
  return file + footer;
}

}  // namespace libmount
