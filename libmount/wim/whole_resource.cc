// SPDX-License-Identifier: GPL-3.0-or-later
//
// ReadWholeResource: see resource_reader.h.

#include <algorithm>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/wim/chunk_table.h"
#include "libmount/wim/decoder.h"
#include "libmount/wim/resource_reader.h"

namespace libmount {
namespace {

constexpr size_t kRawPiece = size_t{1} << 20;
// Chunks whose table entries are read at once.
constexpr uint64_t kChunksAtOnce = 256;

absl::Status ReadRaw(const WimSource& source, const ResourceLocation& location, absl::Span<char> out,
                     OperationMonitor& monitor) {
  if (location.size > location.size_in_file) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the resource at offset %d is shorter than its size says",
                                     source.part_name(location.part), location.offset));
  }
  for (size_t done = 0; done < out.size(); done += kRawPiece) {
    absl::Status status = CheckCancelled(monitor);
    if (status.ok()) {
      status = source.Read(location.part, location.offset + done, out.subspan(done, kRawPiece));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status DecodeChunk(const WimSource& source, const ResourceLocation& location, const ChunkExtent& extent,
                         uint64_t chunk, Decoder& decoder, absl::Span<char> out) {
  if (extent.size == out.size()) return source.Read(location.part, extent.offset, out);
  absl::Span<char> input = decoder.InputBuffer(extent.size);
  if (input.size() != extent.size) return MakeError(Reason::kOutOfResources, "no memory for a compressed chunk");
  absl::Status status = source.Read(location.part, extent.offset, input);
  if (!status.ok() || decoder.Decode(input, out)) return status;
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: chunk %d of the resource at offset %d does not decode",
                                                            source.part_name(location.part), chunk, location.offset));
}

absl::Status ReadCompressed(const WimSource& source, const ResourceLocation& location, absl::Span<char> out,
                            OperationMonitor& monitor) {
  absl::StatusOr<ChunkTable> table = ChunkTable::Open(&source, &location);
  if (!table.ok()) return table.status();
  absl::StatusOr<std::unique_ptr<Decoder>> decoder = Decoder::Create(location.compression, location.chunk_size);
  if (!decoder.ok()) return decoder.status();
  std::vector<ChunkExtent> extents;
  for (uint64_t chunk = 0; chunk < table->chunk_count(); ++chunk) {
    absl::Status status = CheckCancelled(monitor);
    uint64_t index = chunk % kChunksAtOnce;
    if (status.ok() && index == 0) {
      extents.resize(std::min(kChunksAtOnce, table->chunk_count() - chunk));
      status = table->Locate(chunk, absl::MakeSpan(extents));
    }
    if (status.ok()) {
      absl::Span<char> piece = out.subspan(chunk * location.chunk_size, table->ChunkSize(chunk));
      status = DecodeChunk(source, location, extents[index], chunk, **decoder, piece);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<char>> ReadWholeResource(const WimSource& source, const ResourceLocation& location,
                                                    uint64_t max_size, OperationMonitor& monitor) {
  if (location.size > max_size) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the resource at offset %d says it has %d bytes; at most %d are allowed",
                                     source.part_name(location.part), location.offset, location.size, max_size));
  }
  std::vector<char> data(location.size);
  if (data.empty()) return data;
  absl::Status status = location.compression == Compression::kNone
                            ? ReadRaw(source, location, absl::MakeSpan(data), monitor)
                            : ReadCompressed(source, location, absl::MakeSpan(data), monitor);
  if (!status.ok()) return status;
  return data;
}

}  // namespace libmount
