// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/wim/blob_verifier.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "libmount/base/reason.h"
#include "libmount/base/small_thread.h"
#include "libmount/wim/blob_progress.h"

namespace libmount {
namespace {

// Blobs hashed along the way at once; the oldest is given up for a new one.
constexpr size_t kMaxStreams = 64;
// Of all blobs: pieces that overtook others.
constexpr size_t kMaxHeldBytes = size_t{8} << 20;
// When all has been decoded but so few bytes at the end not yet asked for, they are read at once for the hash.
constexpr uint64_t kMaxInlineRest = 64 << 10;
constexpr size_t kBackgroundPiece = size_t{1} << 20;
// Beyond it a blob's progress is forgotten: it is checked when it has been read all over again.
constexpr size_t kMaxQueue = 4096;

bool IsKnown(const Sha1Digest& digest) {
  return std::any_of(digest.begin(), digest.end(), [](uint8_t byte) { return byte != 0; });
}

absl::Status DamagedError(uint32_t blob) {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("blob %d is damaged", blob));
}

}  // namespace

class BlobVerifier::Impl {
 public:
  Impl(ResourceReader* reader, uint32_t blob_count, FactsOf facts_of, OnDamage on_damage)
      : reader_(*reader), facts_of_(std::move(facts_of)), on_damage_(std::move(on_damage)), states_(blob_count) {}
  ~Impl();

  absl::Status Read(uint32_t blob, uint64_t offset, absl::Span<char> out);
  absl::Status ReadAhead(uint32_t blob, uint64_t offset, absl::Span<char> out, std::shared_ptr<const void> owner,
                         const OnDecoded& on_decoded);
  absl::Status Verdict(uint32_t blob, bool wait);
  void Trim();
  Stats GetStats() const;
  void WaitForBackground();

 private:
  enum State : uint8_t { kUnknown, kVerified, kDamaged };

  // What is known of a blob that was read in part.
  struct Progress {
    explicit Progress(uint64_t size) : coverage(size), hash(std::make_unique<BlobHash>()) {}
    absl::Mutex mutex;
    Coverage coverage ABSL_GUARDED_BY(mutex);
    std::unique_ptr<BlobHash> hash ABSL_GUARDED_BY(mutex);  // null: given up
    int readers ABSL_GUARDED_BY(mutex) = 0;
    // A thread updates the hash, without the lock: nobody else may touch it but to hold pieces for that thread.
    bool hashing ABSL_GUARDED_BY(mutex) = false;
    bool done ABSL_GUARDED_BY(mutex) = false;     // hashed, or handed to the background
    bool settled ABSL_GUARDED_BY(mutex) = false;  // the state tells the verdict, or it is the background's to find
    absl::CondVar settling;                       // hashing or settled changed
  };
  using ProgressPointer = std::shared_ptr<Progress>;

