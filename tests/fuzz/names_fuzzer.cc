// SPDX-License-Identifier: GPL-3.0-or-later
//
// Names and link targets: conversions come back, comparing without case is an order, targets decode or do not.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "libmount/base/utf16.h"
#include "libmount/tree/reparse.h"
#include "libmount/tree/windows.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace libmount;  // NOLINT(google-build-using-namespace)
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view units = input.substr(0, size / 2 * 2);
  if (Wtf8ToUtf16Le(Utf16LeToWtf8(units)) != units) abort();
  if (std::optional<std::string> utf16 = Wtf8ToUtf16Le(input)) {
    if (Utf16LeToWtf8(*utf16) != input) abort();
  }
  const size_t line = std::min(input.find('\n'), size);
  const std::string_view a = input.substr(0, line);
  const std::string_view b = input.substr(std::min(line + 1, size));
  if ((CompareFolded(a, b) < 0) != (CompareFolded(b, a) > 0) || CompareFolded(a, a) != 0) abort();
  for (uint32_t tag : {kReparseSymlink, kReparseMountPoint, kReparseLxSymlink}) {
    std::optional<LinkTarget> target = DecodeLink(tag, input);
    if (!target) continue;
    for (const std::string& component : target->components) {
      if (component.empty() || component.find('/') != component.npos) abort();
    }
    if (target->text.find('/') != target->text.npos) abort();
  }
  return 0;
}
