// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/cluster_map.h"

namespace libmount {

bool ClusterMap::Prepare(uint64_t cluster, uint64_t count) {
  for (uint64_t at = cluster / kPerLeaf * kPerLeaf; at < cluster + count; at += kPerLeaf) {
    std::atomic<Middle*>& middle = root_[at / kPerMiddle];
    if (middle.load(std::memory_order_relaxed) == nullptr) {
      middles_.push_back(std::make_unique<Middle>());
      middle.store(middles_.back().get(), std::memory_order_release);
    }
    std::atomic<Leaf*>& leaf = (*middle.load(std::memory_order_relaxed))[at % kPerMiddle / kPerLeaf];
    if (leaf.load(std::memory_order_relaxed) != nullptr) continue;
    if (leaves_.size() >= kMaxLeaves) return false;
    leaves_.push_back(std::make_unique<Leaf>());
    leaf.store(leaves_.back().get(), std::memory_order_release);
  }
  return true;
}

ClusterMap::Entry ClusterMap::Set(uint64_t cluster, Entry entry) {
  Middle* middle = root_[cluster / kPerMiddle].load(std::memory_order_relaxed);
  Leaf* leaf = middle == nullptr ? nullptr : (*middle)[cluster % kPerMiddle / kPerLeaf].load(std::memory_order_relaxed);
  if (leaf == nullptr) return kBase;
  const Entry before = (*leaf)[cluster % kPerLeaf].exchange(entry, std::memory_order_seq_cst);
  const uint64_t changed = changed_.load(std::memory_order_relaxed);
  changed_.store(changed + (entry != kBase ? 1 : 0) - (before != kBase ? 1 : 0), std::memory_order_relaxed);
  return before;
}

void ClusterMap::VisitChanged(absl::FunctionRef<void(uint64_t cluster, Entry entry)> visitor) const {
  for (size_t i = 0; i < root_.size(); ++i) {
    const Middle* middle = root_[i].load(std::memory_order_acquire);
    if (middle == nullptr) continue;
    for (size_t j = 0; j < middle->size(); ++j) {
      const Leaf* leaf = (*middle)[j].load(std::memory_order_acquire);
      if (leaf == nullptr) continue;
      for (size_t k = 0; k < leaf->size(); ++k) {
        const Entry entry = (*leaf)[k].load(std::memory_order_relaxed);
        if (entry != kBase) visitor(i * kPerMiddle + j * kPerLeaf + k, entry);
      }
    }
  }
}

}  // namespace libmount
