// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/chunk_table.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint32_t kSolidHeaderSize = 16;
// In front of each chunk of a pipable WIM.
constexpr uint32_t kPipableChunkHeaderSize = 4;
// 64 MiB of table. Real solid resources have chunks of 128 KiB to 64 MiB, so that this is at least 2 TiB.
constexpr uint64_t kMaxSolidChunks = uint64_t{1} << 24;

}  // namespace

absl::StatusOr<ChunkTable> ChunkTable::Open(const WimSource* source, const ResourceLocation* location) {
  ChunkTable table(source, location);
  absl::Status status = table.CheckGeometry();
  if (status.ok() && location->solid) status = table.SumSizes();
  if (!status.ok()) return status;
  return table;
}

absl::Status ChunkTable::CheckGeometry() {
  const ResourceLocation& location = *location_;
  auto bad = [&](const char* what) {
    return MakeError(
        Reason::kBadImageFormat,
        absl::StrFormat("%s: the resource at offset %d %s", source_->part_name(location.part), location.offset, what));
  };
  uint64_t file_size = source_->part_size(location.part);
  if (location.offset > file_size || location.size_in_file > file_size - location.offset) {
    return bad("does not lie within the file");
  }
  if (location.chunk_size == 0 || location.size == 0) return bad("has no chunks");
  chunk_count_ = (location.size - 1) / location.chunk_size + 1;
  // Each chunk takes a byte at least: keeps the products below from overflowing.
  if (chunk_count_ > location.size_in_file) return bad("is too small for its chunks");
  if (location.solid && chunk_count_ > kMaxSolidChunks) return bad("has too many chunks");

  entry_size_ = location.solid || location.size <= std::numeric_limits<uint32_t>::max() ? 4 : 8;
  uint64_t header = location.solid ? kSolidHeaderSize : 0;
  uint64_t entries = location.solid ? chunk_count_ : chunk_count_ - 1;
  uint64_t overhead = header + entries * entry_size_;
  if (location.pipable && !location.solid) overhead += chunk_count_ * kPipableChunkHeaderSize;
  if (overhead >= location.size_in_file) return bad("is too small for its chunk table");
  data_size_ = location.size_in_file - overhead;
  table_offset_ = location.offset + header;
  data_offset_ = table_offset_ + entries * entry_size_;
  if (location.pipable && !location.solid) {
    data_offset_ = location.offset;
    table_offset_ = location.offset + location.size_in_file - entries * entry_size_;
  }
  return absl::OkStatus();
}

absl::Status ChunkTable::SumSizes() {
  sums_.reserve((chunk_count_ - 1) / kSumStride + 1);
  char entries[kSumStride * 4];
  uint64_t sum = 0;
  for (uint64_t chunk = 0; chunk < chunk_count_; chunk += kSumStride) {
    sums_.push_back(sum);
    uint64_t count = std::min(kSumStride, chunk_count_ - chunk);
    absl::Status status = source_->Read(location_->part, table_offset_ + chunk * 4, absl::MakeSpan(entries, count * 4));
    if (!status.ok()) return status;
    for (uint64_t i = 0; i < count; ++i) sum += LoadLe32(entries + i * 4);
  }
  // More than the file holds: the chunks that lie within it can still be read.
  return absl::OkStatus();
}

uint32_t ChunkTable::ChunkSize(uint64_t chunk) const {
  if (chunk + 1 < chunk_count_) return location_->chunk_size;
  return static_cast<uint32_t>(location_->size - chunk * location_->chunk_size);
}

absl::Status ChunkTable::Locate(uint64_t first, absl::Span<ChunkExtent> extents) const {
  if (location_->solid) return LocateSolid(first, extents);
  // Entry i is the offset of chunk i + 1; the last chunk's end has none.
  uint64_t first_entry = first == 0 ? 0 : first - 1;
  uint64_t end_entry = std::min(first + extents.size(), chunk_count_ - 1);
  std::vector<char> entries((end_entry - first_entry) * entry_size_);
  if (!entries.empty()) {
    absl::Status status =
        source_->Read(location_->part, table_offset_ + first_entry * entry_size_, absl::MakeSpan(entries));
    if (!status.ok()) return status;
  }
  return Parse(first, entries.data(), extents);
}

absl::Status ChunkTable::LocateIn(absl::Span<const char> resource, absl::Span<ChunkExtent> extents) const {
  return Parse(0, resource.data(), extents);
}

// `entries` begins with the offset of chunk `first`; where that is 0, which has no entry, with that of chunk 1.
absl::Status ChunkTable::Parse(uint64_t first, const char* entries, absl::Span<ChunkExtent> extents) const {
  auto next_offset = [&] {
    uint64_t offset = entry_size_ == 4 ? LoadLe32(entries) : LoadLe64(entries);
    entries += entry_size_;
    return offset;
  };
  uint64_t begin = first == 0 ? 0 : next_offset();
  for (size_t i = 0; i < extents.size(); ++i) {
    uint64_t chunk = first + i;
    uint64_t end = chunk + 1 < chunk_count_ ? next_offset() : data_size_;
    if (begin >= end || end > data_size_ || end - begin > ChunkSize(chunk)) return Damaged(chunk);
    uint64_t headers = location_->pipable ? (chunk + 1) * kPipableChunkHeaderSize : 0;
    extents[i] = {data_offset_ + begin + headers, static_cast<uint32_t>(end - begin)};
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status ChunkTable::LocateSolid(uint64_t first, absl::Span<ChunkExtent> extents) const {
  uint64_t chunk = first / kSumStride * kSumStride;
  uint64_t begin = sums_[first / kSumStride];
  std::vector<char> entries((first + extents.size() - chunk) * 4);
  absl::Status status = source_->Read(location_->part, table_offset_ + chunk * 4, absl::MakeSpan(entries));
  if (!status.ok()) return status;
  const char* entry = entries.data();
  for (; chunk < first + extents.size(); ++chunk, entry += 4) {
    uint32_t size = LoadLe32(entry);
    if (chunk >= first) {
      if (size == 0 || size > ChunkSize(chunk) || begin > data_size_ || size > data_size_ - begin) {
        return Damaged(chunk);
      }
      extents[chunk - first] = {data_offset_ + begin, size};
    }
    begin += size;
  }
  return absl::OkStatus();
}

absl::Status ChunkTable::Damaged(uint64_t chunk) const {
  return MakeError(Reason::kBadImageFormat,
                   absl::StrFormat("%s: chunk %d of the resource at offset %d has an impossible place or size",
                                   source_->part_name(location_->part), chunk, location_->offset));
}

}  // namespace libmount
