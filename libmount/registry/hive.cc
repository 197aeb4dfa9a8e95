// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/registry/hive.h"

#include <algorithm>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

// Cells are counted from behind the base block.
constexpr uint32_t kBaseBlockBytes = 4096;
constexpr size_t kRootCellAt = 0x24;
constexpr uint32_t kNoCell = 0xffffffff;

// What is read of a cell at most: names have 255 units, and the texts that are asked for are short.
constexpr size_t kMaxKeyBytes = 0x4c + 512;
constexpr size_t kMaxValueBytes = 0x14 + 512;
constexpr size_t kMaxDataBytes = 16344;  // longer data lie in several cells
constexpr size_t kMaxListBytes = 4 + 8 * 65535;
constexpr size_t kMaxValues = 4096;

// A key: "nk".
constexpr size_t kKeyBytes = 0x4c;
constexpr size_t kKeyFlagsAt = 2, kSubkeyCountAt = 0x14, kSubkeyListAt = 0x1c, kValueCountAt = 0x24;
constexpr size_t kValueListAt = 0x28, kKeyNameSizeAt = 0x48;
constexpr uint16_t kKeyNameIsLatin1 = 0x20;
// A value: "vk".
constexpr size_t kValueBytes = 0x14;
constexpr size_t kValueNameSizeAt = 2, kDataSizeAt = 4, kDataAt = 8, kTypeAt = 0x0c, kValueFlagsAt = 0x10;
constexpr uint16_t kValueNameIsLatin1 = 1;
constexpr uint32_t kDataInPlace = 0x80000000;

constexpr uint32_t kTypeString = 1, kTypeExpandString = 2, kTypeNumber = 4, kTypeStrings = 7;

bool HasSignature(std::string_view cell, std::string_view signature) { return cell.starts_with(signature); }

std::string TextOf(std::string_view bytes, bool latin1) {
  if (!latin1) return Utf16LeToWtf8(bytes);
  std::string utf16;
  for (char c : bytes) AppendLe<uint16_t>(static_cast<uint8_t>(c), utf16);
  return Utf16LeToWtf8(utf16);
}

// Up to the first zero.
std::string StringOf(std::string_view utf16) {
  std::string text = Utf16LeToWtf8(utf16);
  text.resize(std::min(text.size(), text.find('\0')));
  return text;
}

}  // namespace

std::optional<RegistryHive> RegistryHive::Open(ReadFunction read) {
  char base[kRootCellAt + sizeof(uint32_t)];
  if (!read(0, absl::MakeSpan(base)) || std::string_view(base, 4) != "regf") return std::nullopt;
  RegistryHive hive(std::move(read), LoadLe32(base + kRootCellAt));
  if (!hive.NameOf(hive.root_).has_value()) return std::nullopt;
  return hive;
}

// The data of the cell in use there, or its first `most` bytes.
std::optional<std::string> RegistryHive::ReadCell(uint32_t offset, size_t most) const {
  if (offset == kNoCell) return std::nullopt;
  char head[sizeof(uint32_t)];
  const uint64_t at = uint64_t{kBaseBlockBytes} + offset;
  if (!read_(at, absl::MakeSpan(head))) return std::nullopt;
  const int32_t size = LoadLe<int32_t>(head);  // negative: in use
  if (size >= 0 || size == INT32_MIN || static_cast<size_t>(-size) < sizeof(head)) return std::nullopt;
  std::string data(std::min(static_cast<size_t>(-size) - sizeof(head), most), '\0');
  if (!read_(at + sizeof(head), absl::MakeSpan(data))) return std::nullopt;
  return data;
}

std::optional<std::string> RegistryHive::NameOf(Key key) const {
  std::optional<std::string> cell = ReadCell(key, kMaxKeyBytes);
  if (!cell.has_value() || cell->size() < kKeyBytes || !HasSignature(*cell, "nk")) return std::nullopt;
  const size_t size = LoadLe16(cell->data() + kKeyNameSizeAt);
  if (size > cell->size() - kKeyBytes) return std::nullopt;
  const bool latin1 = (LoadLe16(cell->data() + kKeyFlagsAt) & kKeyNameIsLatin1) != 0;
  return TextOf(std::string_view(*cell).substr(kKeyBytes, size), latin1);
}

// A list of keys, or (once) of lists. False when there are enough.
bool RegistryHive::AppendSubkeys(uint32_t list, bool nested, std::vector<Key>* keys) const {
  std::optional<std::string> cell = ReadCell(list, kMaxListBytes);
  if (!cell.has_value() || cell->size() < 4) return true;
  const bool with_hashes = HasSignature(*cell, "lf") || HasSignature(*cell, "lh");
  const bool of_lists = HasSignature(*cell, "ri");
  if (!with_hashes && !HasSignature(*cell, "li") && !of_lists) return true;
  if (of_lists && nested) return true;
  const size_t stride = with_hashes ? 8 : 4;
  const size_t count = std::min<size_t>(LoadLe16(cell->data() + 2), (cell->size() - 4) / stride);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t offset = LoadLe32(cell->data() + 4 + i * stride);
    if (of_lists) {
      if (!AppendSubkeys(offset, /*nested=*/true, keys)) return false;
    } else if (keys->size() == kMaxSubkeys) {
      return false;
    } else {
      keys->push_back(offset);
    }
  }
  return true;
}

