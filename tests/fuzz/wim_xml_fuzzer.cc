// SPDX-License-Identifier: GPL-3.0-or-later
//
// The XML data of a WIM. Inputs are UTF-8, for the fuzzer's sake; those with a byte-order mark go in as they are.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "libmount/base/utf16.h"
#include "libmount/wim/wim_xml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace libmount;  // NOLINT(google-build-using-namespace)
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.substr(0, 2) == "\xff\xfe") {
    (void)ParseWimXml(input, 3, "fuzz.wim");
  } else if (std::optional<std::string> utf16 = Wtf8ToUtf16Le(input)) {
    (void)ParseWimXml(*utf16, 3, "fuzz.wim");
  }
  return 0;
}
