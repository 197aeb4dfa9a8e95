// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/hard_links.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>

namespace libmount {
namespace {

// Brings the links of each group together, sorted; the order of groups does not matter. A third of the time of sorting
// all, since every file of an image of Windows may be in some group.
void SortGroups(std::vector<HardLink>& links) {
  constexpr uint64_t kMultiplier =
      0x9e3779b97f4a7c15;  // spreads groups that are numbered in steps (2^64 / golden ratio)
  const int shift = 64 - std::max(1, static_cast<int>(std::bit_width(links.size() / 4)));
  auto bucket_of = [shift](const HardLink& link) { return (link.group * kMultiplier) >> shift; };
  std::vector<uint32_t> ends((size_t{1} << (64 - shift)) + 1);
  for (const HardLink& link : links) ++ends[bucket_of(link) + 1];
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  std::vector<HardLink> sorted(links.size());
  for (const HardLink& link : links) sorted[ends[bucket_of(link)]++] = link;  // what was a begin becomes an end
  uint32_t begin = 0;
  for (uint32_t end : ends) {
    if (end - begin > 1) std::sort(sorted.begin() + begin, sorted.begin() + end);
    begin = end;
  }
  links = std::move(sorted);
}

// Gives the pages behind the last element back to the kernel. Cheaper than a copy of the right size, whose pages would
// all be new ones.
void GiveBackTail(std::vector<MetadataInode>& inodes) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(inodes.data() + inodes.size()) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(inodes.data() + inodes.capacity()) / page * page;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

void LinkHardLinks(std::vector<HardLink> links, ImageMetadata& image) {
  SortGroups(links);
  std::vector<uint32_t> first_of;  // for each inode so far, the one that stands for it; empty: each for itself
  for (size_t i = 1; i < links.size(); ++i) {
    const HardLink& previous = links[i - 1];
    const HardLink& link = links[i];
    if (link.group != previous.group || link.blob != previous.blob) continue;
    if (first_of.empty()) {
      first_of.resize(image.inodes.size());
      std::iota(first_of.begin(), first_of.end(), 0);
    }
    first_of[link.inode] = first_of[previous.inode];
    MetadataInode& first = image.inodes[first_of[link.inode]];
    ++first.link_count;
    const uint32_t entry = image.inodes[link.inode].first_entry;
    const bool has_short_name = image.entries[first.first_entry].short_name_size > 0;
    if (!has_short_name && image.entries[entry].short_name_size > 0) first.first_entry = entry;
  }
  if (first_of.empty()) return;

  uint32_t kept = 0;
  for (uint32_t i = 0; i < first_of.size(); ++i) {
    if (first_of[i] == i) {
      image.inodes[kept] = image.inodes[i];
      first_of[i] = kept++;
    } else {
      first_of[i] = first_of[first_of[i]];  // an earlier one, already renumbered
    }
  }
  image.inodes.resize(kept);
  GiveBackTail(image.inodes);  // in an image of Windows, half of them may be gone
  for (MetadataEntry& entry : image.entries) entry.inode = first_of[entry.inode];
  for (MetadataDirectory& directory : image.directories) directory.inode = first_of[directory.inode];
}

}  // namespace libmount
