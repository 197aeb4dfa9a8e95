// SPDX-License-Identifier: GPL-3.0-or-later
//
// ClusterMap: where each cluster of an overlaid disk is to be read: a table of three levels, of which only the parts
// exist where something was changed. A changed cluster takes 4 bytes, and at least 2 KiB for each 2 MiB of the disk in
// which there is one.
//
// Thread safety: Get may be called from any thread at any time; the others by one thread at a time.

#ifndef LIBMOUNT_BLOCK_CLUSTER_MAP_H_
#define LIBMOUNT_BLOCK_CLUSTER_MAP_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"

namespace libmount {

class ClusterMap {
 public:
  // kBase, kBuffered, or the number of the slot in staging, plus 1.
  using Entry = uint32_t;
  static constexpr Entry kBase = 0;
  static constexpr Entry kBuffered = UINT32_MAX;  // in the memory of the open group
  static constexpr uint64_t kMaxSlots = kBuffered - 1;
  static constexpr uint64_t kMaxClusters = uint64_t{1} << 34;  // 64 TiB, the most of a VHDX
  // 1 GiB of memory; changes all over 1 TiB of the disk.
  static constexpr size_t kMaxLeaves = size_t{1} << 19;

  // REQUIRES: clusters <= kMaxClusters.
  explicit ClusterMap(uint64_t clusters) : clusters_(clusters), root_((clusters + kPerMiddle - 1) / kPerMiddle) {}

  uint64_t clusters() const { return clusters_; }
  // Of entries that are not kBase.
  uint64_t changed() const { return changed_.load(std::memory_order_relaxed); }

  // REQUIRES: cluster < clusters(); so for Set.
  Entry Get(uint64_t cluster) const {
    const Middle* middle = root_[cluster / kPerMiddle].load(std::memory_order_acquire);
    if (middle == nullptr) return kBase;
    const Leaf* leaf = (*middle)[cluster % kPerMiddle / kPerLeaf].load(std::memory_order_acquire);
    return leaf == nullptr ? kBase : (*leaf)[cluster % kPerLeaf].load(std::memory_order_seq_cst);
  }

  // Makes room for Set, which does nothing without. False: kMaxLeaves.
  bool Prepare(uint64_t cluster, uint64_t count);
  // What was there before.
  Entry Set(uint64_t cluster, Entry entry);

  // Of all that are not kBase, in order.
  void VisitChanged(absl::FunctionRef<void(uint64_t cluster, Entry entry)> visitor) const;

 private:
  static constexpr uint64_t kPerLeaf = 512;
  static constexpr uint64_t kLeavesPerMiddle = 4096;
  static constexpr uint64_t kPerMiddle = kPerLeaf * kLeavesPerMiddle;  // 8 GiB
  using Leaf = std::array<std::atomic<Entry>, kPerLeaf>;
  using Middle = std::array<std::atomic<Leaf*>, kLeavesPerMiddle>;

  const uint64_t clusters_;
  std::vector<std::atomic<Middle*>> root_;
  std::vector<std::unique_ptr<Middle>> middles_;
  std::vector<std::unique_ptr<Leaf>> leaves_;
  std::atomic<uint64_t> changed_ = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_CLUSTER_MAP_H_
