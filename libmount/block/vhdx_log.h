// SPDX-License-Identifier: GPL-3.0-or-later
//
// The log of a VHDX: changes of its tables that a writer had made safe, and had not yet written to their places when it
// ended. What is read without them is stale. They are applied in memory; the file is not touched.
//
//   log    [ entry ][ entry ] ...                                a ring; entries start at multiples of 4 KiB
//   entry  [ header 64, descriptors of 32 .. ][ data sector ][ data sector ] ...           one for each descriptor
//   "desc"
//
// The entries that count are the longest run with ascending sequence numbers, right checksums and the log's GUID, that
// ends in the highest number; its last entry says which one is the first to apply (tail).
//
// Thread safety: pure.

#ifndef LIBMOUNT_BLOCK_VHDX_LOG_H_
#define LIBMOUNT_BLOCK_VHDX_LOG_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/block/disk_file.h"
#include "libmount/block/file_patches.h"
#include "libmount/block/vhdx_format.h"

namespace libmount {

// Windows and QEMU make 1 MiB.
inline constexpr uint32_t kVhdxMaxLogSize = uint32_t{64} << 20;

// What the log of the file changes. kBadImageFormat: it is damaged, and the disk cannot be read without it.
// REQUIRES: header.log_guid is not kNoGuid.
absl::StatusOr<std::unique_ptr<FilePatches>> ReplayVhdxLog(const DiskFile& file, const VhdxHeader& header);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_VHDX_LOG_H_
