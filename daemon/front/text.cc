// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/text.h"

#include <sys/random.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dismd {
namespace {

// Bytes of the well-formed sequence at the start of `text`; 0: there is none.
size_t SequenceLength(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char first = byte(0);
  if (first < 0x80) return 1;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  unsigned char second = byte(1);
  bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  bool surrogate = first == 0xed && second >= 0xa0;
  bool too_large = first == 0xf4 && second >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

std::string ToValidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    size_t length = SequenceLength(text);
    if (length == 0) {
      out += "\xef\xbf\xbd";
      text.remove_prefix(1);
    } else {
      out += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return out;
}

std::string BoundedText(std::string_view text, size_t limit) {
  if (text.size() <= limit) return ToValidUtf8(text);
  // Not in the middle of a sequence.
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return ToValidUtf8(text.substr(0, limit));
}

std::string ElidedText(std::string_view text, size_t limit) {
  if (text.size() <= limit) return ToValidUtf8(text);
  constexpr std::string_view kGap = " [...] ";
  size_t tail = text.size() - (limit - kGap.size()) / 2;
  while (tail < text.size() && (static_cast<unsigned char>(text[tail]) & 0xc0) == 0x80) ++tail;
  return absl::StrCat(BoundedText(text, (limit - kGap.size()) / 2), std::string(kGap), ToValidUtf8(text.substr(tail)));
}

std::string NewId(std::string_view prefix) {
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) abort();  // never fails for so few bytes
  return absl::StrFormat("%s%012x", prefix, random & 0xffffffffffffu);
}

std::string BaseName(std::string_view path) {
  size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

}  // namespace dismd
