// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/directory_index.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/ntfs/volume.h"

namespace libmount {
namespace {

constexpr std::string_view kIndexName("$\0I\0003\0000\0", 8);

constexpr size_t kRootHeaderSize = 16;
constexpr size_t kRootTypeAt = 0;
constexpr size_t kRootRecordSizeAt = 8;

// A record begins with "INDX", the place and number of its fix-ups, and its own number; the node header follows.
constexpr std::string_view kRecordMagic = "INDX";
constexpr size_t kRecordNumberAt = 16;
constexpr size_t kRecordNodeAt = 24;

// Node header: [ u32 offset of entries ][ u32 length with header ][ u32 allocated ][ u8 flags ]
constexpr size_t kNodeHeaderSize = 16;

constexpr size_t kEntryHeaderSize = 16;
constexpr uint16_t kEntryHasChild = 1;
constexpr uint16_t kEntryIsLast = 2;

constexpr size_t kFileAttributesAt = 0x38;
constexpr size_t kNameUnitsAt = 0x40;
constexpr size_t kNameSpaceAt = 0x41;
constexpr size_t kNameAt = 0x42;

constexpr uint32_t kMinRecordSize = 512;
constexpr uint32_t kMaxRecordSize = 64u << 10;
// With the least that a record holds, more than any volume has.
constexpr int kMaxDepth = 32;

}  // namespace

ErrnoOr<DirectoryIndex> DirectoryIndex::Open(ntfs_inode* directory) {
  if (!IsDirectory(directory)) return Errno(ENOTDIR);
  std::string root;
  const int error = VisitAttributes(directory, AT_INDEX_ROOT, [&](const ATTR_RECORD* record, const MFT_RECORD*) {
    if (NameOf(record) != kIndexName) return true;
    root = std::string(ResidentValue(record));
    return false;
  });
  if (error != 0) return Errno(error);
  if (root.size() < kRootHeaderSize + kNodeHeaderSize || LoadLe32(&root[kRootTypeAt]) != le32_to_cpu(AT_FILE_NAME)) {
    return Errno(EIO);
  }
  const uint32_t record_size = LoadLe32(&root[kRootRecordSizeAt]);
  if (!std::has_single_bit(record_size) || record_size < kMinRecordSize || record_size > kMaxRecordSize) {
    return Errno(EIO);
  }
  return DirectoryIndex(directory, std::move(root), record_size);
}

int DirectoryIndex::OpenAllocation() {
  if (allocation_ != nullptr) return 0;
  ErrnoOr<Attribute> opened = OpenAttribute(directory_, AT_INDEX_ALLOCATION, kIndexName);
  if (!opened.ok()) return opened.error();
  allocation_ = *std::move(opened);
  record_.resize(record_size_);
  return 0;
}

ErrnoOr<DirectoryIndex::Node> DirectoryIndex::ParseNode(std::string_view bytes, size_t header_at) {
  const std::string_view node = bytes.substr(header_at);
  const size_t first = LoadLe32(node.data());
  const size_t end = LoadLe32(node.data() + 4);
  if (first < kNodeHeaderSize || end > node.size() || first > end) return Errno(EIO);
  return Node{node.substr(first, end - first)};
}

ErrnoOr<DirectoryIndex::Node> DirectoryIndex::ReadRecord(uint64_t offset) {
  if (int error = OpenAllocation()) return Errno(error == ENOMEM ? ENOMEM : EIO);
  if (offset > static_cast<uint64_t>(allocation_->data_size)) return Errno(EIO);
  errno = 0;
  const s64 got = ntfs_attr_mst_pread(allocation_.get(), static_cast<s64>(offset), 1, record_size_, record_.data());
  if (got != 1) return Errno(LibraryErrno() == ENOMEM ? ENOMEM : EIO);
  // Damaged fix-ups leave another magic.
  if (std::string_view(record_).substr(0, kRecordMagic.size()) != kRecordMagic) return Errno(EIO);
  return ParseNode(record_, kRecordNodeAt);
}

std::optional<DirectoryIndex::RawEntry> DirectoryIndex::TakeEntry(std::string_view& entries) {
  if (entries.size() < kEntryHeaderSize) return std::nullopt;
  const size_t length = LoadLe16(&entries[8]);
  const size_t key_size = LoadLe16(&entries[10]);
  const uint16_t flags = LoadLe16(&entries[12]);
  const bool has_child = (flags & kEntryHasChild) != 0;
  const size_t child_size = has_child ? sizeof(uint64_t) : 0;
  if (length > entries.size() || length < kEntryHeaderSize + child_size || length % 8 != 0) return std::nullopt;

  RawEntry result;
  if (has_child) result.child = LoadLe64(&entries[length - sizeof(uint64_t)]);
  if ((flags & kEntryIsLast) == 0) {
    const std::string_view key = entries.substr(kEntryHeaderSize, key_size);
    if (key.size() != key_size || kEntryHeaderSize + key_size + child_size > length || key_size < kNameAt) {
      return std::nullopt;
    }
    const size_t name_size = static_cast<uint8_t>(key[kNameUnitsAt]) * sizeof(ntfschar);
    if (name_size == 0 || key_size - kNameAt < name_size) return std::nullopt;
    Entry entry;
    entry.file = LoadLe64(entries.data());
    entry.name = key.substr(kNameAt, name_size);
    entry.name_space = static_cast<uint8_t>(key[kNameSpaceAt]);
    entry.attributes = LoadLe32(&key[kFileAttributesAt]);
    result.entry = entry;
  }
  entries.remove_prefix(length);
  return result;
}

// As NTFS sorts names: by their upper-case forms in the volume's own table; equal ones by their units.
int DirectoryIndex::Compare(std::string_view a, std::string_view b, Case how) const {
  const ntfs_volume* volume = directory_->vol;
  auto unit = [](std::string_view name, size_t i) { return LoadLe16(name.data() + 2 * i); };
  auto upcase = [&](uint16_t value) { return value < volume->upcase_len ? le16_to_cpu(volume->upcase[value]) : value; };
  const size_t units = std::min(a.size(), b.size()) / 2;
  int by_case = 0;
  for (size_t i = 0; i < units; ++i) {
    const int raw_a = unit(a, i);
    const int raw_b = unit(b, i);
    if (raw_a == raw_b) continue;
    const int folded = int{upcase(static_cast<uint16_t>(raw_a))} - int{upcase(static_cast<uint16_t>(raw_b))};
    if (folded != 0) return folded;
    if (by_case == 0) by_case = raw_a - raw_b;
  }
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  return how == Case::kExact ? by_case : 0;
}

ErrnoOr<std::optional<DirectoryIndex::Found>> DirectoryIndex::Search(std::string_view name, Case how) {
  ErrnoOr<Node> node = ParseNode(root_, kRootHeaderSize);
  const ntfs_volume* volume = directory_->vol;
  const unsigned shift = volume->cluster_size <= record_size_ ? volume->cluster_size_bits : NTFS_BLOCK_SIZE_BITS;
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    if (!node.ok()) return Errno(node.error());
    std::string_view left = node->entries;
    std::optional<uint64_t> child;
    while (true) {
      std::optional<RawEntry> entry = TakeEntry(left);
      if (!entry) return Errno(EIO);
      child = entry->child;
      if (!entry->entry) break;
      const int order = Compare(name, entry->entry->name, how);
      if (order < 0) break;
      if (order > 0) continue;
      Found found;
      found.file = entry->entry->file;
      found.name = std::string(entry->entry->name);
      found.name_space = entry->entry->name_space;
      found.exact = entry->entry->name == name && !entry->entry->is_short();
      return std::optional<Found>(std::move(found));
    }
    if (!child) return std::optional<Found>();
    if (*child > (UINT64_MAX >> 1) >> shift) return Errno(EIO);
    node = ReadRecord(*child << shift);
    if (node.ok() && LoadLe64(&record_[kRecordNumberAt]) != *child) return Errno(EIO);
  }
  return Errno(EIO);
}

