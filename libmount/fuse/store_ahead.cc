// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/store_ahead.h"

#include <algorithm>
#include <utility>

namespace libmount {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

StoreAhead::StoreAhead(const FileTree* tree, Store store)
    : tree_(tree), store_(std::move(store)), buffer_(kBatchFiles * kSmallFileBytes) {}

void StoreAhead::OnSmallFileRead(NodeId file) {
  size_t stream_index;
  std::vector<NodeId> batch = Decide(file, &stream_index);
  if (batch.empty()) return;
  size_t done = 0;
  if (storing_.TryLock()) {
    // The first one alone: where the kernel does not know that, the others would be read in vain.
    absl::Span<const NodeId> files = batch;
    if (StoreSome(files.first(1), &done)) StoreSome(files.subspan(1), &done);
    storing_.Unlock();
  }
  if (done < batch.size()) Rewind(stream_index, absl::MakeConstSpan(batch).subspan(done));
}

void StoreAhead::Rewind(size_t stream_index, absl::Span<const NodeId> next) {
  absl::MutexLock lock(&mutex_);
  Stream& stream = streams_[stream_index];
  stream.expected.fill(0);
  std::copy_n(next.begin(), std::min(next.size(), kExpected), stream.expected.begin());
}

// A few candidates more than a batch are visited, so that the stream can be told which files come behind it.
std::vector<NodeId> StoreAhead::Decide(NodeId file, size_t* stream_index) {
  std::vector<NodeId> ahead;
  size_t wanted = kExpected;
  absl::MutexLock lock(&mutex_);
  Stream* stream = FindStream(file);
  *stream_index = static_cast<size_t>(stream - streams_.data());
  if (stream->hits >= kHitsBeforeStoring) wanted += kBatchFiles;
  bool dropped = IsStored(file);
  SetStored(file, true);  // it is in the page cache from now on
  size_t stored_already = 0;
  tree_->VisitReadAheadCandidates(file, kSmallFileBytes, [&](NodeId node, uint64_t size) {
    mutex_.AssertHeld();
    if (node == file || size == 0 || size > kSmallFileBytes) return true;
    // Stored before: passed over. Not without end: after so many there is nothing to gain here.
    if (!dropped && IsStored(node)) return ++stored_already < kBatchFiles;
    ahead.push_back(node);
    return ahead.size() < wanted;
  });
  size_t batch = stream->hits >= kHitsBeforeStoring ? std::min(ahead.size(), kBatchFiles) : 0;
  stream->expected.fill(0);
  std::copy_n(ahead.begin() + batch, std::min(ahead.size() - batch, kExpected), stream->expected.begin());
  ahead.resize(batch);
  return ahead;
}

// The stream that expected `file`, with one hit more; else the one unused for longest, started anew.
StoreAhead::Stream* StoreAhead::FindStream(NodeId file) {
  Stream* oldest = &streams_[0];
  for (Stream& stream : streams_) {
    if (std::find(stream.expected.begin(), stream.expected.end(), file) != stream.expected.end()) {
      stream.hits = std::min(stream.hits + 1, kHitsBeforeStoring);
      stream.last_use = ++clock_;
      return &stream;
    }
    if (stream.last_use < oldest->last_use) oldest = &stream;
  }
  *oldest = Stream{.last_use = ++clock_};
  return oldest;
}

bool StoreAhead::StoreSome(absl::Span<const NodeId> nodes, size_t* done) {
  std::vector<File> files;
  std::vector<size_t> places;  // in `nodes`
  size_t used = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    absl::Span<char> room = buffer_.first(buffer_.size()).subspan(used, kSmallFileBytes);
    ErrnoOr<size_t> size = tree_->Read(nodes[i], 0, room);
    if (!size.ok()) continue;  // its reader will be told
    files.push_back({nodes[i], room.first(*size)});
    places.push_back(i);
    used += (*size + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
  const size_t stored = files.empty() ? 0 : store_(files);
  stored_count_.fetch_add(stored, std::memory_order_relaxed);
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < stored; ++i) SetStored(files[i].node, true);
  }
  // ENOENT: the kernel does not know the node (any more); then it will not know the next ones either.
  *done += stored < files.size() ? places[stored] : nodes.size();
  return stored == files.size();
}

bool StoreAhead::IsStored(NodeId node) const {
  auto block = stored_.find(node / kNodesPerBlock);
  return block != stored_.end() && block->second.test(node % kNodesPerBlock);
}

void StoreAhead::SetStored(NodeId node, bool stored) {
  stored_[node / kNodesPerBlock].set(node % kNodesPerBlock, stored);
}

void StoreAhead::Trim() {
  if (!storing_.TryLock()) return;
  buffer_.Discard();
  storing_.Unlock();
}

}  // namespace libmount
