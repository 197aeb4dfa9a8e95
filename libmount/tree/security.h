// SPDX-License-Identifier: GPL-3.0-or-later
//
// Security descriptors, self-relative, as Windows stores them: what a new file gets from its directory.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_TREE_SECURITY_H_
#define LIBMOUNT_TREE_SECURITY_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace libmount {

inline constexpr size_t kMaxSecurityDescriptor = 65536;

// Whether Windows would take it: the right form, all parts within it, each ACL as long as its entries.
bool IsSecurityDescriptor(std::string_view descriptor);

// What a new file or directory in a directory with this descriptor gets: the entries that are to be inherited, with
// CREATOR OWNER and CREATOR GROUP and generic rights replaced as Windows does it, and the directory's owner and group.
// Empty: none is to be inherited; without a descriptor a file gets one where the image is applied, from its directory.
std::string InheritSecurity(std::string_view parent, bool is_directory);

}  // namespace libmount

#endif  // LIBMOUNT_TREE_SECURITY_H_
