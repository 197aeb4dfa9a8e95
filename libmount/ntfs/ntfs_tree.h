// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: an NTFS volume on a BlockDevice, as a tree: to be read, or (OpenForWriting) to be changed.
//
// The tree presents files as a WIM's does: node ids are a function of the volume (node_id.h), extended attributes and
// names follow the same rules. The volume's own files ($MFT, ...) are not shown.
//
// Thread safety: as FileTree and WritableTree.

#ifndef LIBMOUNT_NTFS_NTFS_TREE_H_
#define LIBMOUNT_NTFS_NTFS_TREE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libmount/block/block_device.h"
#include "libmount/ntfs/operation_groups.h"
#include "libmount/tree/writable_tree.h"

namespace libmount {

struct NtfsTreeOptions {
  uid_t uid = 0;  // owner of all files
  gid_t gid = 0;
  // Told of damage; may be null. Must outlive the tree.
  TreeObserver* observer = nullptr;
  // Bytes of directory listings and of maps of files that are kept; see SetCacheBudget.
  size_t cache_budget = size_t{16} << 20;
};

class NtfsTree : public WritableTree {
 public:
  using WritableTree::Open;  // of a node

  // A tree to be read only: all that would change it is EROFS. `device` is the volume (a partition), and must outlive
  // the tree. kUnsupportedVolume, kRefsVolume: no NTFS; kBadImageFormat: damaged; kEncryptedVolume: BitLocker;
  // kOutOfResources. Hibernated volumes, and those that were not unmounted, are read as they are.
  static absl::StatusOr<std::unique_ptr<NtfsTree>> Open(const BlockDevice* device, const NtfsTreeOptions& options);

  // The same to be changed: each operation is one group of writes, and its reply is kept with it, so that a repeated
  // request is answered as the first time. `device` is the volume, on the disk whose groups `groups` are (see
  // overlay_groups.h); both must outlive the tree. `resumed`: this process takes the place of one that died and serves
  // the same kernel mount. Also kVolumeHibernated: hibernated, shut down with fast startup, or not unmounted cleanly.
  static absl::StatusOr<std::unique_ptr<NtfsTree>> OpenForWriting(WritableBlockDevice* device, OperationGroups* groups,
                                                                  bool resumed, const NtfsTreeOptions& options);

  virtual bool read_only() const = 0;

  // The volume's name, in WTF-8. Thread-safe.
  virtual std::string label() const = 0;

  // Removes the files that have no names and were kept since somebody had them open: nobody has any more. 0 or an
  // errno: ENOSPC and others, then some are left.
  virtual int RemoveUnlinked() = 0;

  // The caches' budget in bytes. Shrinking frees at once. Thread-safe.
  virtual void SetCacheBudget(size_t bytes) = 0;

  struct Stats {
    size_t cache_bytes = 0;      // held in the caches now
    uint64_t damaged_files = 0;  // reported so far
  };
  virtual Stats GetStats() const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_NTFS_TREE_H_
