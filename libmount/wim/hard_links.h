// SPDX-License-Identifier: GPL-3.0-or-later
//
// Names of one file: what a metadata resource calls a hard link group becomes one inode.

#ifndef LIBMOUNT_WIM_HARD_LINKS_H_
#define LIBMOUNT_WIM_HARD_LINKS_H_

#include <compare>
#include <cstdint>
#include <vector>

#include "libmount/wim/image_metadata.h"

namespace libmount {

// An inode that was made for one name, whose dentry gives a group.
struct HardLink {
  uint64_t group;
  uint32_t blob;
  uint32_t inode;
  auto operator<=>(const HardLink&) const = default;
};

// Leaves one inode, the first, for all names of a group, and numbers the inodes anew. Windows' own tools have written
// images in which files of different content share a group by mistake (install.wim of Windows 7); like them, only names
// of the same content are taken together.
void LinkHardLinks(std::vector<HardLink> links, ImageMetadata& image);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_HARD_LINKS_H_
