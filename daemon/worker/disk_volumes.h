// SPDX-License-Identifier: GPL-3.0-or-later
//
// DiskVolumes: what lies in the partitions of a disk, and which of them a mount means.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef DAEMON_WORKER_DISK_VOLUMES_H_
#define DAEMON_WORKER_DISK_VOLUMES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "dismd/internal/control.pb.h"
#include "libmount/block/block_device.h"
#include "libmount/block/partitions.h"
#include "libmount/ntfs/boot_sector.h"

namespace dismd {

struct DiskVolume {
  libmount::PartitionInfo partition;  // its size: the volume's, where that reaches further and nothing else is there
  uint64_t writable = 0;              // bytes of it; what is behind them is another's, or a table's
  libmount::VolumeKind kind = libmount::VolumeKind::kUnknown;
  std::string label;         // of an NTFS volume
  bool has_windows = false;  // a directory \Windows
  bool unreadable = false;   // not even its first sector
};

class DiskVolumes {
 public:
  // kBadImageFormat: the disk cannot be read.
  static absl::StatusOr<DiskVolumes> Read(const libmount::BlockDevice& disk);

  // `partition`: a number, or 0 for whichever is meant: the only NTFS volume; of several the one with \Windows.
  // Windows' recovery volumes are meant only where there is nothing else. What is returned lives as long as this.
  //
  // kPartitionNotFound, kAmbiguousPartition, kEncryptedVolume, kRefsVolume, kUnsupportedVolume, kDynamicDisk,
  // kBadImageFormat: the message lists what there is.
  absl::StatusOr<const DiskVolume*> Choose(uint32_t partition) const;

  void Describe(internal::DiskInfo* info) const;

 private:
  DiskVolumes(libmount::PartitionTable table, bool is_dynamic_disk, std::vector<DiskVolume> volumes)
      : table_(table), is_dynamic_disk_(is_dynamic_disk), volumes_(std::move(volumes)) {}

  absl::StatusOr<const DiskVolume*> ChooseDefault() const;
  absl::Status NothingToMount() const;
  std::string List() const;

  libmount::PartitionTable table_;
  bool is_dynamic_disk_;
  std::vector<DiskVolume> volumes_;
};

}  // namespace dismd

#endif  // DAEMON_WORKER_DISK_VOLUMES_H_
