// SPDX-License-Identifier: GPL-3.0-or-later
//
// Makes VHDs and VHDXs by hand, for what qemu-img cannot make: differencing disks, sectors of 4096 bytes, logs that
// wait to be replayed, damage.

#ifndef TESTS_UNIT_BLOCK_BUILDER_H_
#define TESTS_UNIT_BLOCK_BUILDER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "libmount/block/vhdx_format.h"

namespace libmount {

struct BuiltParent {
  std::string linkage;   // VHDX: "{guid}"; VHD: 16 bytes
  std::string relative;  // a Windows path; empty: not said
  std::string absolute;
};

// A block of a built disk: its data, and which of its sectors are here ("" : all).
struct BuiltBlock {
  std::string data;
  std::vector<bool> present;
};

struct VhdxPlan {
  uint64_t virtual_size = 0;
  uint32_t block_size = 1 << 20;
  uint32_t sector_size = 512;
  bool has_parent = false;
  BuiltParent parent;
  char data_write_byte = 'd';  // of which the DataWriteGuid is made
  std::map<uint64_t, BuiltBlock> blocks;
  std::map<uint64_t, uint64_t> raw_entries;  // of the BAT, by block: a state without data
};
// Where things are in what BuildVhdx makes.
inline constexpr uint64_t kBuiltLog = 1 << 20;
inline constexpr uint64_t kBuiltMetadata = 2 << 20;
inline constexpr uint64_t kBuiltBat = 3 << 20;
std::string BuildVhdx(const VhdxPlan& plan);

// A write that a log holds back: 4096 bytes each.
struct LogWrite {
  uint64_t offset = 0;
  std::string bytes;          // empty: zeros
  uint64_t zero_size = 4096;  // of these
};
struct LogEntryPlan {
  uint64_t sequence_number = 1;
  uint32_t at = 0;    // in the log
  uint32_t tail = 0;  // where the first entry is
  std::vector<LogWrite> writes;
  uint64_t last_file_size = 0;  // 0: the file's
};
// Puts entries into the log and makes the header say so.
void AddLog(std::string& vhdx, const std::vector<LogEntryPlan>& entries);

struct VhdPlan {
  uint64_t virtual_size = 0;
  uint32_t block_size = 2 << 20;
  bool has_parent = false;
  BuiltParent parent;
  std::string unique_id = std::string(16, 'u');
  std::map<uint64_t, BuiltBlock> blocks;
};
std::string BuildVhd(const VhdPlan& plan);

}  // namespace libmount

#endif  // TESTS_UNIT_BLOCK_BUILDER_H_
