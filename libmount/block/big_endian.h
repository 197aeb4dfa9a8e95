// SPDX-License-Identifier: GPL-3.0-or-later
//
// Numbers as they lie in a VHD: big endian, at any alignment. (AppendBe is in base/little_endian.h.)

#ifndef LIBMOUNT_BLOCK_BIG_ENDIAN_H_
#define LIBMOUNT_BLOCK_BIG_ENDIAN_H_

#include <cstdint>

#include "libmount/base/little_endian.h"

namespace libmount {

inline uint16_t LoadBe16(const void* at) { return __builtin_bswap16(LoadLe16(at)); }
inline uint32_t LoadBe32(const void* at) { return __builtin_bswap32(LoadLe32(at)); }
inline uint64_t LoadBe64(const void* at) { return __builtin_bswap64(LoadLe64(at)); }

inline void StoreBe32(uint32_t value, void* at) {
  value = __builtin_bswap32(value);
  memcpy(at, &value, sizeof value);
}

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_BIG_ENDIAN_H_
