// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/resource_writer.h"

#include <wimlib.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/small_thread.h"
#include "libmount/wim/chunk_buffer.h"

namespace libmount {
namespace {

constexpr uint64_t kMaxPipelineBytes = uint64_t{64} << 20;
// What the compressors may take together: those for chunks of 64 MiB take half a gigabyte each.
constexpr uint64_t kMaxCompressorBytes = uint64_t{1} << 30;
constexpr int kMaxThreads = 64;
constexpr size_t kRawPiece = size_t{1} << 20;  // at once, where nothing is compressed
// wimlib's own default: the level at which its writers and its oracle tests work.
constexpr unsigned kDefaultLevel = 0;

absl::Status NoMemory() {
  return MakeError(Reason::kOutOfResources, "there is not enough memory for compressing the image's data");
}

struct CompressorDeleter {
  void operator()(wimlib_compressor* compressor) const { wimlib_free_compressor(compressor); }
};
using CompressorPtr = std::unique_ptr<wimlib_compressor, CompressorDeleter>;

// Files that are stored as they are.
class RawWriter final : public ResourceWriter {
 public:
  RawWriter(FileAppender* out, OnProgress on_progress) : out_(out), on_progress_(std::move(on_progress)) {}

  absl::StatusOr<Sha1Digest> Add(uint64_t size, ReadData read, ResourceHeader* place) override {
    if (buffer_.empty()) buffer_ = ChunkBuffer(kRawPiece);
    if (buffer_.empty()) return NoMemory();
    *place = {size, out_->offset(), size, 0};
    Sha1 sha1;
    for (uint64_t offset = 0; offset < size;) {
      absl::Span<char> piece = buffer_.span().first(std::min<uint64_t>(kRawPiece, size - offset));
      absl::Status status = read(offset, piece);
      if (status.ok()) status = out_->Append(piece);
      if (status.ok()) status = on_progress_(piece.size());
      if (!status.ok()) return status;
      sha1.Update(piece);
      offset += piece.size();
    }
    return sha1.Finish();
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  FileAppender* const out_;
  const OnProgress on_progress_;
  ChunkBuffer buffer_;
};

class CompressingWriter final : public ResourceWriter {
 public:
  CompressingWriter(FileAppender* out, uint32_t chunk_size, OnProgress on_progress)
      : out_(out), chunk_size_(chunk_size), on_progress_(std::move(on_progress)) {}
  ~CompressingWriter() override;

  absl::Status Start(const Format& format);
  absl::StatusOr<Sha1Digest> Add(uint64_t size, ReadData read, ResourceHeader* place) override;
  absl::Status Finish() override;

 private:
  // A chunk on its way.
  struct Block {
    ChunkBuffer in;
    ChunkBuffer out;
    size_t size = 0;
    size_t compressed_size = 0;  // 0: did not shrink
    bool done = false;           // guarded by mutex_
  };
  // A resource of which not all chunks are written.
  struct Pending {
    uint64_t size = 0;
    ReadData read;
    ResourceHeader* place = nullptr;
    bool begun = false;
    uint64_t begin = 0;       // in the file
    uint64_t table_size = 0;  // bytes
    uint64_t written = 0;     // of `size`
    uint64_t chunks_end = 0;  // bytes of its chunks so far
    bool any_shrunk = false;
    std::string table;
  };

  absl::StatusOr<Block*> FreeBlock();
  void Submit(Block* block);
  absl::Status WriteOldest();
  absl::Status WriteChunk(Pending& resource, const Block& block);
  absl::Status Complete(Pending& resource);
  absl::Status StoreRaw(Pending& resource);
  void Compress(wimlib_compressor* compressor);

  FileAppender* const out_;
  const uint32_t chunk_size_;
  const OnProgress on_progress_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<Block*> free_;
  std::deque<Block*> in_order_;  // submitted, not written
  std::deque<Pending> pending_;  // those in_order_ belongs to

