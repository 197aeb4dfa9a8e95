// SPDX-License-Identifier: GPL-3.0-or-later
//
// Makes the integrity table of a file that was appended to (integrity.h has the layout). Chunks that the former table
// covers to their end keep the hash that they have there: what was damaged stays found.
//
// Thread safety: functions without state.

#ifndef LIBMOUNT_WIM_INTEGRITY_WRITER_H_
#define LIBMOUNT_WIM_INTEGRITY_WRITER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/wim/integrity.h"

namespace libmount {

struct IntegrityWriting {
  std::optional<IntegrityTable> old_table;
  uint64_t old_end = 0;  // of what it covers, in the file
  uint64_t end = 0;      // of what the new one is to cover
  int threads = 0;       // 0: one per CPU
};

// Bytes that will have to be hashed.
uint64_t IntegrityWork(const IntegrityWriting& writing);

// The table's bytes. `on_progress` is told of bytes hashed; its error ends it.
absl::StatusOr<std::string> MakeIntegrityTable(int fd, const std::string& name, const IntegrityWriting& writing,
                                               const std::function<absl::Status(uint64_t)>& on_progress);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_INTEGRITY_WRITER_H_
