// SPDX-License-Identifier: GPL-3.0-or-later
//
// From what a differencing disk says of its parent's place, the paths at which to look for it.
//
// Thread safety: pure.

#ifndef LIBMOUNT_BLOCK_PARENT_PATHS_H_
#define LIBMOUNT_BLOCK_PARENT_PATHS_H_

#include <string>
#include <string_view>
#include <vector>

#include "libmount/block/disk_image.h"

namespace libmount {

// Of an absolute path of Windows', which means nothing here, this many last components are tried.
inline constexpr size_t kMaxAbsoluteComponents = 3;
// Paths tried in all.
inline constexpr size_t kMaxParentPaths = 16;

// Candidates in the order to try: the relative locator's, then the absolute ones' ends, from the file's name alone to
// longer ones. All lie beneath the image's directory: with slashes, without "." and "..". `child`: the child's own
// path beneath that directory, which the relative locator counts from.
std::vector<std::string> ParentPaths(const std::vector<ParentLocator>& locators, std::string_view child);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_PARENT_PATHS_H_
