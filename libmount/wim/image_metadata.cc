// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/image_metadata.h"

#include <algorithm>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"

namespace libmount {

uint32_t ImageMetadata::FindExact(const MetadataDirectory& directory, std::string_view name) const {
  auto begin = sorted.begin() + directory.first_entry;
  auto end = begin + directory.entry_count;
  auto found = std::lower_bound(begin, end, name, [this](uint32_t entry, std::string_view wanted) {
    std::string_view candidate = Name(entries[entry]);
    int order = CompareFolded(candidate, wanted);
    return order != 0 ? order < 0 : candidate < wanted;
  });
  return found != end && Name(entries[*found]) == name ? *found : kNone;
}

uint32_t ImageMetadata::FindFolded(const MetadataDirectory& directory, std::string_view name) const {
  auto begin = sorted.begin() + directory.first_entry;
  auto end = begin + directory.entry_count;
  auto found = std::lower_bound(begin, end, name, [this](uint32_t entry, std::string_view wanted) {
    return CompareFolded(Name(entries[entry]), wanted) < 0;
  });
  // Of several that differ only in case, the first by exact name: the same one for every spelling.
  return found != end && EqualFolded(Name(entries[*found]), name) ? *found : kNone;
}

uint32_t ImageMetadata::FindShortName(const MetadataDirectory& directory, std::string_view name) const {
  const uint32_t wanted = static_cast<uint32_t>(&directory - directories.data());
  auto found = std::lower_bound(short_names.begin(), short_names.end(), name,
                                [this, wanted](uint32_t index, std::string_view wanted_name) {
                                  const MetadataEntry& entry = entries[index];
                                  if (entry.directory != wanted) return entry.directory < wanted;
                                  return CompareFolded(ShortName(entry), wanted_name) < 0;
                                });
  if (found == short_names.end() || entries[*found].directory != wanted) return kNone;
  return EqualFolded(ShortName(entries[*found]), name) ? *found : kNone;
}

std::string ImageMetadata::PathOf(uint32_t entry) const {
  std::vector<uint32_t> chain;  // from the entry up to below the root
  while (entry != 0) {
    chain.push_back(entry);
    entry = inodes[directories[entries[entry].directory].inode].first_entry;
  }
  std::string path;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    if (!path.empty()) path += '/';
    path += Name(entries[*it]);
  }
  return path;
}

std::string_view FindTaggedItem(std::string_view tagged_items, uint32_t tag, size_t min_size) {
  constexpr size_t kHeaderSize = 8;  // u32 tag, u32 size; then the data, padded to a multiple of 8
  while (tagged_items.size() >= kHeaderSize) {
    const uint32_t item_tag = LoadLe32(tagged_items.data());
    const uint64_t size = LoadLe32(tagged_items.data() + 4);
    if (size > tagged_items.size() - kHeaderSize) break;
    if (item_tag == tag && size >= min_size) return tagged_items.substr(kHeaderSize, size);
    const uint64_t padded = (size + 7) & ~uint64_t{7};
    tagged_items.remove_prefix(std::min<uint64_t>(tagged_items.size(), kHeaderSize + padded));
  }
  return {};
}

}  // namespace libmount
