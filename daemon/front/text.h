// SPDX-License-Identifier: GPL-3.0-or-later
//
// Small helpers for texts that others wrote, and for ids.

#ifndef DAEMON_FRONT_TEXT_H_
#define DAEMON_FRONT_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace dismd {

// `text` with every byte that is not part of valid UTF-8 replaced by U+FFFD: paths are bytes, protobuf strings are not.
std::string ToValidUtf8(std::string_view text);

// The same, of at most `limit` bytes of `text`.
std::string BoundedText(std::string_view text, size_t limit);

// The same, of its start and its end, if it is longer than `limit` bytes: what to do next stands at a message's end.
std::string ElidedText(std::string_view text, size_t limit);

// `prefix` and 12 random hexadecimal digits.
std::string NewId(std::string_view prefix);

// The last component of a path.
std::string BaseName(std::string_view path);

}  // namespace dismd

#endif  // DAEMON_FRONT_TEXT_H_
