// SPDX-License-Identifier: Apache-2.0

#include "client/common/unicode.h"

#include <cstdint>

namespace dismd {
namespace {

constexpr uint32_t kReplacement = 0xFFFD;
constexpr uint32_t kLastCodePoint = 0x10FFFF;

bool IsHighSurrogate(uint32_t c) { return c >= 0xD800 && c < 0xDC00; }
bool IsLowSurrogate(uint32_t c) { return c >= 0xDC00 && c < 0xE000; }

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else if (c < 0x800) {
    *out += static_cast<char>(0xC0 | c >> 6);
    *out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    *out += static_cast<char>(0xE0 | c >> 12);
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    *out += static_cast<char>(0xF0 | c >> 18);
    *out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

// Decodes one character at the front of `text`, surrogates included, and takes it off; nullopt takes one byte off.
std::optional<uint32_t> TakeCharacter(std::string_view* text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>((*text)[i]); };
  const uint8_t first = byte(0);
  size_t length = first < 0x80 ? 1 : first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : 4;
  uint32_t c = length == 1 ? first : first & (0x7Fu >> length);
  bool valid = (first < 0x80 || first >= 0xC2) && first < 0xF5 && text->size() >= length;
  for (size_t i = 1; valid && i < length; ++i) {
    valid = (byte(i) & 0xC0) == 0x80;
    c = c << 6 | (byte(i) & 0x3F);
  }
  // Overlong forms would let one name be written in two ways.
  valid = valid && !(length == 3 && c < 0x800) && !(length == 4 && (c < 0x10000 || c > kLastCodePoint));
  text->remove_prefix(valid ? length : 1);
  if (!valid) return std::nullopt;
  return c;
}

}  // namespace

std::optional<std::string> WideToUtf8(std::wstring_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char32_t c = static_cast<char32_t>(text[i]);
    if (c > kLastCodePoint) return std::nullopt;
    if (IsHighSurrogate(c) && i + 1 < text.size() && IsLowSurrogate(static_cast<uint32_t>(text[i + 1]))) {
      c = 0x10000 + ((c - 0xD800) << 10) + (static_cast<uint32_t>(text[++i]) - 0xDC00);
    }
    AppendUtf8(c, &result);
  }
  return result;
}

std::wstring Utf8ToWide(std::string_view text) {
  std::wstring result;
  result.reserve(text.size());
  while (!text.empty()) result += static_cast<wchar_t>(TakeCharacter(&text).value_or(kReplacement));
  return result;
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    std::optional<uint32_t> c = TakeCharacter(&text);
    if (!c || IsHighSurrogate(*c) || IsLowSurrogate(*c)) return false;
  }
  return true;
}

}  // namespace dismd
