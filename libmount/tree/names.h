// SPDX-License-Identifier: GPL-3.0-or-later
//
// Names of new files.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_TREE_NAMES_H_
#define LIBMOUNT_TREE_NAMES_H_

#include <string_view>

namespace libmount {

// 0, EINVAL or ENAMETOOLONG: whether Windows could store the name.
int CheckName(std::string_view name);

}  // namespace libmount

#endif  // LIBMOUNT_TREE_NAMES_H_
