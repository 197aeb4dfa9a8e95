// SPDX-License-Identifier: GPL-3.0-or-later
//
// ResourceReader: random access to the uncompressed data of resources.
//
// Thread safety: all methods may be called from any number of threads at once.

#ifndef LIBMOUNT_WIM_RESOURCE_READER_H_
#define LIBMOUNT_WIM_RESOURCE_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/monitor.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

class ResourceReader {
 public:
  // Visits the blobs of a solid resource that begin within [begin, end) of its uncompressed data, in order of offset.
  using BlobVisitor = absl::FunctionRef<void(uint64_t offset, uint64_t size)>;
  using VisitBlobs = std::function<void(uint32_t resource, uint64_t begin, uint64_t end, BlobVisitor visitor)>;

  struct Options {
    size_t cache_budget = size_t{16} << 20;  // bytes of decoded chunks kept
    int decoder_threads = 0;                 // 0: one per CPU
    // Where set, the small blobs of a decoded solid chunk are kept when the chunk has to go. Called from any thread.
    VisitBlobs visit_blobs = nullptr;
  };

  // `source` and `resources` must outlive the reader. Resources are named by their index in `resources`.
  ResourceReader(const WimSource* source, const std::vector<ResourceLocation>* resources, Options options);
  ~ResourceReader();
  ResourceReader(const ResourceReader&) = delete;
  ResourceReader& operator=(const ResourceReader&) = delete;

  // Fills `out` with the uncompressed bytes of a resource from `offset`.
  // REQUIRES: the range lies within the resource. kBadImageFormat (does not decode), kImageChanged.
  absl::Status Read(uint32_t resource, uint64_t offset, absl::Span<char> out);

  // Shrinking frees at once, idle decoders too. A chunk larger than the budget is kept while it is the newest
  // one, until the next call of this: whoever goes idle sets 0.
  void SetCacheBudget(size_t bytes);

  struct Stats {
    size_t cache_bytes = 0;
    uint64_t chunks_decoded = 0;
    uint64_t bytes_decoded = 0;
    uint64_t cache_hits = 0;
    size_t wanted_bytes = 0;  // a budget that would have saved decoding chunks again; 0: this one is enough
  };
  Stats GetStats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads and decodes a whole resource at once, without a cache: metadata resources. Refuses more than `max_size`
// uncompressed bytes with kBadImageFormat. Asks the monitor between chunks. `beside` is work of the caller's that one
// of the threads does first, while the others decode; it may be left out where reading fails.
absl::StatusOr<ChunkBuffer> ReadWholeResource(
    const WimSource& source, const ResourceLocation& location, uint64_t max_size, OperationMonitor& monitor,
    absl::FunctionRef<void()> beside = [] {});

}  // namespace libmount

#endif  // LIBMOUNT_WIM_RESOURCE_READER_H_
