// SPDX-License-Identifier: GPL-3.0-or-later
//
// The partitions of a disk: MBR (with logical partitions), GPT, or a volume without a table; and a partition as a
// device.
//
// Tables are read by our own code: libblkid and libfdisk want a file to open.
//
// Formats: UEFI specification 2.10, chapter 5 (GPT, protective MBR); for the MBR, chapter 5.2.1 and
// Documentation/admin-guide of Linux for the numbering of logical partitions (from 5).
//
// Thread safety: the functions are pure; the devices as BlockDevice.

#ifndef LIBMOUNT_BLOCK_PARTITIONS_H_
#define LIBMOUNT_BLOCK_PARTITIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libmount/block/block_device.h"

namespace libmount {

enum class PartitionTable { kNone, kMbr, kGpt };

const char* PartitionTableName(PartitionTable table);  // "none", "mbr", "gpt"

struct PartitionInfo {
  uint32_t number = 0;  // from 1; logical partitions of an MBR from 5
  uint64_t offset = 0;  // bytes
  uint64_t size = 0;
  std::string type;  // what the table says that it is for, such as "basic data", "0x07"; no name known: the GUID
};

struct Partitions {
  PartitionTable table = PartitionTable::kNone;
  // In order of number. Entries that do not lie within the disk are left out. Without a table: the whole disk.
  std::vector<PartitionInfo> partitions;
  // Where, in bytes, tables begin that lie behind partitions: GPT's copy, those of logical partitions. In order.
  std::vector<uint64_t> further_tables;
  // Logical Disk Manager: what lies in the partitions are parts of volumes.
  bool is_dynamic_disk = false;
};

// kBadImageFormat: the disk cannot be read. A table that makes no sense is none.
absl::StatusOr<Partitions> ReadPartitions(const BlockDevice& disk);

// A part of a device, which must outlive it.
class PartitionDevice : public BlockDevice {
 public:
  // REQUIRES: the range lies within `disk`.
  PartitionDevice(const BlockDevice* disk, uint64_t offset, uint64_t size)
      : disk_(disk), offset_(offset), size_(size) {}

  uint64_t size() const override { return size_; }
  uint32_t sector_size() const override { return disk_->sector_size(); }
  int Read(uint64_t offset, absl::Span<char> out) const override;

 private:
  const BlockDevice* const disk_;
  const uint64_t offset_;
  const uint64_t size_;
};

class WritablePartitionDevice : public WritableBlockDevice {
 public:
  // What lies behind the first `writable` bytes can only be read. REQUIRES: writable <= size.
  WritablePartitionDevice(WritableBlockDevice* disk, uint64_t offset, uint64_t size, uint64_t writable)
      : disk_(disk), offset_(offset), size_(size), writable_(writable) {}

  uint64_t size() const override { return size_; }
  uint32_t sector_size() const override { return disk_->sector_size(); }
  int Read(uint64_t offset, absl::Span<char> out) const override;
  // ENOSPC: into what can only be read.
  int Write(uint64_t offset, absl::Span<const char> data) override;
  int Sync() override { return disk_->Sync(); }

 private:
  WritableBlockDevice* const disk_;
  const uint64_t offset_;
  const uint64_t size_;
  const uint64_t writable_;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_PARTITIONS_H_
