// SPDX-License-Identifier: GPL-3.0-or-later
//
// Where the chunks of a compressed resource lie in its file.
//
// Only the entries asked for are read, each time anew: a pread of a few hundred bytes that the page cache holds costs
// a microsecond, a chunk costs a hundred, and a table may have millions of entries. The table of a solid resource
// gives sizes, not offsets; there the sums are kept, one for each kSumStride entries.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_WIM_CHUNK_TABLE_H_
#define LIBMOUNT_WIM_CHUNK_TABLE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

struct ChunkExtent {
  uint64_t offset = 0;  // in the part's file
  uint32_t size = 0;    // compressed; the chunk's uncompressed size: stored raw
};

class ChunkTable {
 public:
  // Checks the numbers of a compressed resource; for a solid one reads the table once. `source` and `location` must
  // outlive the table.
  static absl::StatusOr<ChunkTable> Open(const WimSource* source, const ResourceLocation* location);

  uint64_t chunk_count() const { return chunk_count_; }
  // Uncompressed bytes of a chunk: chunk_size but for the last one.
  uint32_t ChunkSize(uint64_t chunk) const;

  // Fills `extents` with those of extents.size() chunks from `first`. Each lies within the resource and has between
  // one byte and its uncompressed size; else kBadImageFormat.
  // REQUIRES: the chunks exist.
  absl::Status Locate(uint64_t first, absl::Span<ChunkExtent> extents) const;

  // The same with the whole resource in memory (not solid, not pipable).
  absl::Status LocateIn(absl::Span<const char> resource, absl::Span<ChunkExtent> extents) const;

 private:
  static constexpr uint64_t kSumStride = 1024;

  ChunkTable(const WimSource* source, const ResourceLocation* location) : source_(source), location_(location) {}

  absl::Status CheckGeometry();
  absl::Status SumSizes();
  absl::Status LocateSolid(uint64_t first, absl::Span<ChunkExtent> extents) const;
  absl::Status Parse(uint64_t first, const char* entries, absl::Span<ChunkExtent> extents) const;
  absl::Status Damaged(uint64_t chunk) const;

  const WimSource* source_;
  const ResourceLocation* location_;
  uint64_t chunk_count_ = 0;
  uint32_t entry_size_ = 4;
  uint64_t table_offset_ = 0;   // in the file
  uint64_t data_offset_ = 0;    // in the file
  uint64_t data_size_ = 0;      // compressed bytes of all chunks
  std::vector<uint64_t> sums_;  // solid: offset in the data of each kSumStride-th chunk
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_CHUNK_TABLE_H_
