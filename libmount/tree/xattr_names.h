// SPDX-License-Identifier: GPL-3.0-or-later
//
// XattrNames: the list of a file's extended attributes.
//
// What is listed can be read: tools that copy attributes take one that cannot for an error. What is left out for its
// size or name can still be opened as file:stream.
//
// Thread safety: none needed; one is made for each answer.

#ifndef LIBMOUNT_TREE_XATTR_NAMES_H_
#define LIBMOUNT_TREE_XATTR_NAMES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace libmount {

inline constexpr std::string_view kNtfsXattrPrefix = "system.ntfs_";
inline constexpr std::string_view kUserXattrPrefix = "user.";
inline constexpr std::string_view kTrustedXattrPrefix = "trusted.";

class XattrNames {
 public:
  // Those of NTFS that every file has.
  XattrNames();

  void Add(std::string_view prefix, std::string_view name, uint64_t value_size);
  void AddNtfs(std::string_view name, uint64_t value_size) { Add(kNtfsXattrPrefix, name, value_size); }
  // Object id and EAs, where there are any.
  void AddNtfsItems(std::string_view tagged_items);
  // The image's Linux xattrs that may be read. The kernel keeps user.* to files and directories, and trusted.* to root.
  void AddLinuxXattrs(std::string_view tagged_items, bool user_readable, bool trusted_readable);

  std::vector<std::string> Take() { return std::move(names_); }

 private:
  std::vector<std::string> names_;
  size_t list_size_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_XATTR_NAMES_H_
