// SPDX-License-Identifier: GPL-3.0-or-later
//
// CacheDemand: judges from a tree's counters how large a chunk cache it would use.
//
// Solid resources are decoded in chunks of tens of megabytes for files of a few kilobytes: reading one in directory
// order took 8 s with 1 GB of cache and 18 s with 256 MB. Where chunks are small, a few megabytes are enough.
//
// Thread safety: none; one owner.

#ifndef DAEMON_WORKER_CACHE_DEMAND_H_
#define DAEMON_WORKER_CACHE_DEMAND_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "libmount/wim/wim_file.h"

namespace dismd {

class CacheDemand {
 public:
  explicit CacheDemand(bool solid)
      : least_(solid ? size_t{128} << 20 : size_t{8} << 20), most_(solid ? size_t{1} << 30 : size_t{64} << 20) {}

  // Called about once a second while the mount is used, with what was read by the kernel in all. Returns the budget
  // that would help; 0: the present one does.
  uint64_t Judge(const libmount::WimTree::Stats& now, uint64_t bytes_read, size_t budget) {
    const uint64_t decoded = now.bytes_decoded - last_decoded_;
    const uint64_t read = bytes_read - last_read_;
    last_decoded_ = now.bytes_decoded;
    last_read_ = bytes_read;
    if (decoded == 0) return 0;
    if (budget < least_) return least_;
    // Full, and more is decoded than is read: what was dropped is decoded again.
    const bool full = now.cache_bytes >= budget - budget / 4;
    const bool again = decoded > 2 * read;
    return full && again && budget < most_ ? std::min(2 * budget, most_) : 0;
  }

 private:
  const size_t least_;
  const size_t most_;
  uint64_t last_decoded_ = 0;
  uint64_t last_read_ = 0;
};

}  // namespace dismd

#endif  // DAEMON_WORKER_CACHE_DEMAND_H_
