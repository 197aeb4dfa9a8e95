// SPDX-License-Identifier: GPL-3.0-or-later
//
// The named data streams of a file, and their numbers.
//
// A stream has no number on the volume that would stay the same. It gets 16 bits of a hash of its name; the few that
// meet another's, in the order of their names, get the next number that is free. So a number changes only where two
// such names meet, and the one in front of it is removed.
//
// Thread safety: under the volume's lock.

#ifndef LIBMOUNT_NTFS_STREAMS_H_
#define LIBMOUNT_NTFS_STREAMS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/base/errno_or.h"
#include "libmount/ntfs/library.h"

namespace libmount {

struct NamedStream {
  uint16_t number = 0;  // never 0
  std::string name;     // UTF-16LE
  uint64_t size = 0;
  uint64_t allocated = 0;
};

// In the order of their names' units. EIO, ENOMEM.
ErrnoOr<std::vector<NamedStream>> NamedStreams(ntfs_inode* inode);

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_STREAMS_H_
