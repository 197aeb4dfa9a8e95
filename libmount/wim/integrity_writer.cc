// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/integrity_writer.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/chunk_buffer.h"
#include "libmount/wim/file_appender.h"
#include "libmount/wim/parallel_runner.h"
#include "libmount/wim/sha1.h"

namespace libmount {
namespace {

constexpr uint64_t kDefaultChunkSize = 10 << 20;  // as every writer has it
constexpr size_t kTableHeaderSize = 12;
constexpr size_t kReadSize = 1 << 20;
constexpr int kMaxThreads = 16;

uint64_t ChunkSize(const IntegrityWriting& writing) {
  return writing.old_table ? writing.old_table->chunk_size : kDefaultChunkSize;
}

// Chunks whose hash can be taken from the old table.
uint64_t KeptChunks(const IntegrityWriting& writing) {
  if (!writing.old_table || writing.old_end <= kWimHeaderSize) return 0;
  return std::min((writing.old_end - kWimHeaderSize) / writing.old_table->chunk_size, writing.old_table->count());
}

absl::StatusOr<Sha1Digest> HashRange(int fd, const std::string& name, uint64_t begin, uint64_t end) {
  ChunkBuffer buffer(std::min<uint64_t>(kReadSize, end - begin));
  if (buffer.empty()) return MakeError(Reason::kOutOfResources, "no memory for the integrity table");
  Sha1 sha1;
  while (begin < end) {
    absl::Span<char> piece = buffer.span().first(std::min<uint64_t>(buffer.size(), end - begin));
    if (absl::Status status = ReadAt(fd, name, begin, piece); !status.ok()) return status;
    sha1.Update(piece);
    begin += piece.size();
  }
  return sha1.Finish();
}

}  // namespace

uint64_t IntegrityWork(const IntegrityWriting& writing) {
  return writing.end - std::min(writing.end, kWimHeaderSize + KeptChunks(writing) * ChunkSize(writing));
}

absl::StatusOr<std::string> MakeIntegrityTable(int fd, const std::string& name, const IntegrityWriting& writing,
                                               const std::function<absl::Status(uint64_t)>& on_progress) {
  const uint64_t chunk_size = ChunkSize(writing);
  const uint64_t covered = writing.end - kWimHeaderSize;
  const uint64_t count = covered / chunk_size + (covered % chunk_size != 0);
  const uint64_t kept = KeptChunks(writing);
  std::string table;
  AppendLe(static_cast<uint32_t>(kTableHeaderSize + count * sizeof(Sha1Digest)), table);
  AppendLe(static_cast<uint32_t>(count), table);
  AppendLe(static_cast<uint32_t>(chunk_size), table);
  if (kept > 0) table.append(writing.old_table->hashes, 0, kept * sizeof(Sha1Digest));

  const int wanted = writing.threads > 0 ? writing.threads : static_cast<int>(std::thread::hardware_concurrency());
  const size_t threads = static_cast<size_t>(std::clamp(wanted, 1, kMaxThreads));
  ParallelRunner runner(threads - 1);
  std::vector<absl::StatusOr<Sha1Digest>> hashes(threads);
  for (uint64_t first = kept; first < count; first += threads) {
    const size_t batch = std::min<uint64_t>(threads, count - first);
    auto begin_of = [&](uint64_t chunk) { return kWimHeaderSize + chunk * chunk_size; };
    runner.Run(batch, [&](size_t i) {
      hashes[i] = HashRange(fd, name, begin_of(first + i), std::min(writing.end, begin_of(first + i + 1)));
    });
    for (size_t i = 0; i < batch; ++i) {
      if (!hashes[i].ok()) return hashes[i].status();
      table.append(reinterpret_cast<const char*>(hashes[i]->data()), hashes[i]->size());
    }
    const uint64_t done = std::min(writing.end, begin_of(first + batch)) - begin_of(first);
    if (absl::Status status = on_progress(done); !status.ok()) return status;
  }
  return table;
}

}  // namespace libmount
