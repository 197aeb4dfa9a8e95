// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/directory_listing.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"

namespace libmount {
namespace {

// Of all names of a directory together: some five million files.
constexpr size_t kMaxNamesSize = size_t{256} << 20;

constexpr int kHashBits = 31;  // the record's number has the 32 above them; cookies are signed numbers to programs

uint32_t HashOf(std::string_view name) {
  uint64_t hash = 14695981039346656037u;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return static_cast<uint32_t>(hash >> (64 - kHashBits));
}

// Windows stores no such names, and Linux cannot show them.
bool IsShowable(std::string_view name) {
  return name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

}  // namespace

ErrnoOr<std::shared_ptr<const DirectoryListing>> DirectoryListing::Of(DirectoryIndex& index) {
  auto listing = std::make_shared<DirectoryListing>();
  std::vector<Item>& items = listing->items_;
  std::string& names = listing->names_;
  bool too_long = false;
  const int error = index.VisitAll([&](const DirectoryIndex::Entry& entry) {
    if (entry.is_short() || !IsUserFile(entry.file) || RecordOf(entry.file) == kRootRecord) return true;
    const size_t at = names.size();
    AppendUtf16Le(entry.name, names);
    const std::string_view name = std::string_view(names).substr(at);
    if (!IsShowable(name)) {
      names.resize(at);
      return true;
    }
    const uint64_t cookie = RecordOf(entry.file) << kHashBits | HashOf(name);
    items.push_back(
        {cookie, entry.file, entry.attributes, static_cast<uint32_t>(at), static_cast<uint16_t>(name.size())});
    too_long = names.size() > kMaxNamesSize;
    return !too_long;
  });
  if (error != 0) return Errno(error);
  if (too_long) return Errno(ENOMEM);
  std::sort(items.begin(), items.end(), [&](const Item& a, const Item& b) {
    return a.cookie != b.cookie ? a.cookie < b.cookie : listing->name(a) < listing->name(b);
  });
  // Entries that are there twice are damage; two names of one file with one hash happen once in a blue moon.
  for (size_t i = 1; i < items.size(); ++i) items[i].cookie = std::max(items[i].cookie, items[i - 1].cookie + 1);
  return std::shared_ptr<const DirectoryListing>(std::move(listing));
}

size_t DirectoryListing::Behind(uint64_t cookie) const {
  auto behind = std::upper_bound(items_.begin(), items_.end(), cookie,
                                 [](uint64_t wanted, const Item& item) { return wanted < item.cookie; });
  return static_cast<size_t>(behind - items_.begin());
}

}  // namespace libmount
