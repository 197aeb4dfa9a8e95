// SPDX-License-Identifier: GPL-3.0-or-later
//
// The partition tables of a hostile disk. The first byte chooses the sector size.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "libmount/block/partitions.h"
#include "tests/unit/memory_disk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  libmount::MemoryDisk disk(std::string(reinterpret_cast<const char*>(data) + 1, size - 1), data[0] % 2 ? 4096 : 512);
  auto found = libmount::ReadPartitions(disk);
  if (!found.ok()) return 0;
  for (const libmount::PartitionInfo& partition : found->partitions) {
    if (partition.offset > disk.size() || partition.size > disk.size() - partition.offset) abort();
  }
  return 0;
}
