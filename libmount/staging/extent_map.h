// SPDX-License-Identifier: GPL-3.0-or-later
//
// ExtentMap: which ranges of a stream live in the arena, byte by byte. What no extent covers is the base's, or zero.
//
// Thread safety: as a standard container.

#ifndef LIBMOUNT_STAGING_EXTENT_MAP_H_
#define LIBMOUNT_STAGING_EXTENT_MAP_H_

#include <cstdint>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/functional/function_ref.h"

namespace libmount {

// Bytes of the arena.
struct ArenaRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct Extent {
  uint64_t length = 0;
  uint64_t arena = 0;  // or kZeros
  uint64_t epoch = 0;  // when it was made; see Catalog::Freeze

  static constexpr uint64_t kZeros = UINT64_MAX;  // hides what the base has there
  bool is_data() const { return arena != kZeros; }
};

class ExtentMap {
 public:
  // `extent` is null where there is none; else it begins at or before `offset`, and `skip` is how far before.
  using Visitor = absl::FunctionRef<void(uint64_t offset, uint64_t length, const Extent* extent, uint64_t skip)>;

  // Lays an extent over what is there; what it hides is added to `freed`.
  void Put(uint64_t offset, const Extent& extent, std::vector<ArenaRange>& freed);
  void Remove(uint64_t offset, uint64_t length, std::vector<ArenaRange>& freed);

  // All of [offset, offset + length), in order.
  void Visit(uint64_t offset, uint64_t length, Visitor visitor) const;
  // Where in the arena the extent ends that ends at `offset`; kZeros: none does.
  uint64_t ArenaEndBefore(uint64_t offset) const;

  bool empty() const { return extents_.empty(); }
  // In the arena.
  uint64_t data_bytes() const { return data_bytes_; }
  // By offset.
  const absl::btree_map<uint64_t, Extent>& extents() const { return extents_; }

 private:
  void Insert(uint64_t offset, const Extent& extent);

  absl::btree_map<uint64_t, Extent> extents_;
  uint64_t data_bytes_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_EXTENT_MAP_H_
