// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/tree/xattr_names.h"

#include <linux/limits.h>

#include "libmount/tree/tagged_items.h"

namespace libmount {

XattrNames::XattrNames() {
  for (std::string_view name : {"attrib", "attrib_be", "times", "times_be", "crtime", "crtime_be"}) AddNtfs(name, 0);
}

void XattrNames::Add(std::string_view prefix, std::string_view name, uint64_t value_size) {
  const size_t size = prefix.size() + name.size();
  if (size > XATTR_NAME_MAX || value_size > XATTR_SIZE_MAX || name.find('\0') != name.npos) return;
  if (list_size_ + size + 1 > XATTR_LIST_MAX) return;
  list_size_ += size + 1;
  names_.push_back(std::string(prefix).append(name));
}

void XattrNames::AddNtfsItems(std::string_view tagged_items) {
  const size_t object_id_size = FindTaggedItem(tagged_items, kTagObjectId, kObjectIdMinSize).size();
  if (object_id_size > 0) AddNtfs("object_id", object_id_size);
  const size_t ea_size = NtfsEas(tagged_items).size();
  if (ea_size > 0) AddNtfs("ea", ea_size);
}

void XattrNames::AddLinuxXattrs(std::string_view tagged_items, bool user_readable, bool trusted_readable) {
  VisitLinuxXattrs(tagged_items, [&](const ExtendedAttribute& attribute) {
    const bool readable = !attribute.name.starts_with(kNtfsXattrPrefix) &&
                          (user_readable || !attribute.name.starts_with(kUserXattrPrefix)) &&
                          (trusted_readable || !attribute.name.starts_with(kTrustedXattrPrefix));
    if (readable) Add("", attribute.name, attribute.value.size());
    return true;
  });
}

}  // namespace libmount
