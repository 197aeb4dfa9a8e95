// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/base/utf16.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>

#include "libmount/base/little_endian.h"

namespace libmount {
namespace {

constexpr uint32_t kBadByte = 0x110000;  // plus the byte: sorts behind every character

constexpr bool IsHighSurrogate(uint32_t c) { return (c & 0xfffffc00) == 0xd800; }
constexpr bool IsLowSurrogate(uint32_t c) { return (c & 0xfffffc00) == 0xdc00; }

struct UpcaseRun {
  uint16_t first;
  uint16_t last;
  uint16_t step;
  uint16_t delta;
};

constexpr UpcaseRun kUpcaseRuns[] = {
#include "libmount/base/upcase_table.inc"
};

// The runs spread out over the pages of 256 units that have any case; most pages share the empty one. 8 KiB instead of
// the 128 KiB of a plain table, and as fast.
class UpcaseTable {
 public:
  constexpr UpcaseTable() {
    for (const UpcaseRun& run : kUpcaseRuns) {
      for (uint32_t unit = run.first; unit <= run.last; unit += run.step) {
        uint8_t& page = page_of_[unit >> 8];
        if (page == 0) page = ++pages_used_;
        deltas_[page][unit & 0xff] = run.delta;
      }
    }
  }

  constexpr char16_t Map(char16_t unit) const {
    return static_cast<char16_t>(unit + deltas_[page_of_[unit >> 8]][unit & 0xff]);
  }

 private:
  static constexpr size_t kMaxPages = 20;
  std::array<uint8_t, 256> page_of_ = {};
  std::array<std::array<uint16_t, 256>, kMaxPages> deltas_ = {};
  uint8_t pages_used_ = 0;
};

constexpr UpcaseTable kUpcase;

// Writes the bytes of a code point and returns their end.
char* PutCodePoint(uint32_t c, char* out) {
  if (c < 0x80) {
    *out++ = static_cast<char>(c);
  } else if (c < 0x800) {
    *out++ = static_cast<char>(0xc0 | c >> 6);
    *out++ = static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *out++ = static_cast<char>(0xe0 | c >> 12);
    *out++ = static_cast<char>(0x80 | (c >> 6 & 0x3f));
    *out++ = static_cast<char>(0x80 | (c & 0x3f));
  } else {
    *out++ = static_cast<char>(0xf0 | c >> 18);
    *out++ = static_cast<char>(0x80 | (c >> 12 & 0x3f));
    *out++ = static_cast<char>(0x80 | (c >> 6 & 0x3f));
    *out++ = static_cast<char>(0x80 | (c & 0x3f));
  }
  return out;
}

// Takes one code point (surrogates included) off the front; kBadByte + byte where there is none.
// REQUIRES: !text.empty().
uint32_t TakeCodePoint(std::string_view& text) {
  auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  size_t length = 1;
  uint32_t c = lead;
  uint32_t least = 0;
  if (lead >= 0x80) {
    if ((lead & 0xe0) == 0xc0) {
      length = 2, c = lead & 0x1f, least = 0x80;
    } else if ((lead & 0xf0) == 0xe0) {
      length = 3, c = lead & 0x0f, least = 0x800;
    } else if ((lead & 0xf8) == 0xf0) {
      length = 4, c = lead & 0x07, least = 0x10000;
    } else {
      length = 5;  // not a lead byte
    }
    bool valid = length <= text.size() && length < 5;
    for (size_t i = 1; valid && i < length; ++i) {
      valid = (byte(i) & 0xc0) == 0x80;
      c = c << 6 | (byte(i) & 0x3f);
    }
    if (!valid || c < least || c > 0x10ffff) {
      text.remove_prefix(1);
      return kBadByte + lead;
    }
  }
  text.remove_prefix(length);
  return c;
}

// Eight bytes at a time: names that lie together begin alike.
size_t CommonPrefix(std::string_view a, std::string_view b) {
  const size_t most = std::min(a.size(), b.size());
  size_t same = 0;
  for (; same + sizeof(uint64_t) <= most; same += sizeof(uint64_t)) {
    const uint64_t difference = LoadLe64(a.data() + same) ^ LoadLe64(b.data() + same);
    if (difference != 0) return same + static_cast<size_t>(std::countr_zero(difference)) / 8;
  }
  while (same < most && a[same] == b[same]) ++same;
  return same;
}

uint32_t FoldCodePoint(uint32_t c) { return c < 0x10000 ? kUpcase.Map(static_cast<char16_t>(c)) : c; }

}  // namespace

void AppendUtf16Le(std::string_view bytes, std::string& out) {
  auto unit = [bytes](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(bytes[2 * i]) | static_cast<uint8_t>(bytes[2 * i + 1]) << 8);
  };
  const size_t units = bytes.size() / 2;
  // By way of a buffer: half the time of appending byte by byte, and a directory tree has a million of them.
  constexpr size_t kBufferUnits = 256;
  constexpr size_t kMaxCodePointSize = 4;
  char buffer[MaxWtf8Size(kBufferUnits) + kMaxCodePointSize];
  for (size_t i = 0; i < units;) {
    char* end = buffer;
    const size_t stop = std::min(units, i + kBufferUnits);
    for (; i < stop; ++i) {
      // Four at a time as long as they are ASCII, as nearly all names are.
      while (i + 4 <= stop) {
        const uint64_t four = LoadLe64(bytes.data() + 2 * i);
        if ((four & 0xff80ff80ff80ff80) != 0) break;
        const uint64_t two_pairs = (four | four >> 8) & 0x0000ffff0000ffff;
        const uint32_t packed = static_cast<uint32_t>(two_pairs | two_pairs >> 16);
        memcpy(end, &packed, sizeof packed);
        end += sizeof packed;
        i += 4;
      }
      if (i == stop) break;
      uint32_t c = unit(i);
      if (c < 0x80) {
        *end++ = static_cast<char>(c);
        continue;
      }
      if (IsHighSurrogate(c) && i + 1 < units && IsLowSurrogate(unit(i + 1))) {
        c = 0x10000 + ((c & 0x3ff) << 10) + (unit(++i) & 0x3ff);
      }
      end = PutCodePoint(c, end);
    }
    out.append(buffer, static_cast<size_t>(end - buffer));
  }
}

