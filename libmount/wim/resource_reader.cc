// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/resource_reader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/reason.h"
#include "libmount/base/small_thread.h"
#include "libmount/wim/chunk_cache.h"
#include "libmount/wim/chunk_table.h"
#include "libmount/wim/decoder.h"
#include "libmount/wim/parallel_runner.h"
#include "libmount/wim/small_blob_cache.h"
#include "libmount/wim/solid_guess.h"

namespace libmount {
namespace {

// Compressed bytes of adjacent chunks that are read at once.
constexpr size_t kMaxInput = size_t{1} << 20;
// Fewer chunks are not worth waking another thread for.
constexpr size_t kMinJobsToSplit = 4;
// The small blobs of solid chunks may take three quarters of the cache's budget: whoever reads them has little use for
// the chunks, of which the newest is kept in any case.
constexpr size_t SmallBlobShare(size_t budget) { return budget / 4 * 3; }
// With room for so many solid chunks, some of them kept whole save more decoding than blobs of middling size kept
// without their chunks (all of a 1.2 GB .esd in directory order, 512 MiB: 3.6 instead of 8.9 GB decoded).
constexpr size_t kRoomyChunks = 6;
// Room in the budget for so many solid chunks is needed to decode a likely one.
constexpr size_t kChunksForGuess = 3;
// Solid resources whose tables are kept; real images have one or two.
constexpr size_t kMaxSolidTables = 16;

// One chunk that a read has to decode.
struct Job {
  uint64_t chunk = 0;
  ChunkExtent extent;
  absl::Span<char> out;                      // the part of the caller's buffer that it fills
  size_t skip = 0;                           // bytes of the chunk before `out`
  uint32_t size = 0;                         // of the whole chunk
  std::unique_ptr<ChunkCache::Claim> claim;  // set: only a part is asked for, the chunk goes to the cache
  bool alone = false;                        // nothing else is decoded from its decoder's input buffer
};

// A part of the caller's buffer that somebody else's decoding will fill.
struct Awaited {
  ChunkCache::Flight flight;
  absl::Span<char> out;
  size_t skip = 0;
};

}  // namespace

class ResourceReader::Impl {
 public:
  Impl(const WimSource* source, const std::vector<ResourceLocation>* resources, Options options)
      : source_(*source),
        resources_(*resources),
        thread_count_(options.decoder_threads > 0 ? options.decoder_threads
                                                  : std::max(1u, std::thread::hardware_concurrency())),
        visit_blobs_(std::move(options.visit_blobs)),
        guess_(&visit_blobs_),
        cache_(options.cache_budget),
        small_blobs_(SmallBlobShare(options.cache_budget)),
        decoders_(thread_count_),
        runner_(thread_count_ - 1),
        budget_(options.cache_budget) {}

  ~Impl();
  absl::Status Read(uint32_t resource, uint64_t offset, absl::Span<char> out);
  void SetCacheBudget(size_t bytes);
  Stats GetStats() const;

 private:
  using TablePointer = std::shared_ptr<const ChunkTable>;

  // A compressed resource that is being read.
  struct Open {
    uint32_t index;
    const ResourceLocation& location;
    TablePointer table;
  };

  absl::StatusOr<TablePointer> OpenTable(uint32_t resource);
  absl::Status ReadCompressed(const Open& resource, uint64_t offset, absl::Span<char> out);
  absl::Status Decode(const Open& resource, absl::Span<Job> jobs);
  absl::Status DecodePart(const Open& resource, absl::Span<Job> jobs);
  absl::Status DecodeRun(const Open& resource, absl::Span<Job> jobs, Decoder& decoder);
  absl::Status DecodeOne(const Open& resource, Job& job, absl::Span<const char> input, Decoder& decoder);
  size_t KeepSmallBlobs(const Open& resource, uint64_t chunk, absl::Span<const char> data);
  void DecodeLikelyChunk(const Open& resource, uint64_t missed_offset);

  const WimSource& source_;
  const std::vector<ResourceLocation>& resources_;
  const size_t thread_count_;
  const VisitBlobs visit_blobs_;
  SolidGuess guess_;
  ChunkCache cache_;
  SmallBlobCache small_blobs_;
  DecoderPool decoders_;
  ParallelRunner runner_;
  std::atomic<int> active_reads_ = 0;
  std::atomic<size_t> budget_;
  std::atomic<uint64_t> chunks_decoded_ = 0;
  std::atomic<uint64_t> bytes_decoded_ = 0;

