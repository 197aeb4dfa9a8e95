// SPDX-License-Identifier: GPL-3.0-or-later
//
// Volume: a mounted volume of libntfs-3g, and the one lock around it. The library has no locks of its own, and breaks
// when one inode is opened twice: all inodes are opened here, and who opens one that is open gets that one.
//
// Thread safety: everything that takes or gives something of the library's needs mutex().

#ifndef LIBMOUNT_NTFS_VOLUME_H_
#define LIBMOUNT_NTFS_VOLUME_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/errno_or.h"
#include "libmount/ntfs/boot_sector.h"
#include "libmount/ntfs/device_adapter.h"
#include "libmount/ntfs/library.h"
#include "libmount/ntfs/node_id.h"

namespace libmount {

class Volume;

// An open inode. Empty after Close, after being moved from, and by default. All uses: under the volume's lock.
class Inode {
 public:
  Inode() = default;
  Inode(Inode&& other) noexcept : volume_(other.volume_), raw_(std::exchange(other.raw_, nullptr)) {}
  Inode& operator=(Inode&& other) noexcept {
    Close();
    volume_ = other.volume_;
    raw_ = std::exchange(other.raw_, nullptr);
    return *this;
  }
  Inode(const Inode&) = delete;
  Inode& operator=(const Inode&) = delete;
  ~Inode() { Close(); }

  ntfs_inode* get() const { return raw_; }
  ntfs_inode* operator->() const { return raw_; }
  explicit operator bool() const { return raw_ != nullptr; }

  // 0, or the errno of writing what was changed.
  int Close();
  // The same, and `directory`, where it has a new name, first: closing writes times and sizes into its entry there, for
  // which the library opens the directory again.
  int CloseBehind(Inode& directory);
  // Gives it up without closing it: some of the library's functions close what they are given. Null where it was empty,
  // or somebody else has it open too.
  ntfs_inode* Release();

 private:
  friend class Volume;
  Inode(Volume* volume, ntfs_inode* raw) : volume_(volume), raw_(raw) {}

  Volume* volume_ = nullptr;
  ntfs_inode* raw_ = nullptr;
};

class Volume {
 public:
  // `writable`: null for reading only, else the same device. kBadImageFormat, kEncryptedVolume, kVolumeHibernated (for
  // writing), kOutOfResources.
  static absl::StatusOr<std::unique_ptr<Volume>> Mount(const BlockDevice* device, WritableBlockDevice* writable);
  ~Volume();
  Volume(const Volume&) = delete;
  Volume& operator=(const Volume&) = delete;

  absl::Mutex& mutex() const ABSL_LOCK_RETURNED(mutex_) { return mutex_; }
  // Null: it could not be mounted again.
  ntfs_volume* raw() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return raw_; }
  DeviceAdapter& adapter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return adapter_; }
  const NtfsGeometry& geometry() const { return geometry_; }
  const BlockDevice& device() const { return *device_; }
  uint64_t clusters() const { return geometry_.sectors * geometry_.sector_size / geometry_.cluster_size; }

  // ENOENT: no such file, or (with a sequence number other than 0) another one now; EIO.
  ErrnoOr<Inode> Open(FileReference file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Everything that the library has in memory goes to the device. 0 or an errno.
  int Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets everything that the library has in memory, and mounts the volume as it is on the device. REQUIRES: no inode
  // is open.
  void Remount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes an inode that the library has opened.
  Inode Adopt(ntfs_inode* raw) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

 private:
  friend class Inode;
  struct OpenInode {
    ntfs_inode* raw = nullptr;
    uint32_t users = 0;
  };

  Volume(const BlockDevice* device, WritableBlockDevice* writable) : device_(device), adapter_(device, writable) {}
  absl::Status MountLibrary(bool writable) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unmount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Close(ntfs_inode* raw);

  const BlockDevice* const device_;
  NtfsGeometry geometry_;
  mutable absl::Mutex mutex_;
  DeviceAdapter adapter_ ABSL_GUARDED_BY(mutex_);
  ntfs_volume* raw_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::flat_hash_map<uint64_t, OpenInode> open_ ABSL_GUARDED_BY(mutex_);  // by record number
};

// errno as the library left it, where it left one.
int LibraryErrno();

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_VOLUME_H_
