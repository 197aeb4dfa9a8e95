// SPDX-License-Identifier: GPL-3.0-or-later
//
// The clusters of a range of a file's data: allocated, or given back. libntfs-3g does neither in the middle of a file;
// it has what both are made of, the clusters' bitmap and the encoding of runlists.
//
// For attributes that are not resident and not compressed. The numbers are of clusters in the data; `end` is the one
// behind the last. After an error the attribute and the volume are half changed: what was begun must be given up.

#ifndef LIBMOUNT_NTFS_CLUSTER_RANGES_H_
#define LIBMOUNT_NTFS_CLUSTER_RANGES_H_

#include <cstdint>

#include "libmount/base/errno_or.h"
#include "libmount/ntfs/library.h"

namespace libmount {

// Whether there is a cluster, and not a hole.
ErrnoOr<bool> HasCluster(ntfs_attr* attribute, uint64_t cluster);

// Where there are holes, or the allocation ends before `end`, there will be clusters, which read as zeros. ENOSPC where
// the volume has fewer, before anything is changed.
int AllocateClusters(ntfs_attr* attribute, uint64_t first, uint64_t end);

// There will be a hole.
int FreeClusters(ntfs_attr* attribute, uint64_t first, uint64_t end);

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_CLUSTER_RANGES_H_
