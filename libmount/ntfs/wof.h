// SPDX-License-Identifier: GPL-3.0-or-later
//
// Files that the Windows Overlay Filter keeps compressed (CompactOS): a reparse point says how, the unnamed stream is
// one hole of the file's size, and the stream WofCompressedData holds the bytes:
//
//   [ u32 end of chunk 0 ][ of chunk 1 ] ... [ of the last but one ][ chunk 0 ][ chunk 1 ] ...
//
// Places count from the first chunk; they have 8 bytes where the file has 4 GiB or more. A chunk that did not become
// smaller is stored as it is.
//
// Thread safety: all of it may be used from any number of threads.

#ifndef LIBMOUNT_NTFS_WOF_H_
#define LIBMOUNT_NTFS_WOF_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "libmount/block/block_device.h"
#include "libmount/ntfs/data_map.h"
#include "libmount/wim/decoder.h"

namespace libmount {

inline constexpr uint32_t kReparseWof = 0x80000017;
inline constexpr std::string_view kWofStreamName = "WofCompressedData";

inline constexpr uint32_t kWofXpress4k = 0;
inline constexpr uint32_t kWofLzx = 1;
inline constexpr uint32_t kWofXpress8k = 2;
inline constexpr uint32_t kWofXpress16k = 3;

// The algorithm, from the reparse data behind their header; nullopt: not kept in the file itself (but in a WIM), or of
// a kind that nobody knows.
std::optional<uint32_t> WofAlgorithm(std::string_view reparse_data);

class WofReader {
 public:
  WofReader() : decoders_(kIdleDecoders) {}

  // REQUIRES: map.kind() is kWof; the range lies within its size. 0, EIO (damaged), ENOMEM.
  int Read(const BlockDevice& device, const DataMap& map, uint64_t offset, absl::Span<char> out);

  // Frees what is kept for the next read.
  void Trim() { decoders_.Clear(); }

 private:
  static constexpr size_t kIdleDecoders = 8;
  DecoderPool decoders_;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_WOF_H_