  absl::Mutex likely_mutex_;
  bool likely_runs_ ABSL_GUARDED_BY(likely_mutex_) = false;
  absl::CondVar likely_ended_;
  SmallThread likely_ ABSL_GUARDED_BY(likely_mutex_);

  absl::Mutex tables_mutex_;
  absl::flat_hash_map<uint32_t, TablePointer> solid_tables_ ABSL_GUARDED_BY(tables_mutex_);
};

absl::StatusOr<ResourceReader::Impl::TablePointer> ResourceReader::Impl::OpenTable(uint32_t resource) {
  const ResourceLocation& location = resources_[resource];
  if (location.solid) {
    absl::MutexLock lock(&tables_mutex_);
    auto found = solid_tables_.find(resource);
    if (found != solid_tables_.end()) return found->second;
  }
  absl::StatusOr<ChunkTable> table = ChunkTable::Open(&source_, &location);
  if (!table.ok()) return table.status();
  auto shared = std::make_shared<const ChunkTable>(*std::move(table));
  if (location.solid) {
    absl::MutexLock lock(&tables_mutex_);
    if (solid_tables_.size() >= kMaxSolidTables) solid_tables_.clear();
    solid_tables_[resource] = shared;
  }
  return shared;
}

absl::Status ResourceReader::Impl::Read(uint32_t resource, uint64_t offset, absl::Span<char> out) {
  if (out.empty()) return absl::OkStatus();
  const ResourceLocation& location = resources_[resource];
  if (offset > location.size || out.size() > location.size - offset) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: bytes beyond the end of the resource at offset %d were asked for",
                                     source_.part_name(location.part), location.offset));
  }
  if (location.compression == Compression::kNone) return source_.Read(location.part, location.offset + offset, out);

  absl::StatusOr<TablePointer> table = OpenTable(resource);
  if (!table.ok()) return table.status();
  ++active_reads_;
  absl::Status status = ReadCompressed({resource, location, *std::move(table)}, offset, out);
  --active_reads_;
  return status;
}

absl::Status ResourceReader::Impl::ReadCompressed(const Open& resource, uint64_t offset, absl::Span<char> out) {
  std::vector<Job> jobs;
  std::vector<Awaited> awaited;
  for (size_t done = 0; done < out.size();) {
    Job job;
    job.chunk = (offset + done) / resource.location.chunk_size;
    job.skip = (offset + done) % resource.location.chunk_size;
    job.size = resource.table->ChunkSize(job.chunk);
    job.out = out.subspan(done, job.size - job.skip);
    done += job.out.size();
    ChunkCache::Key key(resource.index, job.chunk);
    if (resource.location.solid && small_blobs_.Read(key, static_cast<uint32_t>(job.skip), job.out)) continue;
    ChunkCache::Acquired acquired;
    if (job.out.size() == job.size) {
      acquired.chunk = cache_.Find(key, job.out.size());
    } else {
      acquired = cache_.Acquire(key, job.size, job.out.size());
    }
    if (acquired.chunk != nullptr) {
      memcpy(job.out.data(), acquired.chunk->data() + job.skip, job.out.size());
    } else if (acquired.flight != nullptr) {
      awaited.push_back({std::move(acquired.flight), job.out, job.skip});
    } else {
      job.claim = std::move(acquired.claim);
      jobs.push_back(std::move(job));
    }
  }
  if (resource.location.solid && !jobs.empty()) {
    DecodeLikelyChunk(resource, jobs[0].chunk * resource.location.chunk_size + jobs[0].skip);
  }
  // Own work first: whoever waits holds no claim that another could be waiting for.
  absl::Status status = jobs.empty() ? absl::OkStatus() : Decode(resource, absl::MakeSpan(jobs));
  for (Job& job : jobs) {
    // Those waiting for it must not take the damage of another chunk for this one's.
    if (job.claim != nullptr) std::move(*job.claim).Fail(MakeError(Reason::kUnspecified, "a chunk was not decoded"));
  }
  for (Awaited& other : awaited) {
    if (!status.ok()) break;
    absl::StatusOr<ChunkCache::Chunk> chunk = cache_.Wait(other.flight);
    if (chunk.ok()) {
      memcpy(other.out.data(), (*chunk)->data() + other.skip, other.out.size());
    } else if (ReasonOf(chunk.status()) == Reason::kBadImageFormat) {
      status = chunk.status();
    } else {
      status = ReadCompressed(resource, offset + (other.out.data() - out.data()), other.out);
    }
  }
  return status;
}

