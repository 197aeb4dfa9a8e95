// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/direct_opens.h"

namespace libmount {

DirectOpens::DirectOpens(absl::Span<Entry> entries) : entries_(entries) {
  for (const Entry& entry : entries_) used_ += entry.node != 0 ? 1 : 0;
}

bool DirectOpens::Begin(NodeId node) {
  absl::MutexLock lock(&mutex_);
  if (Entry* found = Find(node)) {  // the request is handled again after a death
    ++found->opens;
    found->shared = 1;
    return true;
  }
  if (used_ == entries_.size()) return false;
  Entry* free = Find(0);
  if (free == nullptr) return false;
  ++used_;
  free->shared = 0;
  free->opens = 1;
  free->node = node;  // last: until then it is free
  return true;
}

DirectOpens::How DirectOpens::Open(NodeId node) {
  if (used_ == 0) return How::kCached;
  absl::MutexLock lock(&mutex_);
  Entry* found = Find(node);
  if (found == nullptr) return How::kCached;
  if (found->opens == 0) {
    Forget(found);
    return How::kCachedAnew;
  }
  found->shared = 1;
  ++found->opens;
  return How::kDirect;
}

void DirectOpens::Release(NodeId node) {
  absl::MutexLock lock(&mutex_);
  Entry* found = Find(node);
  if (found == nullptr || found->opens == 0) return;
  if (--found->opens == 0 && found->shared == 0) Forget(found);
}

bool DirectOpens::IsShared(NodeId node) const {
  if (used_ == 0) return false;
  absl::MutexLock lock(&mutex_);
  const Entry* found = Find(node);
  return found != nullptr && found->shared != 0;
}

DirectOpens::Entry* DirectOpens::Find(NodeId node) const {
  for (Entry& entry : entries_) {
    if (entry.node.load(std::memory_order_relaxed) == node) return &entry;
  }
  return nullptr;
}

void DirectOpens::Forget(Entry* entry) {
  entry->node = 0;
  --used_;
}

}  // namespace libmount
