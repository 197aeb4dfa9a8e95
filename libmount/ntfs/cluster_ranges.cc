// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/cluster_ranges.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {
namespace {

constexpr uint64_t kZeroedAtOnce = uint64_t{1} << 20;
// The library reallocates a runlist where this many bytes are not enough any more, and only there.
constexpr size_t kRunlistStep = 4096;

using Runs = std::vector<runlist_element>;  // without the one behind the last

s64 EndOf(const Runs& runs) { return runs.empty() ? 0 : runs.back().vcn + runs.back().length; }

ErrnoOr<Runs> RunsOf(ntfs_attr* attribute) {
  errno = 0;
  if (ntfs_attr_map_whole_runlist(attribute) != 0) return Errno(ChangeErrno());
  const s64 clusters = attribute->ni->vol->nr_clusters;
  Runs runs;
  for (const runlist_element* run = attribute->rl; run != nullptr && run->length != 0; ++run) {
    if (run->vcn != EndOf(runs) || run->length < 0) return Errno(EIO);
    const bool hole = run->lcn == LCN_HOLE;
    if (!hole && (run->lcn < 0 || run->lcn > clusters || run->length > clusters - run->lcn)) return Errno(EIO);
    runs.push_back(*run);
  }
  return runs;
}

// Appends a run, or makes the last one longer.
void Append(const runlist_element& run, Runs& runs) {
  if (run.length == 0) return;
  if (!runs.empty()) {
    runlist_element& last = runs.back();
    const bool goes_on =
        run.lcn == LCN_HOLE ? last.lcn == LCN_HOLE : last.lcn >= 0 && last.lcn + last.length == run.lcn;
    if (goes_on) {
      last.length += run.length;
      return;
    }
  }
  runs.push_back(run);
}

// What of a run lies within [first, end).
runlist_element Within(const runlist_element& run, s64 first, s64 end) {
  const s64 from = std::max(run.vcn, first);
  const s64 length = std::max<s64>(std::min(run.vcn + run.length, end) - from, 0);
  return {from, run.lcn < 0 ? run.lcn : run.lcn + (from - run.vcn), length};
}

int SetRuns(ntfs_attr* attribute, const Runs& runs) {
  const size_t bytes = (runs.size() + 1) * sizeof(runlist_element);
  auto* list = static_cast<runlist_element*>(malloc((bytes + kRunlistStep - 1) / kRunlistStep * kRunlistStep));
  if (list == nullptr) return ENOMEM;
  std::copy(runs.begin(), runs.end(), list);
  list[runs.size()] = {EndOf(runs), static_cast<LCN>(LCN_ENOENT), 0};
  free(attribute->rl);
  attribute->rl = list;
  attribute->allocated_size = EndOf(runs) << attribute->ni->vol->cluster_size_bits;
  errno = 0;
  return ntfs_attr_update_mapping_pairs(attribute, 0) == 0 ? 0 : ChangeErrno();
}

int WriteZeros(ntfs_volume* volume, const runlist_element& run) {
  const auto size = static_cast<uint64_t>(run.length) << volume->cluster_size_bits;
  const std::string zeros(std::min(size, kZeroedAtOnce), '\0');
  for (uint64_t done = 0; done < size;) {
    const auto length = static_cast<s64>(std::min<uint64_t>(zeros.size(), size - done));
    const s64 at = (run.lcn << volume->cluster_size_bits) + static_cast<s64>(done);
    errno = 0;
    if (ntfs_pwrite(volume->dev, at, length, zeros.data()) != length) return ChangeErrno();
    done += static_cast<uint64_t>(length);
  }
  return 0;
}

// Appends `length` new clusters to the runs. Behind what was ever written they need no zeros: NTFS has a mark there.
int AppendNew(ntfs_attr* attribute, s64 length, Runs& runs) {
  if (length == 0) return 0;
  ntfs_volume* volume = attribute->ni->vol;
  const s64 written = (attribute->initialized_size + volume->cluster_size - 1) >> volume->cluster_size_bits;
  const LCN hint = runs.empty() || runs.back().lcn < 0 ? -1 : runs.back().lcn + runs.back().length;
  errno = 0;
  const std::unique_ptr<runlist_element, decltype(&free)> list(
      ntfs_cluster_alloc(volume, EndOf(runs), length, hint, DATA_ZONE), free);
  if (list == nullptr) return ChangeErrno();
  for (const runlist_element* run = list.get(); run->length != 0; ++run) {
    if (int error = WriteZeros(volume, Within(*run, 0, written))) return error;
    Append(*run, runs);
  }
  return 0;
}

s64 FreeOn(ntfs_volume* volume) {
  if (!NVolFreeSpaceKnown(volume)) ntfs_volume_get_free_space(volume);
  return volume->free_clusters;
}

}  // namespace

ErrnoOr<bool> HasCluster(ntfs_attr* attribute, uint64_t cluster) {
  ErrnoOr<Runs> runs = RunsOf(attribute);
  if (!runs.ok()) return Errno(runs.error());
  return std::any_of(runs->begin(), runs->end(), [at = static_cast<s64>(cluster)](const runlist_element& run) {
    return run.lcn >= 0 && run.vcn <= at && at < run.vcn + run.length;
  });
}

int AllocateClusters(ntfs_attr* attribute, uint64_t first, uint64_t end) {
  const auto from = static_cast<s64>(first);
  const auto to = static_cast<s64>(end);
  ErrnoOr<Runs> old = RunsOf(attribute);
  if (!old.ok()) return old.error();
  // Behind the allocation lies a hole, too, up to where the range begins.
  if (EndOf(*old) < to) old->push_back({EndOf(*old), static_cast<LCN>(LCN_HOLE), to - EndOf(*old)});
  s64 missing = 0;
  for (const runlist_element& run : *old) {
    if (run.lcn == LCN_HOLE) missing += Within(run, from, to).length;
  }
  if (missing == 0) return 0;
  if (missing > FreeOn(attribute->ni->vol)) return ENOSPC;
  Runs runs;
  for (const runlist_element& run : *old) {
    if (run.lcn != LCN_HOLE) {
      Append(run, runs);
      continue;
    }
    Append(Within(run, 0, from), runs);
    if (int error = AppendNew(attribute, Within(run, from, to).length, runs)) return error;
    Append(Within(run, to, EndOf(*old)), runs);
  }
  return SetRuns(attribute, runs);
}

int FreeClusters(ntfs_attr* attribute, uint64_t first, uint64_t end) {
  const auto from = static_cast<s64>(first);
  const auto to = static_cast<s64>(end);
  ErrnoOr<Runs> old = RunsOf(attribute);
  if (!old.ok()) return old.error();
  Runs runs;
  bool any = false;
  for (const runlist_element& run : *old) {
    runlist_element hole = Within(run, from, to);
    if (run.lcn == LCN_HOLE || hole.length == 0) {
      Append(run, runs);
      continue;
    }
    errno = 0;
    if (ntfs_cluster_free_basic(attribute->ni->vol, hole.lcn, hole.length) != 0) return ChangeErrno();
    any = true;
    Append(Within(run, 0, from), runs);
    hole.lcn = static_cast<LCN>(LCN_HOLE);
    Append(hole, runs);
    Append(Within(run, to, EndOf(*old)), runs);
  }
  return any ? SetRuns(attribute, runs) : 0;
}

}  // namespace libmount
