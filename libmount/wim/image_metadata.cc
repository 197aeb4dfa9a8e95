// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/image_metadata.h"

#include <algorithm>

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

}  // namespace libmount
