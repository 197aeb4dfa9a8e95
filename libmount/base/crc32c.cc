// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/base/crc32c.h"

#include <array>
#include <cstddef>

#include "libmount/base/little_endian.h"

#ifdef __x86_64__
#include <nmmintrin.h>
#endif

namespace libmount {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

// [k][b]: the CRC of the byte b followed by k zeros; eight bytes are looked up at once.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? kPolynomial ^ c >> 1 : c >> 1;
    tables[0][i] = c;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t i = 0; i < 256; ++i) tables[k][i] = tables[0][tables[k - 1][i] & 0xff] ^ tables[k - 1][i] >> 8;
  }
  return tables;
}
constexpr Tables kTables = MakeTables();

#ifdef __x86_64__
__attribute__((target("sse4.2"))) uint32_t HardwareCrc32c(absl::Span<const char> data, uint32_t crc) {
  uint64_t c = ~crc;
  while (data.size() >= sizeof(uint64_t)) {
    c = _mm_crc32_u64(c, LoadLe64(data.data()));
    data.remove_prefix(sizeof(uint64_t));
  }
  auto rest = static_cast<uint32_t>(c);
  for (char byte : data) rest = _mm_crc32_u8(rest, static_cast<uint8_t>(byte));
  return ~rest;
}
#endif

}  // namespace

uint32_t PortableCrc32c(absl::Span<const char> data, uint32_t crc) {
  uint32_t c = ~crc;
  while (data.size() >= sizeof(uint64_t)) {
    uint64_t bytes = LoadLe64(data.data()) ^ c;
    c = 0;
    for (size_t k = kTables.size(); k-- > 0; bytes >>= 8) c ^= kTables[k][bytes & 0xff];
    data.remove_prefix(sizeof(uint64_t));
  }
  for (char byte : data) c = kTables[0][(c ^ static_cast<uint8_t>(byte)) & 0xff] ^ c >> 8;
  return ~c;
}

uint32_t Crc32c(absl::Span<const char> data, uint32_t crc) {
#ifdef __x86_64__
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  if (has_instruction) return HardwareCrc32c(data, crc);
#endif
  return PortableCrc32c(data, crc);
}

}  // namespace libmount
