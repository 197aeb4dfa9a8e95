// SPDX-License-Identifier: Apache-2.0
//
// Between wchar_t (UTF-32 on Linux) of the C API and the UTF-8 of paths and messages.
//
// Windows names may hold unpaired surrogates; they are kept, as three bytes each (WTF-8), in both directions. A pair of
// surrogates in two wchar_t (text that was copied unit by unit from UTF-16) becomes the one character it stands for.

#ifndef CLIENT_COMMON_UNICODE_H_
#define CLIENT_COMMON_UNICODE_H_

#include <optional>
#include <string>
#include <string_view>

namespace dismd {

// nullopt: a value above 0x10FFFF.
std::optional<std::string> WideToUtf8(std::wstring_view text);

// Bytes that are not (W)UTF-8 become U+FFFD.
std::wstring Utf8ToWide(std::string_view text);

// Strict UTF-8: what the service's messages can carry in a string.
bool IsValidUtf8(std::string_view text);

}  // namespace dismd

#endif  // CLIENT_COMMON_UNICODE_H_