std::vector<RegistryHive::Key> RegistryHive::Subkeys(Key key) const {
  std::vector<Key> keys;
  std::optional<std::string> cell = ReadCell(key, kKeyBytes);
  if (!cell.has_value() || cell->size() < kKeyBytes || !HasSignature(*cell, "nk")) return keys;
  if (LoadLe32(cell->data() + kSubkeyCountAt) == 0) return keys;
  AppendSubkeys(LoadLe32(cell->data() + kSubkeyListAt), /*nested=*/false, &keys);
  return keys;
}

std::vector<std::string> RegistryHive::SubkeyNames(Key key) const {
  std::vector<std::string> names;
  for (Key subkey : Subkeys(key)) {
    if (std::optional<std::string> name = NameOf(subkey)) names.push_back(*std::move(name));
  }
  return names;
}

std::optional<RegistryHive::Key> RegistryHive::FindSubkey(Key key, std::string_view name) const {
  for (Key subkey : Subkeys(key)) {
    std::optional<std::string> found = NameOf(subkey);
    if (found.has_value() && EqualFolded(*found, name)) return subkey;
  }
  return std::nullopt;
}

std::optional<RegistryHive::Key> RegistryHive::FindKey(Key from, std::string_view path) const {
  while (!path.empty()) {
    const size_t end = std::min(path.find('\\'), path.size());
    std::optional<Key> next = FindSubkey(from, path.substr(0, end));
    if (!next.has_value()) return std::nullopt;
    from = *next;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return from;
}

std::optional<RegistryHive::Value> RegistryHive::FindValue(Key key, std::string_view name) const {
  std::optional<std::string> cell = ReadCell(key, kKeyBytes);
  if (!cell.has_value() || cell->size() < kKeyBytes || !HasSignature(*cell, "nk")) return std::nullopt;
  const size_t count = std::min<size_t>(LoadLe32(cell->data() + kValueCountAt), kMaxValues);
  if (count == 0) return std::nullopt;
  std::optional<std::string> list = ReadCell(LoadLe32(cell->data() + kValueListAt), count * sizeof(uint32_t));
  if (!list.has_value()) return std::nullopt;
  for (size_t at = 0; at + sizeof(uint32_t) <= list->size(); at += sizeof(uint32_t)) {
    std::optional<std::string> value = ReadCell(LoadLe32(list->data() + at), kMaxValueBytes);
    if (!value.has_value() || value->size() < kValueBytes || !HasSignature(*value, "vk")) continue;
    const size_t name_size = LoadLe16(value->data() + kValueNameSizeAt);
    if (name_size > value->size() - kValueBytes) continue;
    const bool latin1 = (LoadLe16(value->data() + kValueFlagsAt) & kValueNameIsLatin1) != 0;
    if (!EqualFolded(TextOf(std::string_view(*value).substr(kValueBytes, name_size), latin1), name)) continue;

    const uint32_t size = LoadLe32(value->data() + kDataSizeAt);
    const uint32_t type = LoadLe32(value->data() + kTypeAt);
    if ((size & kDataInPlace) != 0) {
      return Value{type, value->substr(kDataAt, std::min<size_t>(size & ~kDataInPlace, sizeof(uint32_t)))};
    }
    if (size > kMaxDataBytes) return std::nullopt;
    std::optional<std::string> data = ReadCell(LoadLe32(value->data() + kDataAt), size);
    if (!data.has_value() || data->size() != size) return std::nullopt;
    return Value{type, *std::move(data)};
  }
  return std::nullopt;
}

std::optional<std::string> RegistryHive::GetString(Key key, std::string_view name) const {
  std::optional<Value> value = FindValue(key, name);
  if (!value.has_value() || (value->type != kTypeString && value->type != kTypeExpandString)) return std::nullopt;
  return StringOf(value->data);
}

std::optional<std::vector<std::string>> RegistryHive::GetStrings(Key key, std::string_view name) const {
  std::optional<Value> value = FindValue(key, name);
  if (!value.has_value() || value->type != kTypeStrings) return std::nullopt;
  const std::string text = Utf16LeToWtf8(value->data);
  std::vector<std::string> strings;
  for (std::string_view rest = text; !rest.empty() && rest.front() != '\0';) {
    const size_t end = std::min(rest.find('\0'), rest.size());
    strings.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return strings;
}

std::optional<uint32_t> RegistryHive::GetNumber(Key key, std::string_view name) const {
  std::optional<Value> value = FindValue(key, name);
  if (!value.has_value() || value->type != kTypeNumber || value->data.size() != sizeof(uint32_t)) return std::nullopt;
  return LoadLe32(value->data.data());
}

}  // namespace libmount
