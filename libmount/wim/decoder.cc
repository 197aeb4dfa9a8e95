// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/decoder.h"

#include <wimlib.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

// Larger input buffers (a solid chunk's) are given back after use.
constexpr size_t kKeptInputBuffer = size_t{2} << 20;
constexpr uint32_t kMinChunkSize = 1 << 12;
constexpr uint32_t kMaxChunkSize = 1 << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(Compression compression, uint32_t chunk_size) {
  // wimlib's codecs take other sizes too, but no WIM has them.
  if (compression == Compression::kNone || compression > Compression::kLzms || chunk_size < kMinChunkSize ||
      chunk_size > kMaxChunkSize || !std::has_single_bit(chunk_size)) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("compression %d with chunks of %d bytes is unknown",
                                                              static_cast<int>(compression), chunk_size));
  }
  wimlib_decompressor* decompressor = nullptr;
  int error = wimlib_create_decompressor(static_cast<wimlib_compression_type>(compression), chunk_size, &decompressor);
  if (error == WIMLIB_ERR_NOMEM) return MakeError(Reason::kOutOfResources, "no memory for a decompressor");
  if (error != 0) {
    return MakeError(Reason::kBadImageFormat, absl::StrFormat("compression %d cannot have chunks of %d bytes",
                                                              static_cast<int>(compression), chunk_size));
  }
  return std::unique_ptr<Decoder>(new Decoder(compression, chunk_size, decompressor));
}

Decoder::~Decoder() { wimlib_free_decompressor(decompressor_); }

bool Decoder::Decode(absl::Span<const char> in, absl::Span<char> out) {
  return wimlib_decompress(in.data(), in.size(), out.data(), out.size(), decompressor_) == 0;
}

absl::Span<char> Decoder::InputBuffer(size_t size) {
  if (input_.size() < size) {
    input_ = ChunkBuffer();
    input_ = ChunkBuffer(size);
  }
  return input_.span().subspan(0, size);
}

void Decoder::TrimInputBuffer() {
  if (input_.size() > kKeptInputBuffer) input_ = ChunkBuffer();
}

absl::StatusOr<DecoderPool::Lease> DecoderPool::Take(Compression compression, uint32_t chunk_size) {
  {
    absl::MutexLock lock(&mutex_);
    auto match = std::find_if(idle_.rbegin(), idle_.rend(), [&](const std::unique_ptr<Decoder>& decoder) {
      return decoder->compression() == compression && decoder->chunk_size() == chunk_size;
    });
    if (match != idle_.rend()) {
      Lease lease(match->release(), Return{this});
      idle_.erase(std::next(match).base());
      return lease;
    }
  }
  absl::StatusOr<std::unique_ptr<Decoder>> decoder = Decoder::Create(compression, chunk_size);
  if (!decoder.ok()) return decoder.status();
  return Lease(decoder->release(), Return{this});
}

void DecoderPool::Put(std::unique_ptr<Decoder> decoder) {
  decoder->TrimInputBuffer();
  absl::MutexLock lock(&mutex_);
  if (idle_.size() == max_idle_) idle_.erase(idle_.begin());
  idle_.push_back(std::move(decoder));
}

void DecoderPool::Clear() {
  std::vector<std::unique_ptr<Decoder>> idle;
  absl::MutexLock lock(&mutex_);
  idle.swap(idle_);
}

}  // namespace libmount
