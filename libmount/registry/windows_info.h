// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a volume with a Windows on it says of that Windows: the fields of ImageInfo that a WIM has in its XML, out of
// the hives SOFTWARE and SYSTEM.
//
// Thread safety: pure functions of the tree.

#ifndef LIBMOUNT_REGISTRY_WINDOWS_INFO_H_
#define LIBMOUNT_REGISTRY_WINDOWS_INFO_H_

#include "libmount/tree/file_tree.h"
#include "libmount/tree/image_info.h"

namespace libmount {

// Whether the volume has a directory \Windows.
bool HasWindows(const FileTree& volume);

// Fills version, edition, product, languages and the like of `info`; leaves what it does not find as it is.
void ReadWindowsInfo(const FileTree& volume, ImageInfo* info);

}  // namespace libmount

#endif  // LIBMOUNT_REGISTRY_WINDOWS_INFO_H_
