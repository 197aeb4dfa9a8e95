// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobProgress: how much of one blob has been decoded and hashed so far. Part of BlobVerifier.

#ifndef LIBMOUNT_WIM_BLOB_PROGRESS_H_
#define LIBMOUNT_WIM_BLOB_PROGRESS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

// A SHA-1 over a blob whose pieces may come in a somewhat different order.
//
// Not thread-safe, but hashing is kept apart from holding, so that one thread may Update while others Hold: see
// BlobVerifier, which has a lock around all but Update.
class BlobHash {
 public:
  // Pieces that cannot be hashed yet are held up to so many bytes, for this blob.
  static constexpr size_t kMaxHeld = size_t{4} << 20;

  // Keeps the bytes of a piece alive.
  using Owner = std::shared_ptr<const void>;
  struct Piece {
    uint64_t offset = 0;
    absl::Span<const char> data;
    Owner owner;
  };

  uint64_t next() const { return next_; }
  size_t held_bytes() const { return held_bytes_; }

  // Hashes what continues the hash. REQUIRES: piece.offset <= next().
  void Update(const Piece& piece);
  // Keeps a piece for later if `may_hold`, else lets it pass. Without an owner it is copied.
  void Hold(Piece piece, bool may_hold);
  // A held piece that continues the hash. REQUIRES: nobody is updating.
  std::optional<Piece> TakeHeld();

  Sha1Digest Finish() { return hash_.Finish(); }
  void DropHeld();

 private:
  Sha1 hash_;
  uint64_t next_ = 0;
  std::map<uint64_t, Piece> held_;
  size_t held_bytes_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_PROGRESS_H_