absl::Status ResourceReader::Impl::Decode(const Open& resource, absl::Span<Job> jobs) {
  uint64_t first = jobs.front().chunk;
  std::vector<ChunkExtent> extents(jobs.back().chunk - first + 1);
  absl::Status status = resource.table->Locate(first, absl::MakeSpan(extents));
  if (!status.ok()) return status;
  for (Job& job : jobs) job.extent = extents[job.chunk - first];

  // With other readers at work splitting was measured to cost 15 to 30 %: they use the cores already.
  size_t parts = 1;
  if (jobs.size() >= kMinJobsToSplit && active_reads_.load(std::memory_order_relaxed) == 1) {
    parts = std::min(thread_count_, jobs.size() / (kMinJobsToSplit / 2));
  }
  if (parts == 1) return DecodePart(resource, jobs);
  std::vector<absl::Status> statuses(parts);
  runner_.Run(parts, [&](size_t part) {
    size_t begin = jobs.size() * part / parts;
    size_t end = jobs.size() * (part + 1) / parts;
    statuses[part] = DecodePart(resource, jobs.subspan(begin, end - begin));
  });
  for (const absl::Status& part : statuses) status.Update(part);
  return status;
}

absl::Status ResourceReader::Impl::DecodePart(const Open& resource, absl::Span<Job> jobs) {
  absl::StatusOr<DecoderPool::Lease> decoder =
      decoders_.Take(resource.location.compression, resource.location.chunk_size);
  if (!decoder.ok()) return decoder.status();
  // Runs of chunks whose data lies close together are read at once.
  for (size_t begin = 0; begin < jobs.size();) {
    size_t end = begin + 1;
    auto input_size = [&](size_t last) {
      return jobs[last].extent.offset + jobs[last].extent.size - jobs[begin].extent.offset;
    };
    while (end < jobs.size() && input_size(end) <= kMaxInput) ++end;
    absl::Status status = DecodeRun(resource, jobs.subspan(begin, end - begin), **decoder);
    if (!status.ok()) return status;
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status ResourceReader::Impl::DecodeRun(const Open& resource, absl::Span<Job> jobs, Decoder& decoder) {
  uint16_t part = resource.location.part;
  uint64_t begin = jobs.front().extent.offset;
  size_t size = jobs.back().extent.offset + jobs.back().extent.size - begin;
  if (jobs.size() == 1 && jobs[0].claim == nullptr && jobs[0].extent.size == jobs[0].size) {
    return source_.Read(part, begin, jobs[0].out);
  }
  // Before memory is taken for its data: a solid chunk's has many megabytes.
  jobs[0].alone = jobs.size() == 1;
  if (jobs[0].alone && jobs[0].claim != nullptr) jobs[0].claim->Start(size);
  absl::Span<char> input = decoder.InputBuffer(size);
  if (input.size() != size) return MakeError(Reason::kOutOfResources, "no memory for compressed chunks");
  absl::Status status = source_.Read(part, begin, input);
  for (Job& job : jobs) {
    if (!status.ok()) break;
    if (jobs.size() > 1 && job.claim != nullptr) job.claim->Start(0);
    status = DecodeOne(resource, job, input.subspan(job.extent.offset - begin, job.extent.size), decoder);
    if (!status.ok() && job.claim != nullptr) std::move(*std::exchange(job.claim, nullptr)).Fail(status);
  }
  return status;
}

absl::Status ResourceReader::Impl::DecodeOne(const Open& resource, Job& job, absl::Span<const char> input,
                                             Decoder& decoder) {
  ChunkBuffer buffer;
  absl::Span<char> target = job.out;
  if (job.claim != nullptr) {
    buffer = ChunkBuffer(job.size);
    if (buffer.size() != job.size) return MakeError(Reason::kOutOfResources, "no memory for a chunk");
    target = buffer.span();
  }
  if (input.size() == job.size) {
    memcpy(target.data(), input.data(), input.size());
  } else if (!decoder.Decode(input, target)) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s: chunk %d of the resource at offset %d does not decode",
                                     source_.part_name(resource.location.part), job.chunk, resource.location.offset));
  }
  chunks_decoded_.fetch_add(1, std::memory_order_relaxed);
  bytes_decoded_.fetch_add(job.size, std::memory_order_relaxed);
  if (job.claim == nullptr) return absl::OkStatus();
  // A chunk that is decoded ahead has nobody waiting for a part of it.
  if (!job.out.empty()) memcpy(job.out.data(), target.data() + job.skip, job.out.size());
  // Its place goes to the small blobs that are copied now.
  if (job.alone) decoder.TrimInputBuffer();
  size_t kept = resource.location.solid && visit_blobs_ ? KeepSmallBlobs(resource, job.chunk, target) : 0;
  std::move(*std::exchange(job.claim, nullptr)).Publish(std::move(buffer), kept);
  return absl::OkStatus();
}

