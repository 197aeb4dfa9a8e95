// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/integrity.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/wim/sha1.h"

namespace libmount {
namespace {

constexpr size_t kTableHeaderSize = 12;
constexpr size_t kHashSize = sizeof(Sha1Digest);
constexpr size_t kReadSize = 1 << 20;
constexpr unsigned kMaxThreads = 16;
// How often the watching thread looks up; the workers themselves stop after the piece at hand.
constexpr absl::Duration kReportInterval = absl::Milliseconds(50);

absl::Status BadTable(const std::string& file) {
  return MakeError(Reason::kIntegrityCheckFailed,
                   absl::StrFormat("%s: the integrity table itself is damaged. The file may be truncated or altered: "
                                   "copy it again from its source.",
                                   file));
}

// The threads that hash one part, chunk by chunk.
class PartHasher {
 public:
  PartHasher(const WimSource& source, uint16_t part, const IntegrityTable& table, uint64_t covered)
      : source_(source), part_(part), table_(table), end_(kWimHeaderSize + covered) {}

  absl::Status Run(IntegrityProgress& progress, OperationMonitor& monitor) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Work() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckChunk(uint64_t chunk, absl::Span<char> buffer);
  // Keeps the error of the first chunk, whichever thread is faster.
  void Fail(uint64_t chunk, absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  const WimSource& source_;
  const uint16_t part_;
  const IntegrityTable& table_;
  const uint64_t end_;

  std::atomic<uint64_t> next_chunk_ = 0;
  std::atomic<uint64_t> bytes_done_ = 0;
  std::atomic<bool> stop_ = false;

  absl::Mutex mutex_;
  absl::CondVar finished_;  // running_ is 0
  unsigned running_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failed_chunk_ ABSL_GUARDED_BY(mutex_) = std::numeric_limits<uint64_t>::max();
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::Status PartHasher::Run(IntegrityProgress& progress, OperationMonitor& monitor) {
  unsigned thread_count = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads);
  thread_count = static_cast<unsigned>(std::min<uint64_t>(thread_count, std::max<uint64_t>(1, table_.count())));
  {
    absl::MutexLock lock(&mutex_);
    running_ = thread_count;
  }
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < thread_count; ++i) threads.emplace_back([this] { Work(); });

  const uint64_t done_before = progress.bytes_done;
  for (bool ended = false; !ended;) {
    {
      absl::MutexLock lock(&mutex_);
      if (running_ != 0) finished_.WaitWithTimeout(&mutex_, kReportInterval);
      ended = running_ == 0;
    }
    if (monitor.cancelled()) stop_.store(true, std::memory_order_relaxed);
    progress.bytes_done = done_before + bytes_done_.load(std::memory_order_relaxed);
    monitor.Report({Phase::kCheckingIntegrity, progress.bytes_done, progress.bytes_total});
  }
  threads.clear();
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  return status_;
}

void PartHasher::Work() {
  std::vector<char> buffer(kReadSize);
  for (;;) {
    uint64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= table_.count() || stop_.load(std::memory_order_relaxed)) break;
    absl::Status status = CheckChunk(chunk, absl::MakeSpan(buffer));
    if (!status.ok()) Fail(chunk, std::move(status));
  }
  absl::MutexLock lock(&mutex_);
  if (--running_ == 0) finished_.Signal();
}

absl::Status PartHasher::CheckChunk(uint64_t chunk, absl::Span<char> buffer) {
  const uint64_t begin = kWimHeaderSize + chunk * table_.chunk_size;
  const uint64_t end = std::min(end_, begin + table_.chunk_size);
  Sha1 sha1;
  for (uint64_t offset = begin; offset < end;) {
    if (stop_.load(std::memory_order_relaxed)) return absl::OkStatus();
    absl::Span<char> piece = buffer.first(std::min<uint64_t>(buffer.size(), end - offset));
    if (absl::Status status = source_.Read(part_, offset, piece); !status.ok()) return status;
    sha1.Update(piece);
    offset += piece.size();
    bytes_done_.fetch_add(piece.size(), std::memory_order_relaxed);
  }
  const Sha1Digest hash = sha1.Finish();
  if (memcmp(hash.data(), table_.hashes.data() + chunk * kHashSize, kHashSize) == 0) return absl::OkStatus();
  return MakeError(Reason::kIntegrityCheckFailed,
                   absl::StrFormat("%s: bytes %d to %d differ from the integrity table. The file is damaged: copy it "
                                   "again from its source.",
                                   source_.part_name(part_), begin, end - 1));
}

void PartHasher::Fail(uint64_t chunk, absl::Status status) {
  // Chunks before this one are already taken by some thread, so the first failure is still found.
  if (ReasonOf(status) != Reason::kIntegrityCheckFailed) stop_.store(true, std::memory_order_relaxed);
  next_chunk_.store(table_.count(), std::memory_order_relaxed);
  absl::MutexLock lock(&mutex_);
  if (chunk >= failed_chunk_) return;
  failed_chunk_ = chunk;
  status_ = std::move(status);
}

}  // namespace

uint64_t IntegrityTable::count() const { return hashes.size() / kHashSize; }

absl::StatusOr<IntegrityTable> ReadIntegrityTable(const WimSource& source, uint16_t part, const WimHeader& header) {
  const ResourceHeader& resource = header.integrity_table;
  const std::string& file = source.part_name(part);
  const uint64_t file_size = source.part_size(part);
  if (resource.offset > file_size || resource.size_in_file > file_size - resource.offset ||
      resource.size_in_file < kTableHeaderSize || (resource.flags & kResourceCompressed)) {
    return BadTable(file);
  }
  char fixed[kTableHeaderSize];
  if (absl::Status status = source.Read(part, resource.offset, absl::MakeSpan(fixed)); !status.ok()) return status;
  const uint64_t count = LoadLe32(fixed + 4);
  IntegrityTable table;
  table.chunk_size = LoadLe32(fixed + 8);
  const uint64_t covered = IntegrityCoverage(header);
  if (table.chunk_size == 0 || count * kHashSize > resource.size_in_file - kTableHeaderSize ||
      count != covered / table.chunk_size + (covered % table.chunk_size != 0)) {
    return BadTable(file);
  }
  table.hashes.resize(count * kHashSize);
  absl::Status status = source.Read(part, resource.offset + kTableHeaderSize, absl::MakeSpan(table.hashes));
  if (!status.ok()) return status;
  return table;
}

uint64_t IntegrityCoverage(const WimHeader& header) {
  if (header.integrity_table.empty()) return 0;
  const uint64_t end = header.blob_table.offset + header.blob_table.size_in_file;
  return end > kWimHeaderSize && end >= header.blob_table.offset ? end - kWimHeaderSize : 0;
}

absl::Status CheckPartIntegrity(const WimSource& source, uint16_t part, const WimHeader& header,
                                IntegrityProgress& progress, OperationMonitor& monitor) {
  if (header.integrity_table.empty()) return absl::OkStatus();
  absl::StatusOr<IntegrityTable> table = ReadIntegrityTable(source, part, header);
  if (!table.ok()) return table.status();
  return PartHasher(source, part, *table, IntegrityCoverage(header)).Run(progress, monitor);
}

}  // namespace libmount