  ProgressPointer Enter(uint32_t blob, uint64_t size);
  absl::Status Leave(uint32_t blob, const BlobFacts& facts, Progress& progress, BlobHash::Piece piece,
                     const OnDecoded& on_decoded);
  bool Hash(Progress& progress, const BlobHash::Piece& piece, uint64_t size);
  static bool TakeDone(Progress& progress, uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(progress.mutex);
  absl::Status Judge(uint32_t blob, const BlobFacts& facts, Progress& progress);
  absl::Status AwaitVerdict(uint32_t blob, Progress& progress);
  static void Settle(Progress& progress);
  void Forget(uint32_t blob);
  absl::Status Conclude(uint32_t blob, const Sha1Digest& expected, const Sha1Digest& actual);
  void MarkDamaged(uint32_t blob, std::string_view what);
  absl::Status ReadBytes(uint32_t blob, const BlobLocation& location, uint64_t offset, absl::Span<char> out);

  // Hashes the bytes of the blob that `hash` still lacks.
  absl::Status HashRest(uint32_t blob, const BlobFacts& facts, BlobHash& hash, absl::Span<char> buffer);
  void Enqueue(uint32_t blob, std::unique_ptr<BlobHash> hash);
  void RunBackground();

  ResourceReader& reader_;
  const FactsOf facts_of_;
  const OnDamage on_damage_;
  std::vector<std::atomic<uint8_t>> states_;
  std::atomic<uint64_t> verified_ = 0;
  std::atomic<uint64_t> damaged_ = 0;
  std::atomic<uint64_t> read_again_ = 0;
  std::atomic<size_t> held_bytes_ = 0;
  std::atomic<bool> stop_ = false;

  struct Task {
    uint32_t blob;
    std::unique_ptr<BlobHash> hash;
  };

  // Order of locks: never this one while holding a Progress's.
  absl::Mutex mutex_;
  absl::flat_hash_map<uint32_t, ProgressPointer> progress_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::weak_ptr<Progress>> streams_ ABSL_GUARDED_BY(mutex_);  // those with a hash, oldest first
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool background_runs_ ABSL_GUARDED_BY(mutex_) = false;
  absl::CondVar background_ended_;
  SmallThread background_ ABSL_GUARDED_BY(mutex_);
};

BlobVerifier::Impl::~Impl() {
  stop_.store(true, std::memory_order_relaxed);
  WaitForBackground();
}

absl::Status BlobVerifier::Impl::Read(uint32_t blob, uint64_t offset, absl::Span<char> out) {
  if (out.empty()) return absl::OkStatus();
  uint8_t state = states_[blob].load(std::memory_order_acquire);
  if (state == kDamaged) return DamagedError(blob);
  BlobFacts facts = facts_of_(blob);
  if (state == kVerified || !IsKnown(facts.sha1)) return ReadBytes(blob, facts.location, offset, out);
  if (out.size() == facts.location.size) {
    absl::Status status = ReadBytes(blob, facts.location, offset, out);
    return status.ok() ? Conclude(blob, facts.sha1, Sha1::Of(out)) : status;
  }
  ProgressPointer progress = Enter(blob, facts.location.size);
  absl::Status status = ReadBytes(blob, facts.location, offset, out);
  absl::Status left = Leave(blob, facts, *progress, {offset, status.ok() ? out : absl::Span<char>(), nullptr}, nullptr);
  if (!status.ok()) return status;
  return left.ok() ? AwaitVerdict(blob, *progress) : left;
}

absl::Status BlobVerifier::Impl::ReadAhead(uint32_t blob, uint64_t offset, absl::Span<char> out,
                                           std::shared_ptr<const void> owner, const OnDecoded& on_decoded) {
  uint8_t state = states_[blob].load(std::memory_order_acquire);
  if (state == kDamaged) return DamagedError(blob);
  BlobFacts facts = facts_of_(blob);
  if (state == kVerified || !IsKnown(facts.sha1)) {
    absl::Status status = ReadBytes(blob, facts.location, offset, out);
    if (status.ok()) on_decoded();
    return status;
  }
  ProgressPointer progress = Enter(blob, facts.location.size);
  absl::Status status = ReadBytes(blob, facts.location, offset, out);
  if (!status.ok()) {
    (void)Leave(blob, facts, *progress, {}, nullptr);
    return status;
  }
  return Leave(blob, facts, *progress, {offset, out, std::move(owner)}, on_decoded);
}

absl::Status BlobVerifier::Impl::Verdict(uint32_t blob, bool wait) {
  ProgressPointer progress;
  if (wait && states_[blob].load(std::memory_order_acquire) == kUnknown) {
    absl::MutexLock lock(&mutex_);
    auto found = progress_.find(blob);
    if (found != progress_.end()) progress = found->second;
  }
  if (progress != nullptr) return AwaitVerdict(blob, *progress);
  return states_[blob].load(std::memory_order_acquire) == kDamaged ? DamagedError(blob) : absl::OkStatus();
}

// Where all of the blob is decoded and somebody is about to have the verdict.
absl::Status BlobVerifier::Impl::AwaitVerdict(uint32_t blob, Progress& progress) {
  {
    absl::MutexLock lock(&progress.mutex);
    while (progress.coverage.complete() && (progress.hashing || progress.done) && !progress.settled) {
      progress.settling.Wait(&progress.mutex);
    }
  }
  return states_[blob].load(std::memory_order_acquire) == kDamaged ? DamagedError(blob) : absl::OkStatus();
}

absl::Status BlobVerifier::Impl::ReadBytes(uint32_t blob, const BlobLocation& location, uint64_t offset,
                                           absl::Span<char> out) {
  absl::Status status = reader_.Read(location.resource, location.offset + offset, out);
  if (ReasonOf(status) == Reason::kBadImageFormat) {
    MarkDamaged(blob, std::string_view(status.message().data(), status.message().size()));
  }
  return status;
}

BlobVerifier::Impl::ProgressPointer BlobVerifier::Impl::Enter(uint32_t blob, uint64_t size) {
  ProgressPointer progress;
  ProgressPointer oldest;
  {
    absl::MutexLock lock(&mutex_);
    ProgressPointer& place = progress_[blob];
    if (place == nullptr) {
      place = std::make_shared<Progress>(size);
      streams_.push_back(place);
      if (streams_.size() > kMaxStreams) {
        oldest = streams_.front().lock();
        streams_.pop_front();
      }
    }
    progress = place;
  }
  if (oldest != nullptr) {
    absl::MutexLock lock(&oldest->mutex);
    if (!oldest->hashing) {
      if (oldest->hash != nullptr) held_bytes_ -= oldest->hash->held_bytes();
      oldest->hash = nullptr;
    }
  }
  absl::MutexLock lock(&progress->mutex);
  ++progress->readers;
  return progress;
}

// `piece`: what was decoded; empty: nothing was.
absl::Status BlobVerifier::Impl::Leave(uint32_t blob, const BlobFacts& facts, Progress& progress, BlobHash::Piece piece,
                                       const OnDecoded& on_decoded) {
  bool hash_now = false;
  {
    absl::MutexLock lock(&progress.mutex);
    --progress.readers;
    if (!progress.done && !piece.data.empty()) {
      progress.coverage.Mark(piece.offset, piece.data.size());
      if (progress.hash != nullptr) {
        hash_now = !progress.hashing && piece.offset <= progress.hash->next();
        if (hash_now) {
          progress.hashing = true;
        } else {
          size_t held_before = progress.hash->held_bytes();
          bool may_hold = held_bytes_.load(std::memory_order_relaxed) + piece.data.size() <= kMaxHeldBytes;
          progress.hash->Hold(piece, may_hold);
          held_bytes_ += progress.hash->held_bytes() - held_before;
        }
      }
    }
  }
  if (on_decoded) on_decoded();
  bool complete;
  if (hash_now) {
    complete = Hash(progress, piece, facts.location.size);
  } else {
    absl::MutexLock lock(&progress.mutex);
    complete = TakeDone(progress, facts.location.size);
  }
  return complete ? Judge(blob, facts, progress) : absl::OkStatus();
}

// REQUIRES: the caller has set progress.hashing. Returns what TakeDone does.
bool BlobVerifier::Impl::Hash(Progress& progress, const BlobHash::Piece& piece, uint64_t size) {
  BlobHash* hash;
  {
    absl::MutexLock lock(&progress.mutex);
    hash = progress.hash.get();
  }
  std::optional<BlobHash::Piece> next = piece;
  for (;;) {
    hash->Update(*next);
    absl::MutexLock lock(&progress.mutex);
    size_t held_before = hash->held_bytes();
    next = hash->TakeHeld();
    held_bytes_ -= held_before - hash->held_bytes();
    if (next.has_value()) continue;
    // At once, so that nobody who awaits the verdict finds neither of the two.
    progress.hashing = false;
    bool complete = TakeDone(progress, size);
    progress.settling.SignalAll();
    return complete;
  }
}

// Whether nothing of the blob is missing any more, and nobody else was told so: the caller has to judge it.
bool BlobVerifier::Impl::TakeDone(Progress& progress, uint64_t size) {
  if (progress.done || progress.hashing) return false;
  bool hashed = progress.hash != nullptr && progress.hash->next() == size;
  // Others that are still reading may bring what is missing.
  if (!hashed && (progress.readers > 0 || !progress.coverage.complete())) return false;
  progress.done = true;
  return true;
}

// Damaged gives an error.
absl::Status BlobVerifier::Impl::Judge(uint32_t blob, const BlobFacts& facts, Progress& progress) {
  std::unique_ptr<BlobHash> hash;
  {
    absl::MutexLock lock(&progress.mutex);
    hash = std::move(progress.hash);
  }
  if (hash == nullptr) hash = std::make_unique<BlobHash>();
  held_bytes_ -= hash->held_bytes();
  hash->DropHeld();
  absl::Status verdict;
  uint64_t rest = facts.location.size - hash->next();
  if (rest > kMaxInlineRest) {
    Enqueue(blob, std::move(hash));
    Settle(progress);
    return absl::OkStatus();
  }
  if (rest > 0) {
    ChunkBuffer buffer(rest);
    verdict = buffer.size() == rest ? HashRest(blob, facts, *hash, buffer.span())
                                    : MakeError(Reason::kOutOfResources, "no memory to check a blob");
  }
  if (verdict.ok()) verdict = Conclude(blob, facts.sha1, hash->Finish());
  Settle(progress);
  Forget(blob);
  return verdict;
}

void BlobVerifier::Impl::Settle(Progress& progress) {
  absl::MutexLock lock(&progress.mutex);
  progress.settled = true;
  progress.settling.SignalAll();
}

void BlobVerifier::Impl::Forget(uint32_t blob) {
  absl::MutexLock lock(&mutex_);
  progress_.erase(blob);
  while (!streams_.empty() && streams_.front().expired()) streams_.pop_front();
}

absl::Status BlobVerifier::Impl::Conclude(uint32_t blob, const Sha1Digest& expected, const Sha1Digest& actual) {
  if (expected != actual) {
    MarkDamaged(blob, "its data does not match its SHA-1");
    return DamagedError(blob);
  }
  uint8_t unknown = kUnknown;
  if (states_[blob].compare_exchange_strong(unknown, kVerified, std::memory_order_release)) ++verified_;
  return absl::OkStatus();
}

void BlobVerifier::Impl::MarkDamaged(uint32_t blob, std::string_view what) {
  if (states_[blob].exchange(kDamaged, std::memory_order_release) == kDamaged) return;
  ++damaged_;
  if (on_damage_) on_damage_(blob, what);
}

absl::Status BlobVerifier::Impl::HashRest(uint32_t blob, const BlobFacts& facts, BlobHash& hash,
                                          absl::Span<char> buffer) {
  while (hash.next() < facts.location.size) {
    if (stop_.load(std::memory_order_relaxed)) return MakeError(Reason::kCancelled, "the mount ends");
    absl::Span<char> piece = buffer.subspan(0, std::min<uint64_t>(buffer.size(), facts.location.size - hash.next()));
    absl::Status status = ReadBytes(blob, facts.location, hash.next(), piece);
    if (!status.ok()) return status;
    read_again_ += piece.size();
    hash.Update({hash.next(), piece, nullptr});
  }
  return absl::OkStatus();
}

void BlobVerifier::Impl::Enqueue(uint32_t blob, std::unique_ptr<BlobHash> hash) {
  absl::MutexLock lock(&mutex_);
  if (queue_.size() >= kMaxQueue) {
    progress_.erase(blob);
    return;
  }
  queue_.push_back({blob, std::move(hash)});
  if (background_runs_) return;
  background_.Join();  // has left its loop already
  background_runs_ = background_.Start("blob-check", [this] { RunBackground(); }).ok();
  if (!background_runs_) {
    queue_.clear();
    progress_.erase(blob);
  }
}

void BlobVerifier::Impl::RunBackground() {
  ChunkBuffer buffer(kBackgroundPiece);
  for (;;) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      if (queue_.empty() || buffer.empty() || stop_.load(std::memory_order_relaxed)) {
        for (const Task& left : queue_) progress_.erase(left.blob);
        queue_.clear();
        background_runs_ = false;
        background_ended_.SignalAll();
        return;
      }
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    BlobFacts facts = facts_of_(task.blob);
    // After a failed read the blob is not known good; it is checked when it has been read all over again.
    if (HashRest(task.blob, facts, *task.hash, buffer.span()).ok()) {
      (void)Conclude(task.blob, facts.sha1, task.hash->Finish());
    }
    Forget(task.blob);
  }
}

