// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayDevice: groups of writes.
//
//   Write   whole clusters in a row: into new slots at once
//           less: into the group's memory, merged with what the cluster has
//   End     the memory into new slots, with one write; the record into the log, with one write; the map
//
// The map shows an open group's writes already, and `before` has what it showed; a group that is given up puts that
// back. In the log there is nothing of it.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libmount/base/crc32c.h"
#include "libmount/block/overlay_impl.h"

namespace libmount {
namespace {

// Shorter rows of whole clusters are gathered with others.
constexpr uint64_t kDirectClusters = 16;
// Of the group's memory, kept for the next one.
constexpr size_t kKeptBuffer = size_t{256} << 10;

}  // namespace

bool OverlayImpl::HasOpenGroup() const {
  absl::MutexLock lock(&group_mutex_);
  return group_open_ && owner_ == std::this_thread::get_id();
}

void OverlayImpl::OpenGroup() {
  absl::MutexLock lock(&group_mutex_);
  auto is_free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_mutex_) { return !group_open_; };
  group_mutex_.Await(absl::Condition(&is_free));
  group_open_ = true;
  owner_ = std::this_thread::get_id();
}

void OverlayImpl::CloseGroup() {
  absl::MutexLock lock(&group_mutex_);
  group_open_ = false;
  owner_ = {};
}

void OverlayImpl::Begin(uint64_t request) {
  OpenGroup();
  group_.request = request;
}

int OverlayImpl::End(const Reply& reply) {
  int error = group_.error;
  if (error == 0) error = FlushBuffer();
  if (error == 0 && !group_.extents.empty()) error = LogGroup(reply);
  if (error != 0) Revert();
  group_ = Group();
  CloseGroup();
  // The group is done, whatever becomes of this.
  if (error == 0 && SyncIsDue()) Sync();
  return error;
}

void OverlayImpl::Abort() {
  Revert();
  group_ = Group();
  CloseGroup();
}

int OverlayImpl::Write(uint64_t offset, absl::Span<const char> data) {
  if (offset > size_ || data.size() > size_ - offset) return EINVAL;
  const bool alone = !HasOpenGroup();
  if (alone) Begin(0);
  int error = group_.error;
  if (error == 0) error = group_.error = WriteInGroup(offset, data);
  if (!alone) return error;
  return End({});
}

int OverlayImpl::WriteInGroup(uint64_t offset, absl::Span<const char> data) {
  while (!data.empty()) {
    const uint64_t cluster = offset / kClusterSize;
    const uint64_t within = offset % kClusterSize;
    const uint64_t whole = within == 0 ? data.size() / kClusterSize : 0;
    size_t length;
    int error;
    if (whole >= kDirectClusters) {
      length = std::min(whole, StagedExtent::kMaxCount) * kClusterSize;
      error = WriteWhole(cluster, data.first(length));
    } else {
      length = std::min<uint64_t>(data.size(), kClusterSize - within);
      error = WriteBuffered(cluster, within, data.first(length));
    }
    if (error != 0) return error;
    offset += length;
    data.remove_prefix(length);
  }
  return 0;
}

ErrnoOr<uint64_t> OverlayImpl::AllocateSlots(uint64_t count) {
  const ArenaRange range = arena_->Allocate(0, Extent::kZeros, count * kClusterSize, 0);
  const uint64_t slot = range.offset / kClusterSize;
  if (range.length == 0 || slot + count > ClusterMap::kMaxSlots) return Errno(ENOSPC);
  group_.allocated.push_back(range);
  return slot;
}

int OverlayImpl::PrepareChange(uint64_t cluster, uint64_t count) {
  if (group_.before.size() + count > kMaxGroupClusters) return ENOSPC;
  return state_.map.Prepare(cluster, count) ? 0 : ENOSPC;
}

int OverlayImpl::WriteWhole(uint64_t cluster, absl::Span<const char> data) {
  const uint64_t count = data.size() / kClusterSize;
  if (int error = PrepareChange(cluster, count)) return error;
  // What is in memory is older.
  if (int error = FlushBuffer()) return error;
  ErrnoOr<uint64_t> slot = AllocateSlots(count);
  if (!slot.ok()) return slot.error();
  if (int error = arena_->Write(*slot * kClusterSize, data)) return error;
  group_.extents.push_back({cluster, *slot, count, Crc32c(data)});
  for (uint64_t i = 0; i < count; ++i) {
    const auto entry = static_cast<ClusterMap::Entry>(*slot + i + 1);
    group_.before.emplace_back(cluster + i, state_.map.Set(cluster + i, entry));
  }
  return 0;
}

