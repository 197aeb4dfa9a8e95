// SPDX-License-Identifier: GPL-3.0-or-later
//
// SolidGuess: which solid chunk a reader of small files will want next.
//
// Small files read in no order that a solid resource knows jump from chunk to chunk, and each chunk takes half a second
// on one core. While one is decoded, an idle core may decode the chunk that holds the most small files of those not
// decoded yet: it is the likeliest to be asked for. (A reader of large files sets nothing off.)
//
// Thread safety: thread-safe.

#ifndef LIBMOUNT_WIM_SOLID_GUESS_H_
#define LIBMOUNT_WIM_SOLID_GUESS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libmount/wim/chunk_table.h"
#include "libmount/wim/resource_reader.h"

namespace libmount {

class SolidGuess {
 public:
  // May be empty: then nothing is ever guessed.
  explicit SolidGuess(const ResourceReader::VisitBlobs* visit_blobs) : visit_blobs_(*visit_blobs) {}

  // A read at `offset` of a solid resource has to decode a chunk. Returns the chunk worth decoding meanwhile; each is
  // returned once until Forget.
  std::optional<uint64_t> NoteMiss(uint32_t resource, const ResourceLocation& location, uint64_t chunk_count,
                                   uint64_t offset);

  // What was decoded may have been dropped since.
  void Forget();

 private:
  struct Resource {
    std::vector<uint32_t> small_blobs;  // of each chunk; 0 also for those decoded or returned
    uint64_t last_chunk = ~uint64_t{0};
  };

  void Count(uint32_t index, const ResourceLocation& location, uint64_t chunk_count, Resource& resource) const;
  bool IsSmallBlob(uint32_t index, const ResourceLocation& location, uint64_t offset) const;

  const ResourceReader::VisitBlobs& visit_blobs_;
  absl::Mutex mutex_;
  absl::flat_hash_map<uint32_t, Resource> resources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_SOLID_GUESS_H_
