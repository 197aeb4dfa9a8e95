// SPDX-License-Identifier: GPL-3.0-or-later
//
// The integrity table of a WIM part:
//
//   [ u32 size ][ u32 n ][ u32 chunk size ][ n SHA-1s ]
//
// It covers the bytes from the end of the header to the end of the blob table.
//
// Thread safety: CheckPartIntegrity may be called from any number of threads.

#ifndef LIBMOUNT_WIM_INTEGRITY_H_
#define LIBMOUNT_WIM_INTEGRITY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

// How far a check over several parts is.
struct IntegrityProgress {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
};

struct IntegrityTable {
  uint64_t chunk_size = 0;
  std::string hashes;  // 20 bytes each

  uint64_t count() const;
};

// REQUIRES: the header names one. kIntegrityCheckFailed: it makes no sense.
absl::StatusOr<IntegrityTable> ReadIntegrityTable(const WimSource& source, uint16_t part, const WimHeader& header);

// The bytes that the part's table covers; 0 where it has none.
uint64_t IntegrityCoverage(const WimHeader& header);

// Hashes the part on all CPUs and compares it with its table; OK where there is none. kIntegrityCheckFailed names the
// first range that differs (or says that the table itself is damaged); kImageChanged; kCancelled.
absl::Status CheckPartIntegrity(const WimSource& source, uint16_t part, const WimHeader& header,
                                IntegrityProgress& progress, OperationMonitor& monitor);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_INTEGRITY_H_
