// SPDX-License-Identifier: GPL-3.0-or-later
//
// A hive of the registry, as a hostile volume holds it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "libmount/registry/hive.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using libmount::RegistryHive;
  std::optional<RegistryHive> hive = RegistryHive::Open([=](uint64_t offset, absl::Span<char> out) {
    if (offset > size || size - offset < out.size()) return false;
    std::copy_n(data + offset, out.size(), out.data());
    return true;
  });
  if (!hive.has_value()) return 0;
  hive->SubkeyNames(hive->root());
  if (std::optional<RegistryHive::Key> key = hive->FindKey(hive->root(), "a\\b")) {
    hive->GetString(*key, "v");
    hive->GetStrings(*key, "v");
    hive->GetNumber(*key, "v");
  }
  return 0;
}
