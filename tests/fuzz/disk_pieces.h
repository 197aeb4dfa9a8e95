// SPDX-License-Identifier: GPL-3.0-or-later
//
// A file for fuzzers, large and mostly zeros, out of a small input; and its checksums made right, without which a
// fuzzer does not get past the first header.
//
//   input   ([ u32 place, in units of 512 bytes ][ u16 size ][ bytes ]) ..       the last one may be cut short

#ifndef TESTS_FUZZ_DISK_PIECES_H_
#define TESTS_FUZZ_DISK_PIECES_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "libmount/base/little_endian.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/big_endian.h"
#include "libmount/block/vhd_format.h"
#include "libmount/block/vhdx_format.h"

namespace libmount {

inline constexpr uint32_t kPieceUnit = 512;
inline constexpr uint64_t kMaxPiecedFile = uint64_t{64} << 20;
inline constexpr size_t kPieceHeader = 6;

// Pieces lie in the `room` bytes behind `base`; the last one may reach beyond.
inline UniqueFd MakePiecedFile(std::string_view input, uint64_t base = 0, uint64_t room = kMaxPiecedFile) {
  UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
  if (!fd) abort();
  while (input.size() >= kPieceHeader) {
    const uint64_t place = base + LoadLe32(input.data()) % (room / kPieceUnit) * kPieceUnit;
    const std::string_view bytes = input.substr(kPieceHeader, LoadLe16(input.data() + 4));
    if (pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(place)) < 0) abort();
    input.remove_prefix(kPieceHeader + bytes.size());
  }
  return fd;
}

inline uint64_t FileSize(int fd) {
  struct stat facts;
  if (fstat(fd, &facts) != 0) abort();
  return static_cast<uint64_t>(facts.st_size);
}

// Sets right the checksums of whatever looks like a structure that has one.
class ChecksumFixer {
 public:
  explicit ChecksumFixer(int fd) : fd_(fd), size_(FileSize(fd)) {}

  void FixAll() {
    FixVhd(0);
    if (size_ >= kVhdFooterSize) FixVhd(size_ - kVhdFooterSize);
    for (uint64_t offset : kVhdxHeaderOffsets) {
      const std::string header = FixVhdx(offset, kVhdxHeaderSize, "head");
      if (!header.empty()) FixLog(LoadLe64(&header[72]), LoadLe32(&header[68]));
    }
    for (uint64_t offset : kVhdxRegionTableOffsets) FixVhdx(offset, kVhdxRegionTableSize, "regi");
  }

  // `guid`: what entries are to name, too.
  void FixLog(uint64_t offset, uint64_t size, const Guid* guid = nullptr) {
    std::string log = size > kMaxLog ? "" : Read(offset, size);
    for (uint64_t at = 0; at + kLogSector <= log.size(); at += kLogSector) {
      if (log.compare(at, 4, "loge") != 0) continue;
      if (guid != nullptr) {
        log.replace(at + kGuidAt, guid->size(), guid->data(), guid->size());
        if (pwrite(fd_, guid->data(), guid->size(), static_cast<off_t>(offset + at + kGuidAt)) < 0) abort();
      }
      const uint64_t length = LoadLe32(&log[at + 8]);
      if (length < kLogSector || length > size || length > kMaxEntry) continue;
      // The log is a ring.
      std::string whole = log.substr(at, length);
      whole += log.substr(0, length - whole.size());
      Write32(offset + at + 4, VhdxChecksum(whole, 4));
    }
  }

 private:
  static constexpr uint64_t kLogSector = 4096;
  static constexpr uint64_t kGuidAt = 32;  // in an entry
  static constexpr uint64_t kMaxLog = uint64_t{1} << 20;
  static constexpr uint64_t kMaxEntry = uint64_t{64} << 10;  // checksums of larger ones take too long

  // Empty where it is not all in the file.
  std::string Read(uint64_t offset, uint64_t size) const {
    if (offset > size_ || size > size_ - offset) return {};
    std::string bytes(size, '\0');
    if (pread(fd_, bytes.data(), size, static_cast<off_t>(offset)) != static_cast<ssize_t>(size)) abort();
    return bytes;
  }
  void Write32(uint64_t offset, uint32_t value) const {
    std::string bytes;
    AppendLe(value, bytes);
    if (pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset)) != 4) abort();
  }
  std::string FixVhdx(uint64_t offset, uint64_t size, std::string_view magic) const {
    std::string bytes = Read(offset, size);
    if (!bytes.starts_with(magic)) return {};
    Write32(offset + 4, VhdxChecksum(bytes, 4));
    return bytes;
  }
  void FixVhd(uint64_t offset) const {
    const std::string footer = Read(offset, kVhdFooterSize);
    if (!footer.starts_with("conectix")) return;
    FixSum(offset, footer, 64);
    const uint64_t header_at = LoadBe64(&footer[16]);
    const std::string header = Read(header_at, kVhdDynamicHeaderSize);
    if (header.starts_with("cxsparse")) FixSum(header_at, header, 36);
  }
  void FixSum(uint64_t offset, std::string_view bytes, size_t at) const {
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes.size(); ++i) sum += i >= at && i < at + 4 ? 0 : static_cast<uint8_t>(bytes[i]);
    Write32(offset + at, __builtin_bswap32(~sum));
  }

  const int fd_;
  const uint64_t size_;
};

}  // namespace libmount

#endif  // TESTS_FUZZ_DISK_PIECES_H_
