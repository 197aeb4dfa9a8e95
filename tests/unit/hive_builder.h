// SPDX-License-Identifier: GPL-3.0-or-later
//
// Makes files of the Windows registry for tests: enough of the format that libhivex reads them.

#ifndef TESTS_UNIT_HIVE_BUILDER_H_
#define TESTS_UNIT_HIVE_BUILDER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace libmount {

struct HiveValue {
  std::string name;
  uint32_t type = 1;
  std::string data;  // as it lies in the hive

  static HiveValue String(std::string_view name, std::string_view text);
  static HiveValue Strings(std::string_view name, const std::vector<std::string>& texts);
  static HiveValue Number(std::string_view name, uint32_t number);
};

struct HiveKey {
  std::string name;  // ASCII
  std::vector<HiveValue> values;
  std::vector<HiveKey> keys;

  // The key beneath, made where it is not there; `path` with backslashes.
  HiveKey& At(std::string_view path);
};

// `lists_of_lists`: keys with several subkeys get an "ri" of "li" lists instead of one "lh".
std::string BuildHive(const HiveKey& root, bool lists_of_lists = false);

}  // namespace libmount

#endif  // TESTS_UNIT_HIVE_BUILDER_H_
