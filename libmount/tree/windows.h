// SPDX-License-Identifier: GPL-3.0-or-later
//
// Windows' terms for what it stores of a file: attribute bits, reparse tags, times.
//
// Thread safety: all functions are pure, but for the clock.

#ifndef LIBMOUNT_TREE_WINDOWS_H_
#define LIBMOUNT_TREE_WINDOWS_H_

#include <time.h>

#include <cstddef>
#include <cstdint>

namespace libmount {

// Windows' file attributes that matter here.
inline constexpr uint32_t kAttributeReadOnly = 0x1;
inline constexpr uint32_t kAttributeDirectory = 0x10;
inline constexpr uint32_t kAttributeArchive = 0x20;
inline constexpr uint32_t kAttributeDevice = 0x40;
inline constexpr uint32_t kAttributeNormal = 0x80;
inline constexpr uint32_t kAttributeSparse = 0x200;
inline constexpr uint32_t kAttributeReparsePoint = 0x400;
inline constexpr uint32_t kAttributeCompressed = 0x800;
inline constexpr uint32_t kAttributeNotContentIndexed = 0x2000;
inline constexpr uint32_t kAttributeEncrypted = 0x4000;

inline constexpr uint32_t kReparseMountPoint = 0xa0000003;  // a junction, or a volume mounted on a directory
inline constexpr uint32_t kReparseSymlink = 0xa000000c;
inline constexpr uint32_t kReparseLxSymlink = 0xa000001d;  // made by the Windows Subsystem for Linux

// Whether a reparse point with this tag is shown as a symbolic link.
constexpr bool IsLinkTag(uint32_t tag) {
  return tag == kReparseSymlink || tag == kReparseMountPoint || tag == kReparseLxSymlink;
}

// NTFS allows no longer names; the kernel takes no more than 1024 bytes.
inline constexpr size_t kMaxNameUnits = 255;

// Windows counts 100 ns from 1601, Unix seconds from 1970.
inline constexpr int64_t kTicksPerSecond = 10'000'000;
inline constexpr int64_t kUnixEpochSeconds = 11'644'473'600;

constexpr timespec ToTimespec(uint64_t windows_time) {
  timespec time = {};
  time.tv_sec = static_cast<int64_t>(windows_time / kTicksPerSecond) - kUnixEpochSeconds;
  time.tv_nsec = static_cast<int64_t>(windows_time % kTicksPerSecond) * 100;
  return time;
}

// The nearest that Windows can store: 1601 to 30828.
constexpr uint64_t ToWindowsTime(const timespec& time) {
  constexpr int64_t kLastSecond = INT64_MAX / kTicksPerSecond - 1;
  if (time.tv_sec < -kUnixEpochSeconds) return 0;
  if (time.tv_sec > kLastSecond - kUnixEpochSeconds) return static_cast<uint64_t>(kLastSecond * kTicksPerSecond);
  return static_cast<uint64_t>((time.tv_sec + kUnixEpochSeconds) * kTicksPerSecond + time.tv_nsec / 100);
}

inline uint64_t WindowsTimeNow() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return ToWindowsTime(now);
}

}  // namespace libmount

#endif  // LIBMOUNT_TREE_WINDOWS_H_
