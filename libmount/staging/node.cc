// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/node.h"

#include <algorithm>
#include <utility>

#include "libmount/base/utf16.h"

namespace libmount {

Directory::Found Directory::Find(std::string_view name) const {
  std::string folded;
  AppendFolded(name, folded);
  if (auto found = names_.find(folded); found != names_.end()) {
    Found result;
    for (uint64_t cookie : found->second) {
      const DirectoryItem& item = items_.find(cookie)->second;
      if (item.name == name) return {cookie, &item, true};
      // Of several that differ only in case, the first by exact name: the same one for every spelling.
      if (result.item == nullptr || item.name < result.item->name) result = {cookie, &item, false};
    }
    return result;
  }
  auto found = short_names_.find(folded);
  if (found == short_names_.end()) return {};
  const uint64_t cookie = *std::min_element(found->second.begin(), found->second.end());
  return {cookie, &items_.find(cookie)->second, false};
}

const DirectoryItem* Directory::At(uint64_t cookie) const {
  auto found = items_.find(cookie);
  return found == items_.end() ? nullptr : &found->second;
}

void Directory::Add(uint64_t cookie, DirectoryItem item) {
  std::string folded;
  AppendFolded(item.name, folded);
  names_[std::move(folded)].push_back(cookie);
  if (!item.short_name.empty()) {
    std::string folded_short;
    AppendFolded(item.short_name, folded_short);
    short_names_[std::move(folded_short)].push_back(cookie);
  }
  items_.emplace(cookie, std::move(item));
  next_cookie_ = std::max(next_cookie_, cookie + 1);
}

void Directory::RemoveFrom(Index& index, std::string_view name, uint64_t cookie) {
  std::string folded;
  AppendFolded(name, folded);
  auto found = index.find(folded);
  if (found == index.end()) return;
  auto& cookies = found->second;
  cookies.erase(std::remove(cookies.begin(), cookies.end(), cookie), cookies.end());
  if (cookies.empty()) index.erase(found);
}

void Directory::Remove(uint64_t cookie) {
  auto found = items_.find(cookie);
  if (found == items_.end()) return;
  RemoveFrom(names_, found->second.name, cookie);
  if (!found->second.short_name.empty()) RemoveFrom(short_names_, found->second.short_name, cookie);
  items_.erase(found);
}

void Directory::SetShortName(uint64_t cookie, std::string_view short_name) {
  auto found = items_.find(cookie);
  if (found == items_.end()) return;
  DirectoryItem& item = found->second;
  if (!item.short_name.empty()) RemoveFrom(short_names_, item.short_name, cookie);
  item.short_name = short_name;
  if (item.short_name.empty()) return;
  std::string folded;
  AppendFolded(item.short_name, folded);
  short_names_[std::move(folded)].push_back(cookie);
}

}  // namespace libmount
