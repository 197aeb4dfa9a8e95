// SPDX-License-Identifier: GPL-3.0-or-later
//
// ReadWholeResource: see resource_reader.h.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/wim/chunk_table.h"
#include "libmount/wim/decoder.h"
#include "libmount/wim/parallel_runner.h"
#include "libmount/wim/resource_reader.h"

namespace libmount {
namespace {

constexpr size_t kRawPiece = size_t{1} << 20;
// Chunks whose table entries are read at once, and that one thread decodes.
constexpr uint64_t kChunksAtOnce = 32;

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

// Lets the kernel give all pages at once: a fifth cheaper than by a fault for each, which is what it is where it
// cannot.
void Populate(absl::Span<char> pages) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(pages.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(pages.data() + pages.size());
  (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
}

// Decodes the chunks from `first` on, at most kChunksAtOnce of them, into their place in `out`.
absl::Status ReadGroup(const WimSource& source, const ResourceLocation& location, const ChunkTable& table,
                       uint64_t first, Decoder& decoder, absl::Span<char> out, OperationMonitor& monitor) {
  std::vector<ChunkExtent> extents(std::min(kChunksAtOnce, table.chunk_count() - first));
  absl::Status status = table.Locate(first, absl::MakeSpan(extents));
  const uint64_t begin = first * location.chunk_size;
  Populate(out.subspan(begin, extents.size() * location.chunk_size));
  for (size_t i = 0; i < extents.size() && status.ok(); ++i) {
    const uint64_t chunk = first + i;
    status = CheckCancelled(monitor);
    if (!status.ok()) break;
    absl::Span<char> piece = out.subspan(chunk * location.chunk_size, table.ChunkSize(chunk));
    status = DecodeChunk(source, location, extents[i], chunk, decoder, piece);
  }
  return status;
}

// On all cores: a caller waits for the whole, most of the time one who waits for a mount.
absl::Status ReadCompressed(const WimSource& source, const ResourceLocation& location, absl::Span<char> out,
                            OperationMonitor& monitor, absl::FunctionRef<void()> beside) {
  absl::StatusOr<ChunkTable> table = ChunkTable::Open(&source, &location);
  if (!table.ok()) return table.status();
  const size_t groups = (table->chunk_count() + kChunksAtOnce - 1) / kChunksAtOnce;
  const size_t threads = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), groups);
  std::vector<absl::Status> results(groups);
  std::atomic<bool> failed = false;
  DecoderPool decoders(threads);
  ParallelRunner runner(threads - 1);
  runner.Run(groups + 1, [&](size_t part) {
    if (part == 0) return beside();
    if (failed) return;
    const size_t group = part - 1;
    absl::StatusOr<DecoderPool::Lease> decoder = decoders.Take(location.compression, location.chunk_size);
    results[group] = decoder.ok() ? ReadGroup(source, location, *table, group * kChunksAtOnce, **decoder, out, monitor)
                                  : decoder.status();
    if (!results[group].ok()) failed = true;
  });
  for (const absl::Status& result : results) {
    if (!result.ok()) return result;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChunkBuffer> ReadWholeResource(const WimSource& source, const ResourceLocation& location,
                                              uint64_t max_size, OperationMonitor& monitor,
                                              absl::FunctionRef<void()> beside) {
  if (location.size > max_size) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: the resource at offset %d says it has %d bytes; at most %d are allowed",
                                     source.part_name(location.part), location.offset, location.size, max_size));
  }
  ChunkBuffer data(location.size);
  if (location.size == 0) return data;
  if (data.empty()) return MakeError(Reason::kOutOfResources, "no memory for a whole resource");
  absl::Status status;
  if (location.compression == Compression::kNone) {
    beside();
    status = ReadRaw(source, location, data.span(), monitor);
  } else {
    status = ReadCompressed(source, location, data.span(), monitor, beside);
  }
  if (!status.ok()) return status;
  return data;
}

}  // namespace libmount