ErrnoOr<std::optional<DirectoryIndex::Found>> DirectoryIndex::Find(std::string_view name) {
  ErrnoOr<std::optional<Found>> exact = Search(name, Case::kExact);
  if (!exact.ok() || exact->has_value()) return exact;
  return Search(name, Case::kFolded);
}

int DirectoryIndex::VisitAll(EntryVisitor visitor) {
  bool go_on = true;
  auto visit_node = [&](const ErrnoOr<Node>& node) {
    if (!node.ok()) return;
    std::string_view left = node->entries;
    while (go_on) {
      std::optional<RawEntry> entry = TakeEntry(left);
      if (!entry || !entry->entry) return;
      go_on = visitor(*entry->entry);
    }
  };
  visit_node(ParseNode(root_, kRootHeaderSize));

  // Records one after the other, as far as the bitmap says that they are in use: no links are followed.
  ErrnoOr<Attribute> opened = OpenAttribute(directory_, AT_BITMAP, kIndexName);
  if (!opened.ok()) return opened.error() == ENOMEM ? ENOMEM : 0;
  if (int error = OpenAllocation()) return error == ENOMEM ? ENOMEM : 0;
  const Attribute bitmap = *std::move(opened);
  // An index has no holes: what claims to be larger than the volume is damaged.
  const ntfs_volume* volume = directory_->vol;
  const uint64_t volume_size = static_cast<uint64_t>(volume->nr_clusters) << volume->cluster_size_bits;
  const uint64_t records = std::min(static_cast<uint64_t>(allocation_->data_size), volume_size) / record_size_;
  char bits[512];
  for (uint64_t at = 0; go_on && at < records; at += 8 * sizeof(bits)) {
    const s64 got = ntfs_attr_pread(bitmap.get(), static_cast<s64>(at / 8), sizeof(bits), bits);
    if (got <= 0) return 0;
    for (uint64_t i = 0; go_on && i < 8 * static_cast<uint64_t>(got) && at + i < records; ++i) {
      if ((bits[i / 8] >> (i % 8) & 1) == 0) continue;
      ErrnoOr<Node> node = ReadRecord((at + i) * record_size_);
      if (!node.ok() && node.error() == ENOMEM) return ENOMEM;
      visit_node(node);
    }
  }
  return 0;
}

}  // namespace libmount
