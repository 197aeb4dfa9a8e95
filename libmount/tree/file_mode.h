// SPDX-License-Identifier: GPL-3.0-or-later
//
// The type and permissions of stat(2) for what Windows stores of a file.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_TREE_FILE_MODE_H_
#define LIBMOUNT_TREE_FILE_MODE_H_

#include <sys/stat.h>

#include <cstdint>
#include <optional>

#include "libmount/tree/windows.h"

namespace libmount {

inline constexpr uint32_t kPermissionBits = 07777;

constexpr bool IsSpecialFile(uint32_t mode) {
  const uint32_t type = mode & S_IFMT;
  return type == S_IFIFO || type == S_IFSOCK || type == S_IFCHR || type == S_IFBLK;
}

// `reparse_tag`: 0 where there is none. `unix_mode`: of the UNIX data, where there are any.
constexpr uint32_t FileMode(uint32_t attributes, uint32_t reparse_tag, std::optional<uint32_t> unix_mode) {
  if (IsLinkTag(reparse_tag)) return S_IFLNK | 0777;
  uint32_t mode = attributes & kAttributeReadOnly ? S_IFREG | 0444 : S_IFREG | 0644;
  if (attributes & kAttributeDirectory) mode = S_IFDIR | 0755;
  if (!unix_mode) return mode;
  // The permissions are the image's to say, and what Windows has no type for; not that a directory is a file.
  const uint32_t type = S_ISREG(mode) && IsSpecialFile(*unix_mode) ? *unix_mode : mode;
  return (type & S_IFMT) | (*unix_mode & kPermissionBits);
}

}  // namespace libmount

#endif  // LIBMOUNT_TREE_FILE_MODE_H_
