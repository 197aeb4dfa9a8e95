// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/tree/tagged_items.h"

#include <algorithm>

#include "libmount/base/little_endian.h"

namespace libmount {
namespace {

constexpr size_t kItemHeaderSize = 8;
constexpr size_t kTagMinSize = 1;
constexpr size_t kMaxEaSize = 65535;  // of all EAs of a file, as on NTFS

bool StartsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

struct Item {
  uint32_t tag = 0;
  std::string_view data;
  std::string_view whole;  // with header and padding
};

// Takes the first item off; false at the end or at what is none.
bool TakeItem(std::string_view& items, Item& item) {
  if (items.size() < kItemHeaderSize) return false;
  const uint64_t size = LoadLe32(items.data() + 4);
  if (size > items.size() - kItemHeaderSize) return false;
  item.tag = LoadLe32(items.data());
  item.data = items.substr(kItemHeaderSize, size);
  item.whole = items.substr(0, kItemHeaderSize + RoundUp(size, 8));
  items.remove_prefix(item.whole.size());
  return true;
}

void AppendItem(uint32_t tag, std::string_view data, std::string& out) {
  if (data.empty()) return;
  out.append(RoundUp(out.size(), 8) - out.size(), '\0');  // a last item need not be padded
  AppendLe(tag, out);
  AppendLe(static_cast<uint32_t>(data.size()), out);
  out += data;
  out.append(RoundUp(data.size(), 8) - data.size(), '\0');
}

void VisitExtendedAttributes(std::string_view item, ExtendedAttributeVisitor visitor) {
  constexpr size_t kHeaderSize = 4;
  while (item.size() > kHeaderSize) {
    const size_t value_size = LoadLe16(item.data());
    const size_t name_size = static_cast<uint8_t>(item[2]);
    const size_t size = kHeaderSize + name_size + 1 + value_size;
    if (name_size == 0 || size > item.size()) return;
    ExtendedAttribute attribute{item.substr(kHeaderSize, name_size), item.substr(size - value_size, value_size),
                                static_cast<uint8_t>(item[3])};
    if (attribute.name.find('\0') == attribute.name.npos && !visitor(attribute)) return;
    item.remove_prefix(size);
  }
}

void AppendExtendedAttribute(const ExtendedAttribute& attribute, std::string& out) {
  AppendLe(static_cast<uint16_t>(attribute.value.size()), out);
  out.push_back(static_cast<char>(attribute.name.size()));
  out.push_back(static_cast<char>(attribute.flags));
  out += attribute.name;
  out.push_back('\0');
  out += attribute.value;
}

// [ u16 name size ][ u16 0 ][ u32 value size ][ name ][ value ], padded to a multiple of 4 ...
void VisitOldLinuxXattrs(std::string_view item, ExtendedAttributeVisitor visitor) {
  constexpr size_t kHeaderSize = 8;
  while (item.size() > kHeaderSize) {
    const uint64_t name_size = LoadLe16(item.data());
    const uint64_t value_size = LoadLe32(item.data() + 4);
    const uint64_t size = kHeaderSize + name_size + value_size;
    if (name_size == 0 || size > item.size()) return;
    ExtendedAttribute attribute{item.substr(kHeaderSize, name_size), item.substr(kHeaderSize + name_size, value_size)};
    if (attribute.name.find('\0') == attribute.name.npos && !visitor(attribute)) return;
    item.remove_prefix(std::min<uint64_t>(item.size(), RoundUp(size, 4)));
  }
}

// Of one attribute in ntfs-3g's form. False: malformed.
bool TakeNtfsEa(std::string_view& eas, ExtendedAttribute& attribute) {
  constexpr size_t kHeaderSize = 8;
  if (eas.size() < kHeaderSize) return false;
  const uint64_t entry_size = LoadLe32(eas.data());
  attribute.flags = static_cast<uint8_t>(eas[4]);
  const size_t name_size = static_cast<uint8_t>(eas[5]);
  const size_t value_size = LoadLe16(eas.data() + 6);
  const size_t used = kHeaderSize + name_size + 1 + value_size;
  if (name_size == 0 || used > eas.size() || entry_size < used || entry_size > RoundUp(used, 4)) return false;
  attribute.name = eas.substr(kHeaderSize, name_size);
  attribute.value = eas.substr(kHeaderSize + name_size + 1, value_size);
  if (attribute.name.find('\0') != attribute.name.npos) return false;
  eas.remove_prefix(std::min<uint64_t>(entry_size, eas.size()));
  return true;
}

}  // namespace

std::string_view FindTaggedItem(std::string_view tagged_items, uint32_t tag, size_t min_size) {
  Item item;
  while (TakeItem(tagged_items, item)) {
    if (item.tag == tag && item.data.size() >= min_size) return item.data;
  }
  return {};
}

std::string ReplaceTaggedItem(std::string_view tagged_items, uint32_t tag, std::string_view data) {
  std::string result;
  bool replaced = false;
  Item item;
  while (TakeItem(tagged_items, item)) {
    if (item.tag != tag) {
      result += item.whole;
    } else if (!replaced) {
      AppendItem(tag, data, result);
      replaced = true;
    }
  }
  if (!replaced) AppendItem(tag, data, result);
  return result;
}

bool HasLinuxName(std::string_view name) {
  return StartsWith(name, "user.") || StartsWith(name, "security.") || StartsWith(name, "system.") ||
         StartsWith(name, "trusted.");
}

void VisitLinuxXattrs(std::string_view tagged_items, ExtendedAttributeVisitor visitor) {
  std::string_view item = FindTaggedItem(tagged_items, kTagExtendedAttributes, kTagMinSize);
  if (item.empty()) {
    VisitOldLinuxXattrs(FindTaggedItem(tagged_items, kTagLinuxXattrsOld, kTagMinSize), visitor);
    return;
  }
  VisitExtendedAttributes(
      item, [&](const ExtendedAttribute& attribute) { return !HasLinuxName(attribute.name) || visitor(attribute); });
}

std::optional<std::string_view> FindLinuxXattr(std::string_view tagged_items, std::string_view name) {
  std::optional<std::string_view> found;
  VisitLinuxXattrs(tagged_items, [&](const ExtendedAttribute& attribute) {
    if (attribute.name != name) return true;
    found = attribute.value;
    return false;
  });
  return found;
}

std::string RemoveLinuxXattr(std::string_view tagged_items, std::string_view name) {
  std::string kept;
  std::string_view item = FindTaggedItem(tagged_items, kTagExtendedAttributes, kTagMinSize);
  if (!item.empty()) {
    VisitExtendedAttributes(item, [&](const ExtendedAttribute& attribute) {
      if (attribute.name != name) AppendExtendedAttribute(attribute, kept);
      return true;
    });
    return ReplaceTaggedItem(tagged_items, kTagExtendedAttributes, kept);
  }
  item = FindTaggedItem(tagged_items, kTagLinuxXattrsOld, kTagMinSize);
  VisitOldLinuxXattrs(item, [&](const ExtendedAttribute& attribute) {
    if (attribute.name == name) return true;
    AppendLe(static_cast<uint16_t>(attribute.name.size()), kept);
    AppendLe(uint16_t{0}, kept);
    AppendLe(static_cast<uint32_t>(attribute.value.size()), kept);
    kept += attribute.name;
    kept += attribute.value;
    kept.append(RoundUp(kept.size(), 4) - kept.size(), '\0');
    return true;
  });
  return ReplaceTaggedItem(tagged_items, kTagLinuxXattrsOld, kept);
}

std::string NtfsEas(std::string_view tagged_items) {
  std::string eas;
  std::string_view item = FindTaggedItem(tagged_items, kTagExtendedAttributes, kTagMinSize);
  VisitExtendedAttributes(item, [&](const ExtendedAttribute& attribute) {
    if (HasLinuxName(attribute.name)) return true;
    const size_t size = 8 + attribute.name.size() + 1 + attribute.value.size();
    const size_t padded = RoundUp(size, 4);
    AppendLe(static_cast<uint32_t>(padded), eas);
    eas.push_back(static_cast<char>(attribute.flags));
    eas.push_back(static_cast<char>(attribute.name.size()));
    AppendLe(static_cast<uint16_t>(attribute.value.size()), eas);
    eas += attribute.name;
    eas.push_back('\0');
    eas += attribute.value;
    eas.append(padded - size, '\0');
    return true;
  });
  return eas;
}

std::optional<std::string> ReplaceNtfsEas(std::string_view tagged_items, std::string_view eas) {
  if (eas.size() > kMaxEaSize) return std::nullopt;
  std::string item;
  while (!eas.empty()) {
    ExtendedAttribute attribute;
    if (!TakeNtfsEa(eas, attribute) || HasLinuxName(attribute.name)) return std::nullopt;
    AppendExtendedAttribute(attribute, item);
  }
  VisitExtendedAttributes(FindTaggedItem(tagged_items, kTagExtendedAttributes, kTagMinSize),
                          [&](const ExtendedAttribute& attribute) {
                            if (HasLinuxName(attribute.name)) AppendExtendedAttribute(attribute, item);
                            return true;
                          });
  return ReplaceTaggedItem(tagged_items, kTagExtendedAttributes, item);
}

}  // namespace libmount
