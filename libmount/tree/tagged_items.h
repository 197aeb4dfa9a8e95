// SPDX-License-Identifier: GPL-3.0-or-later
//
// Tagged items: what a WIM stores of few files, end to end: object id, extended attributes, UNIX data, and what others
// may think of.
//
//   { u32 tag, u32 size, data, padded to a multiple of 8 } ...
//
// Extended attributes are those of NTFS (EAs); a Linux image keeps its own in the same item, so that what has a name of
// Linux (user.*, security.*, ...) is shown as that, and the rest as EAs in ntfs-3g's form:
//
//   item          { u16 value size, u8 name size, u8 flags, name, 0, value } ...
//   ntfs-3g's     { u32 size of this entry, u8 flags, u8 name size, u16 value size, name, 0, value, to 4 bytes } ...
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_TREE_TAGGED_ITEMS_H_
#define LIBMOUNT_TREE_TAGGED_ITEMS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace libmount {

inline constexpr uint32_t kTagObjectId = 0x1;
inline constexpr uint32_t kTagExtendedAttributes = 0x2;  // since Windows 10 1607; wimlib puts Linux xattrs there too
inline constexpr uint32_t kTagUnixData = 0x337dd873;
inline constexpr uint32_t kTagLinuxXattrsOld = 0x337dd874;  // wimlib 1.11 and 1.12

inline constexpr size_t kObjectIdMinSize = 16;
inline constexpr size_t kObjectIdMaxSize = 64;

struct ExtendedAttribute {
  std::string_view name;
  std::string_view value;
  uint8_t flags = 0;
};

// Return false to end the visit.
using ExtendedAttributeVisitor = absl::FunctionRef<bool(const ExtendedAttribute&)>;

// The first tagged item of that kind, of at least `min_size` bytes; empty where there is none.
std::string_view FindTaggedItem(std::string_view tagged_items, uint32_t tag, size_t min_size);

// `tagged_items` with `data` as its only item of that kind, in the place of the first one (else at the end); with no
// `data`, without one. All others stay byte for byte.
std::string ReplaceTaggedItem(std::string_view tagged_items, uint32_t tag, std::string_view data);

// Whether an extended attribute is one of Linux.
bool HasLinuxName(std::string_view name);

// The image's Linux xattrs, in whichever of the two forms it has them.
void VisitLinuxXattrs(std::string_view tagged_items, ExtendedAttributeVisitor visitor);
// The value of the Linux xattr of that name; nullopt: there is none.
std::optional<std::string_view> FindLinuxXattr(std::string_view tagged_items, std::string_view name);
// `tagged_items` without the Linux xattr of that name.
std::string RemoveLinuxXattr(std::string_view tagged_items, std::string_view name);

// The EAs in ntfs-3g's form; empty: none.
std::string NtfsEas(std::string_view tagged_items);
// `tagged_items` with these EAs (in ntfs-3g's form; empty: none) instead of its own. nullopt: malformed.
std::optional<std::string> ReplaceNtfsEas(std::string_view tagged_items, std::string_view eas);

}  // namespace libmount

#endif  // LIBMOUNT_TREE_TAGGED_ITEMS_H_
