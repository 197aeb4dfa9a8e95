// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobProgress: how much of one blob has been decoded and hashed so far. Part of BlobVerifier.

#ifndef LIBMOUNT_WIM_BLOB_PROGRESS_H_
#define LIBMOUNT_WIM_BLOB_PROGRESS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/sha1.h"

namespace libmount {

// Which parts of a blob have been read, a bit for each unit: at most 8 KiB of bits however large the blob.
class Coverage {
 public:
  explicit Coverage(uint64_t size);
  // A unit counts as soon as any byte of it was read: what lies around it was decoded too.
  void Mark(uint64_t offset, uint64_t size);
  bool complete() const { return missing_ == 0; }

 private:
  static constexpr uint64_t kMinUnit = 32 << 10;
  static constexpr uint64_t kMaxUnits = 65536;

  uint64_t unit_;
  uint64_t missing_;
  std::vector<uint64_t> bits_;
};

// A SHA-1 over a blob whose pieces may come in a somewhat different order. Not thread-safe.
class BlobHash {
 public:
  // Pieces that overtook others are held up to so many bytes, for this blob.
  static constexpr size_t kMaxHeld = size_t{4} << 20;

  uint64_t next() const { return next_; }
  size_t held_bytes() const { return held_bytes_; }

  // Takes what continues the hash; holds a copy of what comes too early if `may_hold`, else lets it pass.
  void Feed(uint64_t offset, absl::Span<const char> data, bool may_hold);
  Sha1Digest Finish() { return hash_.Finish(); }
  void DropHeld();

 private:
  void Take(uint64_t offset, absl::Span<const char> data);

  Sha1 hash_;
  uint64_t next_ = 0;
  std::map<uint64_t, ChunkBuffer> held_;
  size_t held_bytes_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_PROGRESS_H_
