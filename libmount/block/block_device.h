// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlockDevice: a disk as a row of bytes: what is above (partitions, NTFS) reads of what is below (VHD, VHDX, a raw
// file, an overlay, a part of another device).
//
// Devices own what they read from: descriptors, and the devices beneath them.
//
// Thread safety: Read may be called from any number of threads at once, and takes no lock that another Read would wait
// for; WritableBlockDevice says more.

#ifndef LIBMOUNT_BLOCK_BLOCK_DEVICE_H_
#define LIBMOUNT_BLOCK_BLOCK_DEVICE_H_

#include <cstdint>

#include "absl/types/span.h"

namespace libmount {

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual uint64_t size() const = 0;         // bytes; a multiple of sector_size()
  virtual uint32_t sector_size() const = 0;  // bytes of a logical sector: 512 or 4096

  // Reads all of `out`; any offset and length. 0, or an errno: EINVAL (beyond the end), EIO (also: the file was
  // changed or cut off by somebody else), ENOMEM.
  virtual int Read(uint64_t offset, absl::Span<char> out) const = 0;
};

// Reads and writes of different threads may overlap in time; of bytes that are being written a reader gets the old or
// the new.
class WritableBlockDevice : public BlockDevice {
 public:
  // Writes all of `data`; any offset and length. EINVAL, EIO, ENOSPC, EDQUOT, ENOMEM.
  virtual int Write(uint64_t offset, absl::Span<const char> data) = 0;

  // Everything written before is on the disk when it returns.
  virtual int Sync() = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_BLOCK_DEVICE_H_
