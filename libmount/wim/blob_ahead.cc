// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/blob_ahead.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/small_thread.h"
#include "libmount/wim/chunk_buffer.h"

namespace libmount {
namespace {

// What one thread decodes at once: half a millisecond. A multiple of all usual chunk sizes but those of solid data.
constexpr uint64_t kPiece = 256 << 10;
// Decoded beyond what was read of one stream, the files that follow it counted.
constexpr uint64_t kWindow = uint64_t{2} << 20;
// Of all streams.
constexpr size_t kMaxBytes = size_t{8} << 20;
// With less there is no point in it.
constexpr size_t kMinBytes = size_t{1} << 20;
constexpr size_t kMaxStreams = 16;
constexpr int kTrustedFiles = 2;
constexpr int kMaxTrust = 4;
// Files that are looked at behind the one that is read.
constexpr int kMaxFilesAhead = 8;
constexpr size_t kMaxRemembered = 4096;

// Buffers for pieces, used again: fresh ones cost a page fault for each page.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  // Comes back when its last owner lets go of it. Null: no memory.
  std::shared_ptr<ChunkBuffer> Take() {
    auto buffer = std::make_unique<ChunkBuffer>();
    {
      absl::MutexLock lock(&mutex_);
      if (!free_.empty()) {
        std::swap(*buffer, free_.back());
        free_.pop_back();
      }
    }
    if (buffer->empty()) *buffer = ChunkBuffer(kPiece);
    if (buffer->empty()) return nullptr;
    taken_.fetch_add(1, std::memory_order_relaxed);
    return {buffer.release(), [pool = shared_from_this()](ChunkBuffer* used) { pool->Put(used); }};
  }

  // Keeps at most so many free ones.
  void SetMaxFree(size_t count) {
    absl::MutexLock lock(&mutex_);
    max_free_ = count;
    if (free_.size() > count) free_.resize(count);
  }

  size_t bytes() const {
    absl::MutexLock lock(&mutex_);
    return (free_.size() + taken_.load(std::memory_order_relaxed)) * kPiece;
  }

 private:
  void Put(ChunkBuffer* used) {
    std::unique_ptr<ChunkBuffer> owned(used);
    taken_.fetch_sub(1, std::memory_order_relaxed);
    absl::MutexLock lock(&mutex_);
    if (free_.size() < max_free_) free_.push_back(std::move(*owned));
  }

  mutable absl::Mutex mutex_;
  size_t max_free_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<ChunkBuffer> free_ ABSL_GUARDED_BY(mutex_);
  std::atomic<size_t> taken_ = 0;
};

}  // namespace

size_t BlobAhead::ShareOf(size_t cache_budget) {
  size_t share = std::min(cache_budget / 4, kMaxBytes);
  return share < kMinBytes ? 0 : share;
}

class BlobAhead::Impl {
 public:
  Impl(BlobVerifier* verifier, Options options)
      : verifier_(*verifier),
        options_(std::move(options)),
        thread_count_(options_.threads > 0 ? options_.threads : std::max(1u, std::thread::hardware_concurrency())),
        limit_(ShareOf(options_.cache_budget)) {
    buffers_->SetMaxFree(limit_ / kPiece);
  }
  ~Impl();

  absl::Status Read(const File& file, uint64_t offset, absl::Span<char> out);
  void SetCacheBudget(size_t bytes);
  Stats GetStats() const;

 private:
  enum class State { kPlanned, kDecoding, kReady, kFailed };

  struct Piece {
    uint32_t blob = 0;
    uint64_t offset = 0;
    size_t size = 0;
    State state = State::kPlanned;
    bool dropped = false;  // nobody wants it any more
    size_t served = 0;
    std::shared_ptr<ChunkBuffer> data;
    absl::CondVar decoded;
  };
  using PiecePointer = std::shared_ptr<Piece>;

  struct Stream {
    File file;
    Shape shape;
    uint64_t read = 0;     // the end of what was read
    uint64_t planned = 0;  // the end of the pieces
    bool trusted = false;  // it is read in order
    std::deque<PiecePointer> pieces;
    std::optional<std::optional<File>> next;  // NextFile's answer
  };
  using StreamList = std::list<Stream>;  // used last: at the end

  // A part of a request that a piece has.
  struct Part {
    PiecePointer piece;
    uint64_t offset;
    absl::Span<char> out;
  };

