// SPDX-License-Identifier: GPL-3.0-or-later
//
// CRC-32C (Castagnoli), as VHDX and our own staging have it: by the processor's instruction where there is one.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_BASE_CRC32C_H_
#define LIBMOUNT_BASE_CRC32C_H_

#include <cstdint>

#include "absl/types/span.h"

namespace libmount {

// Of `data`, or of what `crc` is the CRC of followed by `data`.
uint32_t Crc32c(absl::Span<const char> data, uint32_t crc = 0);

// The same without the processor's instruction, for tests.
uint32_t PortableCrc32c(absl::Span<const char> data, uint32_t crc = 0);

}  // namespace libmount

#endif  // LIBMOUNT_BASE_CRC32C_H_