size_t ResourceReader::Impl::KeepSmallBlobs(const Open& resource, uint64_t chunk, absl::Span<const char> data) {
  uint64_t begin = chunk * resource.location.chunk_size;
  uint64_t end = begin + data.size();
  bool roomy = budget_.load(std::memory_order_relaxed) / kRoomyChunks >= resource.location.chunk_size;
  const uint64_t most = roomy ? SmallBlobCache::kMaxTinySize : SmallBlobCache::kMaxBlobSize;
  std::vector<SmallBlobCache::Extent> extents;
  visit_blobs_(resource.index, begin, end, [&](uint64_t offset, uint64_t size) {
    if (size == 0 || size > most || offset < begin || offset >= end || size > end - offset) return;
    // Blobs of a hostile image may overlap; what lies under others is decoded again.
    if (!extents.empty() && offset < begin + extents.back().offset + extents.back().size) return;
    extents.push_back({static_cast<uint32_t>(offset - begin), static_cast<uint32_t>(size)});
  });
  size_t kept = small_blobs_.Add({resource.index, chunk}, data, extents);
  cache_.SetReserved(small_blobs_.bytes());
  return kept;
}

// On another core, while a reader of small files waits for its chunk.
void ResourceReader::Impl::DecodeLikelyChunk(const Open& resource, uint64_t missed_offset) {
  // Two chunks are decoded at once then, and the one kept last should stay.
  bool room = budget_.load(std::memory_order_relaxed) / kChunksForGuess >= resource.location.chunk_size;
  if (thread_count_ == 1 || !room || active_reads_.load(std::memory_order_relaxed) != 1) return;
  absl::MutexLock lock(&likely_mutex_);
  if (likely_runs_) return;
  std::optional<uint64_t> chunk =
      guess_.NoteMiss(resource.index, resource.location, resource.table->chunk_count(), missed_offset);
  if (!chunk.has_value()) return;
  likely_.Join();  // has done its work
  likely_runs_ = likely_
                     .Start("decode-likely",
                            [this, resource, chunk = *chunk] {
                              Job job;
                              job.chunk = chunk;
                              job.size = resource.table->ChunkSize(chunk);
                              job.claim = cache_.Acquire({resource.index, chunk}, job.size, 0).claim;
                              if (job.claim != nullptr) {
                                absl::Status status = Decode(resource, absl::MakeSpan(&job, 1));
                                if (job.claim != nullptr) std::move(*job.claim).Fail(status);
                              }
                              absl::MutexLock lock(&likely_mutex_);
                              likely_runs_ = false;
                              likely_ended_.Signal();
                            })
                     .ok();
}

ResourceReader::Impl::~Impl() {
  absl::MutexLock lock(&likely_mutex_);
  while (likely_runs_) likely_ended_.Wait(&likely_mutex_);
  likely_.Join();
}

void ResourceReader::Impl::SetCacheBudget(size_t bytes) {
  // A smaller budget means that others need the memory more: decoders and their buffers are soon made again.
  if (budget_.exchange(bytes) > bytes) {
    decoders_.Clear();
    guess_.Forget();
  }
  small_blobs_.SetBudget(SmallBlobShare(bytes));
  cache_.SetReserved(small_blobs_.bytes());
  cache_.SetBudget(bytes);
}

ResourceReader::Stats ResourceReader::Impl::GetStats() const {
  ChunkCache::Stats cache = cache_.GetStats();
  Stats stats;
  stats.cache_bytes = cache.bytes + small_blobs_.bytes();
  stats.chunks_decoded = chunks_decoded_.load(std::memory_order_relaxed);
  stats.bytes_decoded = bytes_decoded_.load(std::memory_order_relaxed);
  stats.cache_hits = cache.hits;
  stats.wanted_bytes = cache.wanted_bytes;
  return stats;
}

ResourceReader::ResourceReader(const WimSource* source, const std::vector<ResourceLocation>* resources, Options options)
    : impl_(std::make_unique<Impl>(source, resources, std::move(options))) {}

ResourceReader::~ResourceReader() = default;

absl::Status ResourceReader::Read(uint32_t resource, uint64_t offset, absl::Span<char> out) {
  return impl_->Read(resource, offset, out);
}

void ResourceReader::SetCacheBudget(size_t bytes) { impl_->SetCacheBudget(bytes); }

ResourceReader::Stats ResourceReader::GetStats() const { return impl_->GetStats(); }

}  // namespace libmount
