// SPDX-License-Identifier: GPL-3.0-or-later
//
// Numbers as they lie in Windows' formats: little endian, at any alignment.

#ifndef LIBMOUNT_BASE_LITTLE_ENDIAN_H_
#define LIBMOUNT_BASE_LITTLE_ENDIAN_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

namespace libmount {

static_assert(std::endian::native == std::endian::little, "a port to big endian swaps bytes here, and only here");

template <typename T>
T LoadLe(const void* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

inline uint16_t LoadLe16(const void* at) { return LoadLe<uint16_t>(at); }
inline uint32_t LoadLe32(const void* at) { return LoadLe<uint32_t>(at); }
inline uint64_t LoadLe64(const void* at) { return LoadLe<uint64_t>(at); }

template <typename T>
void AppendLe(T value, std::string& out) {
  char bytes[sizeof value];
  memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

template <typename T>
void AppendBe(T value, std::string& out) {
  for (size_t i = sizeof value; i-- > 0;) out.push_back(static_cast<char>(value >> (8 * i)));
}

}  // namespace libmount

#endif  // LIBMOUNT_BASE_LITTLE_ENDIAN_H_