  absl::Mutex mutex_;
  absl::CondVar work_;
  absl::CondVar finished_;
  std::deque<Block*> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<CompressorPtr> compressors_;
  std::vector<SmallThread> threads_;  // last: they use the rest
};

CompressingWriter::~CompressingWriter() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    work_.SignalAll();
  }
  threads_.clear();
}

absl::Status CompressingWriter::Start(const Format& format) {
  const auto type = static_cast<wimlib_compression_type>(format.compression);
  const uint64_t memory =
      std::max<uint64_t>(1, wimlib_get_compressor_needed_memory(type, format.chunk_size, kDefaultLevel));
  const int wanted = format.threads > 0 ? format.threads : static_cast<int>(std::thread::hardware_concurrency());
  const int affordable = static_cast<int>(std::min<uint64_t>(kMaxThreads, kMaxCompressorBytes / memory));
  const int count = std::max(1, std::min(wanted, affordable));
  for (int i = 0; i < count; ++i) {
    wimlib_compressor* compressor = nullptr;
    if (wimlib_create_compressor(type, format.chunk_size, kDefaultLevel, &compressor) != 0) {
      if (i == 0) return NoMemory();
      break;
    }
    compressors_.emplace_back(compressor);
  }
  for (const CompressorPtr& compressor : compressors_) {
    SmallThread thread;
    if (!thread.Start("dismd-compress", [this, &compressor] { Compress(compressor.get()); }).ok()) break;
    threads_.push_back(std::move(thread));
  }
  if (threads_.empty()) return MakeError(Reason::kOutOfResources, "no thread for compressing the image's data");
  const uint64_t affordable_blocks = kMaxPipelineBytes / (2 * uint64_t{chunk_size_});
  const uint64_t block_count = std::max<uint64_t>(2, std::min<uint64_t>(4 * threads_.size() + 4, affordable_blocks));
  for (uint64_t i = 0; i < block_count; ++i) {
    blocks_.push_back(std::make_unique<Block>());
    free_.push_back(blocks_.back().get());
  }
  return absl::OkStatus();
}

void CompressingWriter::Compress(wimlib_compressor* compressor) {
  for (;;) {
    Block* block = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      while (queue_.empty() && !stop_) work_.Wait(&mutex_);
      if (stop_) return;
      block = queue_.front();
      queue_.pop_front();
    }
    // One byte less than it has: 0 where that does not do.
    block->compressed_size =
        wimlib_compress(block->in.data(), block->size, block->out.data(), block->size - 1, compressor);
    absl::MutexLock lock(&mutex_);
    block->done = true;
    finished_.Signal();
  }
}

absl::StatusOr<CompressingWriter::Block*> CompressingWriter::FreeBlock() {
  if (free_.empty()) {
    if (absl::Status status = WriteOldest(); !status.ok()) return status;
  }
  Block* block = free_.back();
  free_.pop_back();
  return block;
}

void CompressingWriter::Submit(Block* block) {
  in_order_.push_back(block);
  absl::MutexLock lock(&mutex_);
  block->done = false;
  queue_.push_back(block);
  work_.Signal();
}

absl::StatusOr<Sha1Digest> CompressingWriter::Add(uint64_t size, ReadData read, ResourceHeader* place) {
  const uint64_t chunks = size / chunk_size_ + (size % chunk_size_ != 0);
  Pending& added = pending_.emplace_back();
  added.size = size;
  added.read = std::move(read);
  added.place = place;
  added.table_size = (chunks - 1) * (size > std::numeric_limits<uint32_t>::max() ? 8 : 4);
  const ReadData& read_data =
      added.read;  // stays where it is: a deque, and this one goes when its last chunk is written
  Sha1 sha1;
  for (uint64_t offset = 0; offset < size;) {
    absl::StatusOr<Block*> block = FreeBlock();
    if (!block.ok()) return block.status();
    const size_t piece = std::min<uint64_t>(chunk_size_, size - offset);
    if ((*block)->in.size() < piece) {
      (*block)->in = ChunkBuffer(piece);
      (*block)->out = ChunkBuffer(piece);
      if ((*block)->in.empty() || (*block)->out.empty()) return NoMemory();
    }
    (*block)->size = piece;
    absl::Span<char> data = (*block)->in.span().first(piece);
    if (absl::Status status = read_data(offset, data); !status.ok()) return status;
    sha1.Update(data);
    offset += piece;
    Submit(*block);
  }
  return sha1.Finish();
}

