// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/vhd_format.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstring>
#include <string_view>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/block/big_endian.h"

namespace libmount {
namespace {

constexpr std::string_view kFooterCookie = "conectix";
constexpr std::string_view kHeaderCookie = "cxsparse";
constexpr size_t kFooterChecksumAt = 64;
constexpr size_t kHeaderChecksumAt = 36;
constexpr uint32_t kMajorVersionMask = 0xffff0000;
constexpr uint32_t kVersion1 = 0x00010000;
constexpr size_t kParentNameAt = 64;
constexpr size_t kParentNameSize = 512;
constexpr size_t kLocatorsAt = 576;
constexpr size_t kLocatorSize = 24;
constexpr int kLocatorCount = 8;

absl::Status Bad(std::string text) { return MakeError(Reason::kBadImageFormat, std::move(text)); }

bool StartsWith(absl::Span<const char> bytes, std::string_view cookie) {
  return bytes.size() >= cookie.size() && memcmp(bytes.data(), cookie.data(), cookie.size()) == 0;
}

// The complement of the sum of all bytes but the checksum's own.
uint32_t Checksum(absl::Span<const char> bytes, size_t checksum_at) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i < checksum_at || i >= checksum_at + 4) sum += static_cast<uint8_t>(bytes[i]);
  }
  return ~sum;
}

std::string Utf16BeToWtf8(absl::Span<const char> bytes) {
  std::string swapped;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    if (bytes[i] == 0 && bytes[i + 1] == 0) break;
    swapped.push_back(bytes[i + 1]);
    swapped.push_back(bytes[i]);
  }
  return Utf16LeToWtf8(swapped);
}

std::string CreatorOf(const char* footer) {
  std::string name;
  for (const char* at = footer + 28; at < footer + 32; ++at) {
    if (isprint(static_cast<unsigned char>(*at)) != 0) name.push_back(*at);
  }
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return absl::StrFormat("%s %d.%d", name, LoadBe16(footer + 32), LoadBe16(footer + 34));
}

}  // namespace

bool HasVhdCookie(absl::Span<const char> footer) { return StartsWith(footer, kFooterCookie); }

absl::StatusOr<VhdFooter> ParseVhdFooter(absl::Span<const char> footer) {
  const char* bytes = footer.data();
  if (!HasVhdCookie(footer)) return Bad("no VHD footer");
  if (Checksum(footer, kFooterChecksumAt) != LoadBe32(bytes + kFooterChecksumAt)) {
    return Bad("the VHD footer's checksum does not match");
  }
  if ((LoadBe32(bytes + 12) & kMajorVersionMask) != kVersion1) {
    return Bad(absl::StrFormat("VHD version %#x is not known", LoadBe32(bytes + 12)));
  }
  VhdFooter result;
  result.dynamic_header_offset = LoadBe64(bytes + 16);
  result.creator = CreatorOf(bytes);
  result.original_size = LoadBe64(bytes + 40);
  result.current_size = LoadBe64(bytes + 48);
  result.geometry_size = uint64_t{LoadBe16(bytes + 56)} * static_cast<uint8_t>(bytes[58]) *
                         static_cast<uint8_t>(bytes[59]) * kVhdSectorSize;
  const uint32_t type = LoadBe32(bytes + 60);
  if (type < 2 || type > 4) return Bad(absl::StrFormat("VHD type %d is not fixed, dynamic or differencing", type));
  result.type = static_cast<VhdType>(type);
  memcpy(result.unique_id.data(), bytes + 68, result.unique_id.size());
  if (result.current_size == 0 || result.current_size % kVhdSectorSize != 0 ||
      result.current_size > kVhdMaxVirtualSize) {
    return Bad(absl::StrFormat("a VHD of %d bytes is not possible", result.current_size));
  }
  return result;
}

absl::StatusOr<VhdDynamicHeader> ParseVhdDynamicHeader(absl::Span<const char> header) {
  const char* bytes = header.data();
  if (!StartsWith(header, kHeaderCookie)) return Bad("no dynamic header where the VHD footer says");
  if (Checksum(header, kHeaderChecksumAt) != LoadBe32(bytes + kHeaderChecksumAt)) {
    return Bad("the VHD dynamic header's checksum does not match");
  }
  if ((LoadBe32(bytes + 24) & kMajorVersionMask) != kVersion1) {
    return Bad(absl::StrFormat("VHD dynamic header version %#x is not known", LoadBe32(bytes + 24)));
  }
  VhdDynamicHeader result;
  result.bat_offset = LoadBe64(bytes + 16);
  result.entries = LoadBe32(bytes + 28);
  result.block_size = LoadBe32(bytes + 32);
  if (!std::has_single_bit(result.block_size) || result.block_size < kVhdMinBlockSize ||
      result.block_size > kVhdMaxBlockSize) {
    return Bad(absl::StrFormat("a VHD block size of %d bytes is not possible", result.block_size));
  }
  memcpy(result.parent_id.data(), bytes + 40, result.parent_id.size());
  result.parent_time = LoadBe32(bytes + 56);
  result.parent_name = Utf16BeToWtf8(header.subspan(kParentNameAt, kParentNameSize));
  for (int i = 0; i < kLocatorCount; ++i) {
    const char* entry = bytes + kLocatorsAt + i * kLocatorSize;
    if (LoadBe32(entry) == 0) continue;
    result.locators.push_back({std::string(entry, 4), LoadBe64(entry + 16), LoadBe32(entry + 8)});
  }
  return result;
}

std::string FormatUuid(const std::array<char, 16>& id) {
  std::string text;
  for (size_t i = 0; i < id.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    absl::StrAppendFormat(&text, "%02x", static_cast<uint8_t>(id[i]));
  }
  return text;
}

}  // namespace libmount
