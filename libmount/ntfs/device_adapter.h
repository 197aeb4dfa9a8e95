// SPDX-License-Identifier: GPL-3.0-or-later
//
// DeviceAdapter: a BlockDevice as libntfs-3g wants to see one.
//
// Thread safety: as the library's: none. Its user holds one lock around everything (see volume.h).

#ifndef LIBMOUNT_NTFS_DEVICE_ADAPTER_H_
#define LIBMOUNT_NTFS_DEVICE_ADAPTER_H_

#include <cstdint>

#include "libmount/block/block_device.h"

struct ntfs_device;

namespace libmount {

class DeviceAdapter {
 public:
  // `writable` is null for reading only; else it is the same device. Both must outlive the adapter.
  DeviceAdapter(const BlockDevice* device, WritableBlockDevice* writable) : device_(device), writable_(writable) {}
  DeviceAdapter(const DeviceAdapter&) = delete;
  DeviceAdapter& operator=(const DeviceAdapter&) = delete;

  // For ntfs_device_mount, which owns it from then on; null: no memory.
  ntfs_device* MakeDevice();

  const BlockDevice& device() const { return *device_; }
  WritableBlockDevice* writable() const { return writable_; }

  // The errno of the first write that failed since the last call; 0: none did. The library does not report all.
  int TakeWriteError();
  // Whether writes are taken and not done.
  void DropWrites(bool drop) { drop_writes_ = drop; }

  // What the library asks for; it tells errno, as the system call of that name.
  int64_t Seek(int64_t offset, int whence);
  int64_t ReadAt(void* out, int64_t count, int64_t offset);
  int64_t WriteAt(const void* data, int64_t count, int64_t offset);
  int64_t position() const { return position_; }
  void Advance(int64_t count) { position_ += count; }

 private:
  const BlockDevice* const device_;
  WritableBlockDevice* const writable_;
  int64_t position_ = 0;
  int write_error_ = 0;
  bool drop_writes_ = false;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_DEVICE_ADAPTER_H_