int OverlayImpl::WriteBuffered(uint64_t cluster, uint64_t offset_in_cluster, absl::Span<const char> data) {
  {
    absl::MutexLock lock(&buffer_mutex_);
    auto found = buffer_index_.find(cluster);
    if (found != buffer_index_.end()) {
      memcpy(buffer_.data() + found->second * kClusterSize + offset_in_cluster, data.data(), data.size());
      return 0;
    }
  }
  if (int error = PrepareChange(cluster, 1)) return error;
  char content[kClusterSize];
  if (data.size() < kClusterSize) {
    // The disk may end within its last cluster.
    const uint64_t there = std::min<uint64_t>(kClusterSize, size_ - cluster * kClusterSize);
    memset(content + there, 0, kClusterSize - there);
    if (int error = Read(cluster * kClusterSize, absl::MakeSpan(content, there))) return error;
  }
  memcpy(content + offset_in_cluster, data.data(), data.size());
  bool full;
  {
    absl::MutexLock lock(&buffer_mutex_);
    buffer_index_.emplace(cluster, buffer_order_.size());
    buffer_order_.push_back(cluster);
    buffer_.insert(buffer_.end(), content, content + kClusterSize);
    group_.before.emplace_back(cluster, state_.map.Set(cluster, ClusterMap::kBuffered));
    full = buffer_order_.size() == kMaxBuffered;
  }
  return full ? FlushBuffer() : 0;
}

int OverlayImpl::FlushBuffer() {
  absl::MutexLock lock(&buffer_mutex_);
  const size_t count = buffer_order_.size();
  if (count == 0) return 0;
  ErrnoOr<uint64_t> slot = AllocateSlots(count);
  if (!slot.ok()) return slot.error();
  if (int error = arena_->Write(*slot * kClusterSize, buffer_)) return error;
  size_t begin = 0;
  for (size_t i = 1; i <= count; ++i) {
    if (i < count && buffer_order_[i] == buffer_order_[i - 1] + 1) continue;
    const absl::Span<const char> row(buffer_.data() + begin * kClusterSize, (i - begin) * kClusterSize);
    group_.extents.push_back({buffer_order_[begin], *slot + begin, i - begin, Crc32c(row)});
    begin = i;
  }
  for (size_t i = 0; i < count; ++i) {
    state_.map.Set(buffer_order_[i], static_cast<ClusterMap::Entry>(*slot + i + 1));
  }
  buffer_index_.clear();
  buffer_order_.clear();
  buffer_.clear();
  if (buffer_.capacity() > kKeptBuffer) buffer_.shrink_to_fit();
  return 0;
}

int OverlayImpl::LogGroup(const Reply& reply) {
  absl::MutexLock lock(&mutex_);
  // A replay holds in memory what no mark covers; if nothing can be synced, nothing more can be taken.
  if (unmarked_log_bytes_ > OverlayReplay::kMaxUnmarkedBytes / 2) return EIO;
  const uint64_t group = state_.last_group + 1;
  const int error = EncodeGroup(group, group_.extents, group_.request, reply, [&](const EditLog::Record& record) {
    mutex_.AssertHeld();
    unmarked_log_bytes_ += record.edits.size();
    return log_->Append(record);
  });
  // Parts of it may be in the log: they are nobody's.
  state_.last_group = group;
  if (error != 0) return error;
  state_.replies.Remember(group_.request, reply);
  for (const auto& [cluster, entry] : group_.before) {
    if (entry != ClusterMap::kBase && entry != ClusterMap::kBuffered) Free(entry - uint64_t{1}, 1);
  }
  for (const StagedExtent& extent : group_.extents) unsynced_bytes_ += extent.count * kClusterSize;
  if (log_->size() >= rewrite_at_) RewriteLog();  // where it fails, the old one does as well
  return 0;
}

void OverlayImpl::Revert() {
  {
    absl::MutexLock lock(&buffer_mutex_);
    for (auto item = group_.before.rbegin(); item != group_.before.rend(); ++item) {
      state_.map.Set(item->first, item->second);
    }
    buffer_index_.clear();
    buffer_order_.clear();
    buffer_.clear();
  }
  Punch(std::move(group_.allocated));
}

}  // namespace libmount
