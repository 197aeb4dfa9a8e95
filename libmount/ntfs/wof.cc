// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/wof.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

// [ u32 version 1 ][ u32 provider ][ u32 version 1 of the provider's ][ u32 algorithm ]
constexpr size_t kReparseSize = 16;
constexpr uint32_t kVersion = 1;
constexpr uint32_t kProviderFile = 2;

struct Algorithm {
  Compression compression;
  uint32_t chunk_size;
};

// By number.
constexpr Algorithm kAlgorithms[] = {{Compression::kXpress, 4096},
                                     {Compression::kLzx, 32768},
                                     {Compression::kXpress, 8192},
                                     {Compression::kXpress, 16384}};

// Files below it have places of 4 bytes.
constexpr uint64_t kSmallFile = uint64_t{1} << 32;

// Places of chunks that are read at once.
constexpr uint64_t kMaxPlaces = 4096;

// Where the chunks of one file are.
class ChunkPlaces {
 public:
  ChunkPlaces(const DataMap& map, uint32_t chunk_size)
      : compressed_(*map.wof().compressed),
        chunks_((map.size() - 1) / chunk_size + 1),
        place_size_(map.size() < kSmallFile ? sizeof(uint32_t) : sizeof(uint64_t)),
        table_size_((chunks_ - 1) * place_size_) {}

  // The places of `count` chunks from `first` on, and of what follows the last. 0, EIO, ENOMEM.
  int Load(const BlockDevice& device, uint64_t first, uint64_t count) {
    if (table_size_ > compressed_.size()) return EIO;
    first_ = first;
    // The first chunk begins behind the table, the last ends with the stream: neither has a place of its own there.
    const uint64_t from = first == 0 ? 0 : first - 1;
    const uint64_t to = std::min(first + count, chunks_ - 1);
    std::string bytes(to > from ? (to - from) * place_size_ : 0, '\0');
    if (!bytes.empty()) {
      if (int error = compressed_.Read(device, from * place_size_, absl::MakeSpan(bytes))) return error;
    }
    places_.clear();
    if (first == 0) places_.push_back(0);
    for (size_t at = 0; at < bytes.size(); at += place_size_) {
      places_.push_back(place_size_ == sizeof(uint32_t) ? LoadLe32(&bytes[at]) : LoadLe64(&bytes[at]));
    }
    const uint64_t data_size = compressed_.size() - table_size_;
    if (first + count >= chunks_) places_.push_back(data_size);
    for (size_t i = 0; i < places_.size(); ++i) {
      if (places_[i] > data_size || (i > 0 && places_[i] < places_[i - 1])) return EIO;
    }
    return places_.size() == count + 1 ? 0 : EIO;
  }

  uint64_t begin(uint64_t chunk) const { return table_size_ + places_[chunk - first_]; }
  uint64_t size(uint64_t chunk) const { return places_[chunk - first_ + 1] - places_[chunk - first_]; }

 private:
  const DataMap& compressed_;
  const uint64_t chunks_;
  const uint64_t place_size_;
  const uint64_t table_size_;
  uint64_t first_ = 0;
  std::vector<uint64_t> places_;
};

}  // namespace

std::optional<uint32_t> WofAlgorithm(std::string_view data) {
  if (data.size() < kReparseSize || LoadLe32(data.data()) != kVersion || LoadLe32(&data[4]) != kProviderFile ||
      LoadLe32(&data[8]) != kVersion) {
    return std::nullopt;
  }
  const uint32_t algorithm = LoadLe32(&data[12]);
  if (algorithm >= std::size(kAlgorithms)) return std::nullopt;
  return algorithm;
}

int WofReader::Read(const BlockDevice& device, const DataMap& map, uint64_t offset, absl::Span<char> out) {
  const Algorithm& algorithm = kAlgorithms[map.wof().algorithm];
  const DataMap& compressed = *map.wof().compressed;
  const uint32_t chunk_size = algorithm.chunk_size;
  absl::StatusOr<DecoderPool::Lease> decoder = decoders_.Take(algorithm.compression, chunk_size);
  if (!decoder.ok()) return ENOMEM;

  ChunkPlaces places(map, chunk_size);
  uint64_t places_end = 0;
  std::string partial;
  while (!out.empty()) {
    const uint64_t chunk = offset / chunk_size;
    if (chunk >= places_end) {
      places_end = std::min((offset + out.size() - 1) / chunk_size + 1, chunk + kMaxPlaces);
      if (int error = places.Load(device, chunk, places_end - chunk)) return error;
    }
    const uint64_t chunk_at = chunk * chunk_size;
    const size_t plain_size = std::min<uint64_t>(chunk_size, map.size() - chunk_at);
    const size_t skip = offset - chunk_at;
    const size_t length = std::min(out.size(), plain_size - skip);
    const uint64_t stored_size = places.size(chunk);
    if (stored_size == 0 || stored_size > plain_size) return EIO;
    if (stored_size == plain_size) {
      if (int error = compressed.Read(device, places.begin(chunk) + skip, out.first(length))) return error;
    } else {
      absl::Span<char> input = (*decoder)->InputBuffer(stored_size);
      if (input.empty()) return ENOMEM;
      input = input.first(stored_size);
      if (int error = compressed.Read(device, places.begin(chunk), input)) return error;
      absl::Span<char> plain = out.first(length);
      if (length < plain_size) {
        partial.resize(plain_size);
        plain = absl::MakeSpan(partial);
      }
      if (!(*decoder)->Decode(input, plain)) return EIO;
      if (length < plain_size) memcpy(out.data(), partial.data() + skip, length);
    }
    out.remove_prefix(length);
    offset += length;
  }
  return 0;
}

}  // namespace libmount
