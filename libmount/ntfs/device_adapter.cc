// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/device_adapter.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/ntfs/library.h"

namespace libmount {
namespace {

DeviceAdapter& Of(ntfs_device* device) { return *static_cast<DeviceAdapter*>(device->d_private); }

int Fail(int error) {
  errno = error;
  return -1;
}

int OpenDevice(ntfs_device* device, int flags) {
  if (NDevOpen(device)) return Fail(EBUSY);
  if ((flags & O_ACCMODE) != O_RDONLY && Of(device).writable() == nullptr) return Fail(EROFS);
  if ((flags & O_ACCMODE) == O_RDONLY) NDevSetReadOnly(device);
  NDevSetOpen(device);
  return 0;
}

int CloseDevice(ntfs_device* device) {
  if (!NDevOpen(device)) return Fail(EBADF);
  NDevClearOpen(device);
  NDevClearDirty(device);
  return 0;
}

s64 SeekDevice(ntfs_device* device, s64 offset, int whence) { return Of(device).Seek(offset, whence); }

s64 PreadDevice(ntfs_device* device, void* out, s64 count, s64 offset) { return Of(device).ReadAt(out, count, offset); }

s64 PwriteDevice(ntfs_device* device, const void* data, s64 count, s64 offset) {
  if (NDevReadOnly(device)) return Fail(EROFS);
  return Of(device).WriteAt(data, count, offset);
}

s64 ReadDevice(ntfs_device* device, void* out, s64 count) {
  const s64 got = PreadDevice(device, out, count, Of(device).position());
  if (got > 0) Of(device).Advance(got);
  return got;
}

s64 WriteDevice(ntfs_device* device, const void* data, s64 count) {
  const s64 got = PwriteDevice(device, data, count, Of(device).position());
  if (got > 0) Of(device).Advance(got);
  return got;
}

// What must be on the disk is synced by who owns the device, not by the library's own ideas.
int SyncDevice(ntfs_device*) { return 0; }

int StatDevice(ntfs_device* device, struct stat* out) {
  *out = {};
  out->st_mode = S_IFREG | 0600;
  out->st_size = static_cast<off_t>(Of(device).device().size());
  return 0;
}

int ControlDevice(ntfs_device* device, unsigned long request, void* argument) {
  switch (request) {
    case BLKGETSIZE64: *static_cast<u64*>(argument) = Of(device).device().size(); return 0;
    case BLKSSZGET: *static_cast<int*>(argument) = static_cast<int>(Of(device).device().sector_size()); return 0;
    default: return Fail(EOPNOTSUPP);
  }
}

ntfs_device_operations kOperations = {
    .open = OpenDevice,
    .close = CloseDevice,
    .seek = SeekDevice,
    .read = ReadDevice,
    .write = WriteDevice,
    .pread = PreadDevice,
    .pwrite = PwriteDevice,
    .sync = SyncDevice,
    .stat = StatDevice,
    .ioctl = ControlDevice,
};

}  // namespace

ntfs_device* DeviceAdapter::MakeDevice() { return ntfs_device_alloc("volume", 0, &kOperations, this); }

int DeviceAdapter::TakeWriteError() { return std::exchange(write_error_, 0); }

int64_t DeviceAdapter::Seek(int64_t offset, int whence) {
  int64_t base = 0;
  if (whence == SEEK_CUR) base = position_;
  if (whence == SEEK_END) base = static_cast<int64_t>(device_->size());
  int64_t target = 0;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return Fail(EINVAL);
  position_ = target;
  return position_;
}

int64_t DeviceAdapter::ReadAt(void* out, int64_t count, int64_t offset) {
  if (count < 0 || offset < 0) return Fail(EINVAL);
  const uint64_t size = device_->size();
  const auto at = static_cast<uint64_t>(offset);
  if (at >= size) return 0;
  const uint64_t length = std::min(static_cast<uint64_t>(count), size - at);
  if (int error = device_->Read(at, absl::MakeSpan(static_cast<char*>(out), length))) return Fail(error);
  return static_cast<int64_t>(length);
}

int64_t DeviceAdapter::WriteAt(const void* data, int64_t count, int64_t offset) {
  if (count < 0 || offset < 0) return Fail(EINVAL);
  if (writable_ == nullptr) return Fail(EROFS);
  if (drop_writes_) return count;
  const int error = writable_->Write(static_cast<uint64_t>(offset),
                                     absl::MakeConstSpan(static_cast<const char*>(data), static_cast<size_t>(count)));
  if (error == 0) return count;
  if (write_error_ == 0) write_error_ = error;
  return Fail(error);
}

}  // namespace libmount
