// SPDX-License-Identifier: GPL-3.0-or-later
//
// Decoder: one of wimlib's decompressors. DecoderPool: those in use, kept for the next caller.
//
// A decompressor costs 30 KiB (XPRESS) to some 200 KiB (LZMS) and page faults to make, so that the pool keeps as many
// as its callers used at once, up to a bound.
//
// Thread safety: DecoderPool is thread-safe; a Decoder belongs to one thread at a time.

#ifndef LIBMOUNT_WIM_DECODER_H_
#define LIBMOUNT_WIM_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/resource.h"

struct wimlib_decompressor;

namespace libmount {

class Decoder {
 public:
  // kBadImageFormat: a compression or chunk size that no WIM has; kOutOfResources.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(Compression compression, uint32_t chunk_size);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // False when `in` is not a valid chunk of exactly out.size() bytes. `out` may have been written to then.
  bool Decode(absl::Span<const char> in, absl::Span<char> out);

  // A place for compressed data, kept between calls. Empty when there is no memory.
  absl::Span<char> InputBuffer(size_t size);
  // Gives it back where it is too large to be kept (a solid chunk's).
  void TrimInputBuffer();

  Compression compression() const { return compression_; }
  uint32_t chunk_size() const { return chunk_size_; }

 private:
  friend class DecoderPool;
  Decoder(Compression compression, uint32_t chunk_size, wimlib_decompressor* decompressor)
      : compression_(compression), chunk_size_(chunk_size), decompressor_(decompressor) {}

  Compression compression_;
  uint32_t chunk_size_;
  wimlib_decompressor* decompressor_;
  ChunkBuffer input_;
};

class DecoderPool {
 public:
  // Gives the decoder back to its pool.
  struct Return {
    DecoderPool* pool = nullptr;
    void operator()(Decoder* decoder) const { pool->Put(std::unique_ptr<Decoder>(decoder)); }
  };
  using Lease = std::unique_ptr<Decoder, Return>;

  // Keeps at most `max_idle` decoders that nobody uses.
  explicit DecoderPool(size_t max_idle) : max_idle_(max_idle) {}

  absl::StatusOr<Lease> Take(Compression compression, uint32_t chunk_size);

  // Frees those that nobody uses.
  void Clear();

 private:
  void Put(std::unique_ptr<Decoder> decoder);

  const size_t max_idle_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Decoder>> idle_ ABSL_GUARDED_BY(mutex_);  // the last one was used last
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_DECODER_H_