std::string Utf16LeToWtf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() / 2);
  AppendUtf16Le(bytes, out);
  return out;
}

std::optional<std::string> Wtf8ToUtf16Le(std::string_view wtf8) {
  std::string out;
  out.reserve(2 * wtf8.size());
  auto append_unit = [&out](uint32_t unit) {
    out.push_back(static_cast<char>(unit));
    out.push_back(static_cast<char>(unit >> 8));
  };
  bool after_high_surrogate = false;
  while (!wtf8.empty()) {
    uint32_t c = TakeCodePoint(wtf8);
    if (c >= kBadByte) return std::nullopt;
    // A pair written as two three-byte sequences would come back as four bytes: not WTF-8.
    if (after_high_surrogate && IsLowSurrogate(c)) return std::nullopt;
    after_high_surrogate = IsHighSurrogate(c);
    if (c >= 0x10000) {
      append_unit(0xd800 + ((c - 0x10000) >> 10));
      append_unit(0xdc00 + ((c - 0x10000) & 0x3ff));
    } else {
      append_unit(c);
    }
  }
  return out;
}

char16_t UpcaseUnit(char16_t unit) { return kUpcase.Map(unit); }

int CompareFolded(std::string_view a, std::string_view b) {
  // The common prefix needs no decoding, but the first difference may lie inside a character: step back to its start.
  size_t same = CommonPrefix(a, b);
  auto inside_character = [&same](std::string_view text) {
    return same < text.size() && (static_cast<uint8_t>(text[same]) & 0xc0) == 0x80;
  };
  while (same > 0 && (inside_character(a) || inside_character(b))) --same;
  a.remove_prefix(same);
  b.remove_prefix(same);
  while (!a.empty() && !b.empty()) {
    uint32_t fold_a = FoldCodePoint(TakeCodePoint(a));
    uint32_t fold_b = FoldCodePoint(TakeCodePoint(b));
    if (fold_a != fold_b) return fold_a < fold_b ? -1 : 1;
  }
  return static_cast<int>(!a.empty()) - static_cast<int>(!b.empty());
}

void AppendFolded(std::string_view wtf8, std::string& out) {
  while (!wtf8.empty()) {
    const auto byte = static_cast<uint8_t>(wtf8.front());
    if (byte < 0x80) {
      out.push_back(byte >= 'a' && byte <= 'z' ? static_cast<char>(byte - 'a' + 'A') : static_cast<char>(byte));
      wtf8.remove_prefix(1);
      continue;
    }
    const uint32_t c = FoldCodePoint(TakeCodePoint(wtf8));
    if (c >= kBadByte) {
      out.push_back(static_cast<char>(c - kBadByte));  // alone it is no character's form
      continue;
    }
    char buffer[4];
    out.append(buffer, static_cast<size_t>(PutCodePoint(c, buffer) - buffer));
  }
}

}  // namespace libmount
