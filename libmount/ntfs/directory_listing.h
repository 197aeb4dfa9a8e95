// SPDX-License-Identifier: GPL-3.0-or-later
//
// DirectoryListing: the entries of a directory in an order that stays when others come and go: by MFT record, and names
// of one record by a hash. An entry's cookie is both together, so that a reader goes on where it was whatever happened
// to the directory, in this process or another. And the MFT is then read from front to back.
//
// Thread safety: a listing does not change.

#ifndef LIBMOUNT_NTFS_DIRECTORY_LISTING_H_
#define LIBMOUNT_NTFS_DIRECTORY_LISTING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/base/errno_or.h"
#include "libmount/ntfs/directory_index.h"
#include "libmount/ntfs/node_id.h"

namespace libmount {

class DirectoryListing {
 public:
  struct Item {
    uint64_t cookie;  // never 0; less than 2^63
    FileReference file;
    uint32_t attributes;
    uint32_t name_at;
    uint16_t name_size;
  };

  // Short names, the volume's own files, and names that no Linux can show are left out. ENOMEM: too long.
  static ErrnoOr<std::shared_ptr<const DirectoryListing>> Of(DirectoryIndex& index);

  const std::vector<Item>& items() const { return items_; }
  std::string_view name(const Item& item) const {
    return std::string_view(names_).substr(item.name_at, item.name_size);
  }
  // The first item behind a cookie.
  size_t Behind(uint64_t cookie) const;

  size_t cost() const { return sizeof(*this) + items_.capacity() * sizeof(Item) + names_.capacity(); }

 private:
  std::vector<Item> items_;
  std::string names_;  // WTF-8, end to end
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_DIRECTORY_LISTING_H_
