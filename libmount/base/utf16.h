// SPDX-License-Identifier: GPL-3.0-or-later
//
// Names between Windows and Linux: UTF-16LE as it lies in an image, WTF-8 as the kernel and the user see it.
//
// WTF-8 is UTF-8 in which an unpaired surrogate is kept as three bytes, so that every sequence of 16-bit units that
// NTFS takes for a name has a form in bytes, and comes back from it unchanged. (A pair becomes four bytes, always.)
//
// Comparing without case follows NTFS: one unit to one unit, by the table that NTFS volumes carry. Nothing depends on
// the locale; characters beyond the BMP have no case.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_BASE_UTF16_H_
#define LIBMOUNT_BASE_UTF16_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace libmount {

// The largest number of WTF-8 bytes that a name of `units` UTF-16 units needs.
constexpr size_t MaxWtf8Size(size_t units) { return 3 * units; }

// Appends the WTF-8 form of `bytes` (UTF-16LE; an odd last byte is ignored).
void AppendUtf16Le(std::string_view bytes, std::string& out);
std::string Utf16LeToWtf8(std::string_view bytes);

// The UTF-16LE bytes of a WTF-8 string; nullopt where it is not WTF-8 (overlong, truncated, beyond U+10FFFF).
std::optional<std::string> Wtf8ToUtf16Le(std::string_view wtf8);

// The upper-case form of a unit, as NTFS compares names. Surrogates map to themselves.
char16_t UpcaseUnit(char16_t unit);

// Compares two WTF-8 strings without case: negative, 0, positive. A total order: bytes that are not WTF-8 sort behind
// every character and equal only themselves.
int CompareFolded(std::string_view a, std::string_view b);

// Appends a form of the string that is the same for all strings that are equal without case, and for no others.
void AppendFolded(std::string_view wtf8, std::string& out);

inline bool EqualFolded(std::string_view a, std::string_view b) { return CompareFolded(a, b) == 0; }

}  // namespace libmount

#endif  // LIBMOUNT_BASE_UTF16_H_