absl::Status CompressingWriter::WriteOldest() {
  Block* block = in_order_.front();
  {
    absl::MutexLock lock(&mutex_);
    while (!block->done) finished_.Wait(&mutex_);
  }
  in_order_.pop_front();
  free_.push_back(block);
  Pending& resource = pending_.front();
  if (absl::Status status = WriteChunk(resource, *block); !status.ok()) return status;
  if (absl::Status status = on_progress_(block->size); !status.ok()) return status;
  if (resource.written < resource.size) return absl::OkStatus();
  absl::Status status = Complete(resource);
  pending_.pop_front();
  return status;
}

absl::Status CompressingWriter::WriteChunk(Pending& resource, const Block& block) {
  if (!resource.begun) {
    resource.begun = true;
    resource.begin = out_->offset();
    if (absl::Status status = out_->Skip(resource.table_size); !status.ok()) return status;
  } else if (resource.size > std::numeric_limits<uint32_t>::max()) {
    AppendLe(resource.chunks_end, resource.table);
  } else {
    AppendLe(static_cast<uint32_t>(resource.chunks_end), resource.table);
  }
  const bool shrunk = block.compressed_size > 0;
  absl::Span<const char> bytes =
      shrunk ? block.out.span().first(block.compressed_size) : block.in.span().first(block.size);
  resource.any_shrunk |= shrunk;
  resource.written += block.size;
  resource.chunks_end += bytes.size();
  return out_->Append(bytes);
}

absl::Status CompressingWriter::Complete(Pending& resource) {
  if (!resource.any_shrunk) {
    // All chunks are raw, end to end: the data as it is. (The place of the table stays, empty.)
    *resource.place = {resource.size, resource.begin + resource.table_size, resource.size, 0};
    return absl::OkStatus();
  }
  const uint64_t size_in_file = resource.table_size + resource.chunks_end;
  if (size_in_file >= resource.size) return StoreRaw(resource);
  *resource.place = {size_in_file, resource.begin, resource.size, kResourceCompressed};
  return out_->Patch(resource.begin, resource.table);
}

// The table eats up what little the chunks shrank.
absl::Status CompressingWriter::StoreRaw(Pending& resource) {
  out_->Rewind(resource.begin);
  *resource.place = {resource.size, resource.begin, resource.size, 0};
  ChunkBuffer buffer(std::min<uint64_t>(kRawPiece, resource.size));
  if (buffer.empty()) return NoMemory();
  for (uint64_t offset = 0; offset < resource.size;) {
    absl::Span<char> piece = buffer.span().first(std::min<uint64_t>(buffer.size(), resource.size - offset));
    if (absl::Status status = resource.read(offset, piece); !status.ok()) return status;
    if (absl::Status status = out_->Append(piece); !status.ok()) return status;
    offset += piece.size();
  }
  return absl::OkStatus();
}

absl::Status CompressingWriter::Finish() {
  while (!in_order_.empty()) {
    if (absl::Status status = WriteOldest(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResourceWriter>> ResourceWriter::Create(FileAppender* out, const Format& format,
                                                                       OnProgress on_progress) {
  if (format.compression == Compression::kNone) return std::make_unique<RawWriter>(out, std::move(on_progress));
  auto writer = std::make_unique<CompressingWriter>(out, format.chunk_size, std::move(on_progress));
  if (absl::Status status = writer->Start(format); !status.ok()) return status;
  return writer;
}

}  // namespace libmount