  bool IsWorthwhile(const Shape& shape) const {
    return shape.chunk_size > 0 && shape.chunk_size <= kPiece && shape.size > kMinFile;
  }
  StreamList::iterator FindStream(uint32_t blob) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Stream& AddStream(const File& file, const Shape& shape) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Notes a request. Null: read past all this.
  Stream* Follow(const File& file, const Shape& shape, uint64_t offset, uint64_t end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Plan(Stream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t PlanPieces(Stream& stream, uint64_t room) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Stream* NextStream(Stream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static std::vector<Part> Collect(const Stream& stream, uint64_t offset, absl::Span<char> out);
  void TakeServed(StreamList::iterator stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(const PiecePointer& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Abandon(StreamList::iterator stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Serve(const Part& part);
  void Decode(const PiecePointer& piece);
  void StartThreads() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunThread();

  BlobVerifier& verifier_;
  const Options options_;
  const size_t thread_count_;
  const std::shared_ptr<BufferPool> buffers_ = std::make_shared<BufferPool>();
  std::atomic<uint64_t> pieces_ = 0;
  std::atomic<uint64_t> in_vain_ = 0;

  mutable absl::Mutex mutex_;
  absl::CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  size_t limit_ ABSL_GUARDED_BY(mutex_);
  size_t readers_ ABSL_GUARDED_BY(mutex_) = 0;  // requests under way
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;    // of all pieces of streams
  int trust_ ABSL_GUARDED_BY(mutex_) = 0;       // files read whole since one was decoded in vain
  StreamList streams_ ABSL_GUARDED_BY(mutex_);
  std::deque<PiecePointer> queue_ ABSL_GUARDED_BY(mutex_);  // some may have been decoded by readers meanwhile
  absl::flat_hash_set<uint32_t> read_whole_ ABSL_GUARDED_BY(mutex_);
  std::vector<SmallThread> threads_ ABSL_GUARDED_BY(mutex_);
};

BlobAhead::Impl::~Impl() {
  std::vector<SmallThread> threads;
  absl::MutexLock lock(&mutex_);
  stop_ = true;
  wake_.SignalAll();
  threads.swap(threads_);
  mutex_.Unlock();
  for (SmallThread& thread : threads) thread.Join();
  mutex_.Lock();
}

absl::Status BlobAhead::Impl::Read(const File& file, uint64_t offset, absl::Span<char> out) {
  const uint64_t end = offset + out.size();
  Shape shape = options_.shape_of(file.blob);
  if (thread_count_ < 2 || !IsWorthwhile(shape)) return verifier_.Read(file.blob, offset, out);
  std::vector<Part> parts;
  {
    absl::MutexLock lock(&mutex_);
    ++readers_;
    Stream* stream = Follow(file, shape, offset, end);
    if (stream != nullptr) {
      Plan(*stream);
      parts = Collect(*stream, offset, out);
    }
  }
  // What no piece has, first: the pieces are decoded meanwhile.
  absl::Status status;
  uint64_t at = offset;
  for (size_t i = 0; i <= parts.size() && status.ok(); ++i) {
    uint64_t next = i < parts.size() ? parts[i].offset : end;
    if (next > at) status = verifier_.Read(file.blob, at, out.subspan(at - offset, next - at));
    if (i < parts.size()) at = next + parts[i].out.size();
  }
  for (const Part& part : parts) {
    if (status.ok()) status = Serve(part);
  }
  {
    absl::MutexLock lock(&mutex_);
    --readers_;
    for (const Part& part : parts) part.piece->served += part.out.size();
    auto stream = FindStream(file.blob);
    if (stream != streams_.end()) TakeServed(stream);
  }
  if (parts.empty() || !status.ok()) return status;
  return verifier_.Verdict(file.blob, /*wait=*/end == shape.size);
}

BlobAhead::Impl::StreamList::iterator BlobAhead::Impl::FindStream(uint32_t blob) {
  auto at = streams_.end();
  while (at != streams_.begin()) {
    --at;
    if (at->file.blob == blob) return at;
  }
  return streams_.end();
}

BlobAhead::Impl::Stream& BlobAhead::Impl::AddStream(const File& file, const Shape& shape) {
  while (streams_.size() >= kMaxStreams) Abandon(streams_.begin());
  Stream& stream = streams_.emplace_back();
  stream.file = file;
  stream.shape = shape;
  return stream;
}

BlobAhead::Impl::Stream* BlobAhead::Impl::Follow(const File& file, const Shape& shape, uint64_t offset, uint64_t end) {
  if (limit_ == 0) return nullptr;
  if (offset == 0 && read_whole_.contains(file.blob)) read_whole_.clear();  // the kernel has dropped its pages
  auto found = FindStream(file.blob);
  if (found == streams_.end()) {
    if (offset != 0) return nullptr;
    AddStream(file, shape).read = end;
    return &streams_.back();
  }
  streams_.splice(streams_.end(), streams_, found);
  Stream& stream = streams_.back();
  // Requests overtake each other.
  if (offset > 0 && offset <= stream.read + kPiece) stream.trusted = true;
  if (stream.planned < offset) stream.planned = offset - offset % shape.chunk_size;
  stream.read = std::max(stream.read, end);
  return &stream;
}

// Pieces for this stream, and then for the files behind it, if its reader is likely to want them.
void BlobAhead::Impl::Plan(Stream& first) {
  // Readers enough to keep the cores busy: decoding ahead would only copy.
  if (readers_ > thread_count_) return;
  if (!first.trusted && trust_ < kTrustedFiles) return;
  uint64_t room = kWindow;
  Stream* stream = &first;
  for (int i = 0; i <= kMaxFilesAhead && stream != nullptr && room > 0; ++i) {
    uint64_t ahead = PlanPieces(*stream, room);
    room -= std::min(room, ahead);
    if (stream->planned < stream->shape.size || trust_ < kTrustedFiles) break;
    stream = NextStream(*stream);
  }
  if (queue_.empty()) return;
  if (threads_.empty()) StartThreads();
  wake_.SignalAll();
}

// Returns how many bytes are planned that nobody read yet.
uint64_t BlobAhead::Impl::PlanPieces(Stream& stream, uint64_t room) {
  if (stream.planned == 0 && options_.prefetch) options_.prefetch(stream.file.blob);
  uint64_t end = std::min(stream.shape.size, stream.read + room);
  while (stream.planned < end && bytes_ + kPiece <= limit_) {
    auto piece = std::make_shared<Piece>();
    piece->blob = stream.file.blob;
    piece->offset = stream.planned;
    piece->size = std::min(kPiece, stream.shape.size - stream.planned);
    stream.planned += piece->size;
    bytes_ += kPiece;
    stream.pieces.push_back(piece);
    queue_.push_back(std::move(piece));
  }
  return stream.planned > stream.read ? stream.planned - stream.read : 0;
}

BlobAhead::Impl::Stream* BlobAhead::Impl::NextStream(Stream& stream) {
  if (!stream.next.has_value()) stream.next = options_.next_file(stream.file.id);
  std::optional<File> next = *stream.next;
  for (int i = 0; i < kMaxFilesAhead && next.has_value(); ++i) {
    auto found = FindStream(next->blob);
    if (found != streams_.end()) return &*found;
    Shape shape = options_.shape_of(next->blob);
    if (!read_whole_.contains(next->blob) && IsWorthwhile(shape)) {
      // No room: one that nobody has asked for would drive out others.
      return streams_.size() < kMaxStreams ? &AddStream(*next, shape) : nullptr;
    }
    next = options_.next_file(next->id);
  }
  return nullptr;
}

std::vector<BlobAhead::Impl::Part> BlobAhead::Impl::Collect(const Stream& stream, uint64_t offset,
                                                            absl::Span<char> out) {
  std::vector<Part> parts;
  const uint64_t end = offset + out.size();
  for (const PiecePointer& piece : stream.pieces) {
    uint64_t from = std::max(offset, piece->offset);
    uint64_t to = std::min(end, piece->offset + piece->size);
    if (from < to) parts.push_back({piece, from, out.subspan(from - offset, to - from)});
  }
  return parts;
}

void BlobAhead::Impl::TakeServed(StreamList::iterator stream) {
  std::deque<PiecePointer>& pieces = stream->pieces;
  while (!pieces.empty() && pieces.front()->served >= pieces.front()->size) {
    Drop(pieces.front());
    pieces.pop_front();
  }
  if (!pieces.empty() || stream->read < stream->shape.size) return Plan(*stream);
  trust_ = std::min(trust_ + 1, kMaxTrust);
  if (read_whole_.size() >= kMaxRemembered) read_whole_.clear();
  read_whole_.insert(stream->file.blob);
  streams_.erase(stream);
}

void BlobAhead::Impl::Drop(const PiecePointer& piece) {
  piece->dropped = true;
  bytes_ -= kPiece;
  if (piece->state == State::kReady) piece->data = nullptr;
}

void BlobAhead::Impl::Abandon(StreamList::iterator stream) {
  for (const PiecePointer& piece : stream->pieces) {
    if (piece->state != State::kPlanned) ++in_vain_;
    Drop(piece);
  }
  if (!stream->pieces.empty()) trust_ = 0;
  streams_.erase(stream);
}

absl::Status BlobAhead::Impl::Serve(const Part& part) {
  Piece& piece = *part.piece;
  bool mine;
  {
    absl::MutexLock lock(&mutex_);
    mine = piece.state == State::kPlanned;
    if (mine) piece.state = State::kDecoding;
  }
  if (mine) Decode(part.piece);
  std::shared_ptr<ChunkBuffer> data;
  {
    absl::MutexLock lock(&mutex_);
    while (piece.state == State::kDecoding) piece.decoded.Wait(&mutex_);
    data = piece.data;
  }
  // It failed, or another request's serving gave it up.
  if (data == nullptr) return verifier_.Read(piece.blob, part.offset, part.out);
  memcpy(part.out.data(), data->data() + (part.offset - piece.offset), part.out.size());
  return absl::OkStatus();
}

// REQUIRES: the caller has set its state to kDecoding.
void BlobAhead::Impl::Decode(const PiecePointer& piece) {
  std::shared_ptr<ChunkBuffer> buffer = buffers_->Take();
  auto finish = [&](State state) {
    absl::MutexLock lock(&mutex_);
    if (piece->state != State::kDecoding) return;
    piece->state = state;
    if (state == State::kReady && !piece->dropped) piece->data = buffer;
    piece->decoded.SignalAll();
  };
  if (buffer != nullptr) {
    pieces_.fetch_add(1, std::memory_order_relaxed);
    (void)verifier_.ReadAhead(piece->blob, piece->offset, buffer->span().first(piece->size), buffer,
                              [&] { finish(State::kReady); });
  }
  finish(State::kFailed);  // unless it is ready
}

void BlobAhead::Impl::StartThreads() {
  for (size_t i = 0; i < thread_count_; ++i) {
    SmallThread thread;
    if (!thread.Start("decode-ahead", [this] { RunThread(); }).ok()) break;
    threads_.push_back(std::move(thread));
  }
}

void BlobAhead::Impl::RunThread() {
  mutex_.Lock();
  while (!stop_) {
    if (queue_.empty()) {
      wake_.Wait(&mutex_);
      continue;
    }
    PiecePointer piece = std::move(queue_.front());
    queue_.pop_front();
    if (piece->state != State::kPlanned || piece->dropped) continue;
    piece->state = State::kDecoding;
    mutex_.Unlock();
    Decode(piece);
    mutex_.Lock();
  }
  mutex_.Unlock();
}

void BlobAhead::Impl::SetCacheBudget(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  size_t limit = ShareOf(bytes);
  if (limit < limit_) {
    while (!streams_.empty()) Abandon(streams_.begin());
    queue_.clear();
  }
  limit_ = limit;
  buffers_->SetMaxFree(limit / kPiece);
}

BlobAhead::Stats BlobAhead::Impl::GetStats() const {
  Stats stats;
  stats.pieces = pieces_.load(std::memory_order_relaxed);
  stats.in_vain = in_vain_.load(std::memory_order_relaxed);
  stats.bytes = buffers_->bytes();
  return stats;
}

BlobAhead::BlobAhead(BlobVerifier* verifier, Options options)
    : impl_(std::make_unique<Impl>(verifier, std::move(options))) {}
BlobAhead::~BlobAhead() = default;

absl::Status BlobAhead::Read(const File& file, uint64_t offset, absl::Span<char> out) {
  return impl_->Read(file, offset, out);
}

void BlobAhead::SetCacheBudget(size_t bytes) { impl_->SetCacheBudget(bytes); }

BlobAhead::Stats BlobAhead::GetStats() const { return impl_->GetStats(); }

}  // namespace libmount