void BlobVerifier::Impl::WaitForBackground() {
  absl::MutexLock lock(&mutex_);
  while (background_runs_) background_ended_.Wait(&mutex_);
  background_.Join();
}

void BlobVerifier::Impl::Trim() {
  std::deque<std::weak_ptr<Progress>> streams;
  {
    absl::MutexLock lock(&mutex_);
    streams.swap(streams_);
  }
  for (const std::weak_ptr<Progress>& weak : streams) {
    ProgressPointer progress = weak.lock();
    if (progress == nullptr) continue;
    absl::MutexLock lock(&progress->mutex);
    if (progress->hashing) continue;
    if (progress->hash != nullptr) held_bytes_ -= progress->hash->held_bytes();
    progress->hash = nullptr;
  }
}

BlobVerifier::Stats BlobVerifier::Impl::GetStats() const {
  Stats stats;
  stats.verified_blobs = verified_.load(std::memory_order_relaxed);
  stats.damaged_blobs = damaged_.load(std::memory_order_relaxed);
  stats.read_again = read_again_.load(std::memory_order_relaxed);
  return stats;
}

BlobVerifier::BlobVerifier(ResourceReader* reader, uint32_t blob_count, FactsOf facts_of, OnDamage on_damage)
    : impl_(std::make_unique<Impl>(reader, blob_count, std::move(facts_of), std::move(on_damage))) {}

BlobVerifier::~BlobVerifier() = default;

absl::Status BlobVerifier::Read(uint32_t blob, uint64_t offset, absl::Span<char> out) {
  return impl_->Read(blob, offset, out);
}

absl::Status BlobVerifier::ReadAhead(uint32_t blob, uint64_t offset, absl::Span<char> out,
                                     std::shared_ptr<const void> owner, const OnDecoded& on_decoded) {
  return impl_->ReadAhead(blob, offset, out, std::move(owner), on_decoded);
}

absl::Status BlobVerifier::Verdict(uint32_t blob, bool wait) { return impl_->Verdict(blob, wait); }

void BlobVerifier::Trim() { impl_->Trim(); }

BlobVerifier::Stats BlobVerifier::GetStats() const { return impl_->GetStats(); }

void BlobVerifier::WaitForBackground() { impl_->WaitForBackground(); }

}  // namespace libmount
