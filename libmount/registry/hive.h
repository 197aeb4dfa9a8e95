// SPDX-License-Identifier: GPL-3.0-or-later
//
// RegistryHive: reads keys and values of a file of the Windows registry, such as SOFTWARE, with random access: a hive
// has a hundred megabytes, and what is wanted of it a few hundred bytes.
//
// Not libhivex: it opens by path and maps the whole file, and the process that reads images has descriptors and trees
// only. Nothing is ever written. Pending transactions (the .LOG files beside a hive) are not applied: what Windows
// writes about itself into these keys changes with upgrades only.
//
// Format: "Windows registry file format specification", Maxim Suhanov, and libregf's documentation. Everything is
// checked before it is used; a damaged hive has fewer keys.
//
// Thread safety: const methods may be called from several threads at once, if the read function may.

#ifndef LIBMOUNT_REGISTRY_HIVE_H_
#define LIBMOUNT_REGISTRY_HIVE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace libmount {

class RegistryHive {
 public:
  // Reads all of `out` from `offset`; false where it cannot.
  using ReadFunction = std::function<bool(uint64_t offset, absl::Span<char> out)>;
  // A key, valid for this hive.
  using Key = uint32_t;

  // nullopt: not a hive.
  static std::optional<RegistryHive> Open(ReadFunction read);

  Key root() const { return root_; }
  // `path`: names with backslashes between them; compared without case.
  std::optional<Key> FindKey(Key from, std::string_view path) const;
  // The names of the keys beneath, WTF-8, in the hive's order; at most kMaxSubkeys.
  std::vector<std::string> SubkeyNames(Key key) const;

  // nullopt: no such value (compared without case), of another type, or damaged.
  std::optional<std::string> GetString(Key key, std::string_view name) const;                // REG_SZ, REG_EXPAND_SZ
  std::optional<std::vector<std::string>> GetStrings(Key key, std::string_view name) const;  // REG_MULTI_SZ
  std::optional<uint32_t> GetNumber(Key key, std::string_view name) const;                   // REG_DWORD

  // More are never looked at.
  static constexpr size_t kMaxSubkeys = 65536;

 private:
  struct Value {
    uint32_t type;
    std::string data;
  };

  RegistryHive(ReadFunction read, Key root) : read_(std::move(read)), root_(root) {}

  std::optional<std::string> ReadCell(uint32_t offset, size_t most) const;
  std::vector<Key> Subkeys(Key key) const;
  bool AppendSubkeys(uint32_t list, bool nested, std::vector<Key>* keys) const;
  std::optional<std::string> NameOf(Key key) const;
  std::optional<Key> FindSubkey(Key key, std::string_view name) const;
  std::optional<Value> FindValue(Key key, std::string_view name) const;

  ReadFunction read_;
  Key root_;
};

}  // namespace libmount

#endif  // LIBMOUNT_REGISTRY_HIVE_H_
