// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/hive_builder.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kBinHeaderBytes = 32;
constexpr uint32_t kNoCell = 0xffffffff;

class Writer {
 public:
  explicit Writer(bool lists_of_lists) : lists_of_lists_(lists_of_lists), cells_(kBinHeaderBytes, '\0') {}

  std::string Finish(const HiveKey& root) {
    const uint32_t root_cell = WriteKey(root, kNoCell, /*is_root=*/true);
    // What is left of the one bin is a free cell.
    size_t size = (cells_.size() + 8 + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    const auto left = static_cast<int32_t>(size - cells_.size());
    AppendLe(left, cells_);
    cells_.resize(size);
    Put(cells_, 0, "hbin");
    PutLe<uint32_t>(cells_, 8, static_cast<uint32_t>(size));

    std::string base(kBlockBytes, '\0');
    Put(base, 0, "regf");
    PutLe<uint32_t>(base, 4, 1);  // both sequence numbers: cleanly closed
    PutLe<uint32_t>(base, 8, 1);
    PutLe<uint32_t>(base, 0x14, 1);  // version 1.5
    PutLe<uint32_t>(base, 0x18, 5);
    PutLe<uint32_t>(base, 0x20, 1);
    PutLe<uint32_t>(base, 0x24, root_cell);
    PutLe<uint32_t>(base, 0x28, static_cast<uint32_t>(size));
    PutLe<uint32_t>(base, 0x2c, 1);
    uint32_t checksum = 0;
    for (size_t at = 0; at < 0x1fc; at += 4) checksum ^= LoadLe32(base.data() + at);
    PutLe<uint32_t>(base, 0x1fc, checksum);
    return base + cells_;
  }

 private:
  static void Put(std::string& where, size_t at, std::string_view what) {
    memcpy(where.data() + at, what.data(), what.size());
  }
  template <typename T>
  static void PutLe(std::string& where, size_t at, T value) {
    memcpy(where.data() + at, &value, sizeof value);
  }

  uint32_t AddCell(std::string data) {
    const auto at = static_cast<uint32_t>(cells_.size());
    const size_t size = (data.size() + 4 + 7) / 8 * 8;
    AppendLe(-static_cast<int32_t>(size), cells_);
    data.resize(size - 4);
    cells_ += data;
    return at;
  }

  uint32_t WriteValue(const HiveValue& value) {
    std::string cell(0x14, '\0');
    Put(cell, 0, "vk");
    PutLe<uint16_t>(cell, 2, static_cast<uint16_t>(value.name.size()));
    PutLe<uint32_t>(cell, 0x0c, value.type);
    PutLe<uint16_t>(cell, 0x10, 1);
    if (value.data.size() <= 4) {
      PutLe<uint32_t>(cell, 4, 0x80000000 | static_cast<uint32_t>(value.data.size()));
      Put(cell, 8, value.data);
    } else {
      PutLe<uint32_t>(cell, 4, static_cast<uint32_t>(value.data.size()));
      PutLe<uint32_t>(cell, 8, AddCell(value.data));
    }
    return AddCell(cell + value.name);
  }

  static std::string ListHead(const char* signature, size_t count) {
    std::string list = signature;
    AppendLe<uint16_t>(static_cast<uint16_t>(count), list);
    return list;
  }

  uint32_t WriteList(const std::vector<uint32_t>& keys, const std::vector<std::string>& names) {
    if (lists_of_lists_) {
      std::string lists = ListHead("ri", keys.size());
      for (uint32_t key : keys) {
        std::string list = ListHead("li", 1);
        AppendLe(key, list);
        AppendLe(AddCell(std::move(list)), lists);
      }
      return AddCell(std::move(lists));
    }
    std::string list = ListHead("lh", keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      uint32_t hash = 0;
      for (char c : names[i]) hash = hash * 37 + static_cast<uint32_t>(toupper(c));
      AppendLe(keys[i], list);
      AppendLe(hash, list);
    }
    return AddCell(std::move(list));
  }

  uint32_t WriteKey(const HiveKey& key, uint32_t parent, bool is_root) {
    std::string cell(0x4c, '\0');
    Put(cell, 0, "nk");
    PutLe<uint16_t>(cell, 2, static_cast<uint16_t>(0x20 | (is_root ? 0x4 | 0x8 : 0)));
    PutLe<uint32_t>(cell, 0x10, parent);
    for (size_t at : {0x1c, 0x20, 0x28, 0x2c, 0x30}) PutLe<uint32_t>(cell, at, kNoCell);
    PutLe<uint32_t>(cell, 0x14, static_cast<uint32_t>(key.keys.size()));
    PutLe<uint32_t>(cell, 0x24, static_cast<uint32_t>(key.values.size()));
    PutLe<uint16_t>(cell, 0x48, static_cast<uint16_t>(key.name.size()));
    const uint32_t at = AddCell(cell + key.name);
    if (!key.values.empty()) {
      std::string list;
      for (const HiveValue& value : key.values) AppendLe(WriteValue(value), list);
      PutLe<uint32_t>(cells_, at + 4 + 0x28, AddCell(std::move(list)));
    }
    if (!key.keys.empty()) {
      std::vector<const HiveKey*> sorted;
      for (const HiveKey& sub : key.keys) sorted.push_back(&sub);
      std::sort(sorted.begin(), sorted.end(),
                [](const HiveKey* a, const HiveKey* b) { return CompareFolded(a->name, b->name) < 0; });
      std::vector<uint32_t> keys;
      std::vector<std::string> names;
      for (const HiveKey* sub : sorted) {
        keys.push_back(WriteKey(*sub, at, /*is_root=*/false));
        names.push_back(sub->name);
      }
      PutLe<uint32_t>(cells_, at + 4 + 0x1c, WriteList(keys, names));
    }
    return at;
  }

  const bool lists_of_lists_;
  std::string cells_;  // of the one bin, its header included
};

std::string Utf16WithZero(std::string_view text) { return Wtf8ToUtf16Le(text).value_or("") + std::string(2, '\0'); }

}  // namespace

HiveValue HiveValue::String(std::string_view name, std::string_view text) {
  return {std::string(name), 1, Utf16WithZero(text)};
}

HiveValue HiveValue::Strings(std::string_view name, const std::vector<std::string>& texts) {
  HiveValue value{std::string(name), 7, ""};
  for (const std::string& text : texts) value.data += Utf16WithZero(text);
  value.data += std::string(2, '\0');
  return value;
}

HiveValue HiveValue::Number(std::string_view name, uint32_t number) {
  HiveValue value{std::string(name), 4, ""};
  AppendLe(number, value.data);
  return value;
}

HiveKey& HiveKey::At(std::string_view path) {
  if (path.empty()) return *this;
  const size_t end = std::min(path.find('\\'), path.size());
  const std::string_view first = path.substr(0, end);
  path.remove_prefix(std::min(end + 1, path.size()));
  for (HiveKey& key : keys) {
    if (key.name == first) return key.At(path);
  }
  keys.push_back({std::string(first), {}, {}});
  return keys.back().At(path);
}

std::string BuildHive(const HiveKey& root, bool lists_of_lists) { return Writer(lists_of_lists).Finish(root); }

}  // namespace libmount
