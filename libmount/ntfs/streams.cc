// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/streams.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "libmount/ntfs/attributes.h"

namespace libmount {
namespace {

// More are not shown: nobody has them, and each look at one of them looks at all.
constexpr size_t kMaxStreams = 4096;

// FNV-1a, folded to 16 bits other than 0.
uint16_t NumberOf(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  const auto folded = static_cast<uint16_t>(hash ^ hash >> 16);
  return folded == 0 ? 1 : folded;
}

}  // namespace

ErrnoOr<std::vector<NamedStream>> NamedStreams(ntfs_inode* inode) {
  std::vector<NamedStream> streams;
  const int error = VisitAttributes(inode, AT_DATA, [&](const ATTR_RECORD* record, const MFT_RECORD*) {
    const std::string_view name = NameOf(record);
    if (name.empty()) return true;
    const uint64_t size = SizeOf(record);
    uint64_t allocated = 0;
    if (record->non_resident) {
      const bool packed = (DataFlagsOf(record) & (kDataCompressed | kDataSparse)) != 0;
      allocated = static_cast<uint64_t>(sle64_to_cpu(packed ? record->compressed_size : record->allocated_size));
    }
    streams.push_back({0, std::string(name), size, allocated});
    return streams.size() < kMaxStreams;
  });
  if (error != 0) return Errno(error);
  std::sort(streams.begin(), streams.end(), [](const NamedStream& a, const NamedStream& b) { return a.name < b.name; });
  absl::flat_hash_set<uint16_t> taken;
  for (NamedStream& stream : streams) {
    stream.number = NumberOf(stream.name);
    while (!taken.insert(stream.number).second) stream.number = stream.number == UINT16_MAX ? 1 : stream.number + 1;
  }
  return streams;
}

}  // namespace libmount
