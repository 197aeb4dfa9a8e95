// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/tree/names.h"

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>

#include "libmount/base/utf16.h"
#include "libmount/tree/windows.h"

namespace libmount {

int CheckName(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return EINVAL;
  bool ascii = true;
  for (char c : name) {
    if (c == '/' || c == '\0') return EINVAL;
    ascii = ascii && static_cast<uint8_t>(c) < 0x80;
  }
  size_t units = name.size();
  if (!ascii) {
    std::optional<std::string> utf16 = Wtf8ToUtf16Le(name);
    if (!utf16) return EINVAL;
    units = utf16->size() / 2;
  }
  return units > kMaxNameUnits ? ENAMETOOLONG : 0;
}

}  // namespace libmount
