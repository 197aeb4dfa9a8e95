// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/ntfs_tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"
#include "libmount/tree/file_mode.h"
#include "libmount/tree/names.h"

namespace libmount {
namespace {

// The longest name the kernel asks for (FUSE_NAME_MAX); the names of NTFS are no longer than 765 bytes.
constexpr size_t kMaxLookupName = 1024;
constexpr uint64_t kStatBlockSize = 512;
constexpr size_t kReparseHeaderSize = 8;

// Of a file whose record cannot be read: it is there to be seen, and reading it fails.
constexpr uint64_t kUnknownSize = 1;

// The bit that entries of directories have for what is a directory.
constexpr uint32_t kEntryIsDirectory = 0x10000000;

// Siblings of a file that are looked at for what a reader may want next.
constexpr size_t kMaxSiblings = 64;

// Which part of the cache budget is for directories.
constexpr size_t ListingShare(size_t budget) { return budget / 2; }

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// What NTFS keeps for itself in the attributes of a file: views and indices, and the bit for directories.
constexpr uint32_t kInternalAttributes = 0x30000000;

}  // namespace

absl::StatusOr<std::unique_ptr<NtfsTree>> NtfsTree::Open(const BlockDevice* device, const NtfsTreeOptions& options) {
  absl::StatusOr<std::unique_ptr<Volume>> volume = Volume::Mount(device, nullptr);
  if (!volume.ok()) return volume.status();
  return std::make_unique<NtfsTreeImpl>(*std::move(volume), options, nullptr, nullptr, false);
}

NtfsTreeImpl::NtfsTreeImpl(std::unique_ptr<Volume> volume, const NtfsTreeOptions& options, WritableBlockDevice* device,
                           OperationGroups* groups, bool resumed)
    : volume_(std::move(volume)),
      device_(device),
      groups_(groups),
      resumed_(resumed),
      options_(options),
      maps_(options.cache_budget - ListingShare(options.cache_budget)),
      listings_(ListingShare(options.cache_budget)) {}

ErrnoOr<Inode> NtfsTreeImpl::OpenFile(NodeId node) const {
  const std::optional<FileReference> file = ReferenceOf(node);
  if (!file) return Errno(ENOENT);
  return volume_->Open(*file);
}

NtfsTreeImpl::FileFacts NtfsTreeImpl::FactsOf(ntfs_inode* inode) const {
  FileFacts facts;
  facts.attributes = FileFlagsOf(inode) & ~kInternalAttributes;
  if (IsDirectory(inode)) facts.attributes |= kAttributeDirectory;
  if (facts.attributes & kAttributeReparsePoint) {
    ErrnoOr<std::string> point = ReparsePointOf(inode);
    if (point.ok()) {
      facts.reparse_tag = LoadLe32(point->data());
      if (facts.reparse_tag == kReparseWof)
        facts.wof = WofAlgorithm(std::string_view(*point).substr(kReparseHeaderSize));
    }
    if (facts.wof) {
      // As Windows shows it: an ordinary file.
      facts.attributes &= ~(kAttributeReparsePoint | kAttributeSparse);
      facts.reparse_tag = 0;
    }
  }
  facts.mode = FileMode(facts.attributes, facts.reparse_tag, std::nullopt);
  return facts;
}

NodeAttributes NtfsTreeImpl::AttributesOf(ntfs_inode* inode) const {
  const FileFacts facts = FactsOf(inode);
  NodeAttributes attributes;
  attributes.node = NodeOf(libmount::ReferenceOf(inode));
  attributes.mode = facts.mode;
  attributes.uid = options_.uid;
  attributes.gid = options_.gid;
  if (S_ISREG(attributes.mode)) {
    attributes.size = inode->data_size < 0 ? 0 : static_cast<uint64_t>(inode->data_size);
    attributes.allocated = inode->allocated_size < 0 ? 0 : static_cast<uint64_t>(inode->allocated_size);
    if (facts.wof || (facts.attributes & kAttributeEncrypted) != 0) {
      ErrnoOr<std::shared_ptr<const DataMap>> map = MakeMap(inode, attributes.node);
      if (map.ok()) attributes.size = (*map)->size();
      if (map.ok() && facts.wof) attributes.allocated = (*map)->wof().compressed->size();
    }
  } else if (S_ISLNK(attributes.mode)) {
    // The kernel cuts a cached target to the link's size, so it must be right.
    ErrnoOr<std::string> target = TargetOf(inode);
    if (target.ok()) attributes.size = target->size();
  }
  attributes.allocated = RoundUp(attributes.allocated, kStatBlockSize);
  // Short names count in the record, and are no links.
  if (!IsDirectory(inode) && le16_to_cpu(inode->mrec->link_count) > 1) {
    uint32_t names = 0;
    VisitNames(inode, [&](const FileName& name) {
      if (!name.is_short() && !IsOrphanName(name.name)) ++names;
      return true;
    });
    attributes.link_count = std::max(names, 1u);
  }
  if (orphans_.contains(attributes.node)) attributes.link_count = 0;
  attributes.access_time = ToTimespec(sle64_to_cpu(inode->last_access_time));
  attributes.modification_time = ToTimespec(sle64_to_cpu(inode->last_data_change_time));
  attributes.change_time = ToTimespec(sle64_to_cpu(inode->last_mft_change_time));
  return attributes;
}

NodeAttributes NtfsTreeImpl::AttributesOf(ntfs_inode* inode, const NamedStream& stream) const {
  NodeAttributes attributes = AttributesOf(inode);
  attributes.stream_of = attributes.node;
  attributes.node = StreamNode(attributes.node, stream.number);
  attributes.mode = S_IFREG | (attributes.mode & 0666);
  attributes.link_count = 1;
  attributes.size = stream.size;
  attributes.allocated = RoundUp(stream.allocated, kStatBlockSize);
  return attributes;
}

ErrnoOr<std::vector<NamedStream>> NtfsTreeImpl::ShownStreams(ntfs_inode* inode, const FileFacts& facts) const {
  ErrnoOr<std::vector<NamedStream>> streams = NamedStreams(inode);
  if (!streams.ok() || !facts.wof) return streams;
  const std::optional<std::string> hidden = Wtf8ToUtf16Le(kWofStreamName);
  std::erase_if(*streams, [&](const NamedStream& stream) { return stream.name == *hidden; });
  return streams;
}

ErrnoOr<NamedStream> NtfsTreeImpl::StreamOf(ntfs_inode* inode, NodeId node) const {
  ErrnoOr<std::vector<NamedStream>> streams = ShownStreams(inode, FactsOf(inode));
  if (!streams.ok()) return Errno(streams.error());
  for (NamedStream& stream : *streams) {
    if (stream.number == StreamNumberOf(node)) return std::move(stream);
  }
  return Errno(ENOENT);
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::AttributesLocked(NodeId node) const {
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  if (StreamNumberOf(node) == 0) return AttributesOf(inode->get());
  ErrnoOr<NamedStream> stream = StreamOf(inode->get(), node);
  if (!stream.ok()) return Errno(stream.error());
  return AttributesOf(inode->get(), *stream);
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::GetAttributes(NodeId node) const {
  absl::MutexLock lock(&library_mutex());
  return AttributesLocked(node);
}

ErrnoOr<std::optional<DirectoryIndex::Found>> NtfsTreeImpl::FindEntry(ntfs_inode* directory,
                                                                      std::string_view name) const {
  using Found = std::optional<DirectoryIndex::Found>;
  ErrnoOr<DirectoryIndex> index = DirectoryIndex::Open(directory);
  if (!index.ok()) return Errno(index.error());
  const std::optional<std::string> wanted = Wtf8ToUtf16Le(name);
  if (!wanted || wanted->empty() || wanted->size() > kMaxNameUnits * sizeof(ntfschar)) return Found();
  ErrnoOr<Found> found = index->Find(*wanted);
  if (!found.ok() || !found->has_value()) return found;
  // The volume's own files, and the root's entry for itself.
  if (!IsUserFile((*found)->file) || RecordOf((*found)->file) == kRootRecord) return Found();
  if (directory->mft_no == kRootRecord && IsOrphanName((*found)->name)) return Found();
  return found;
}

ErrnoOr<LookupResult> NtfsTreeImpl::Lookup(NodeId directory_node, std::string_view name) const {
  absl::MutexLock lock(&library_mutex());
  if (StreamNumberOf(directory_node) != 0) return Errno(ENOTDIR);
  ErrnoOr<Inode> directory = OpenFile(directory_node);
  if (!directory.ok()) return Errno(directory.error());
  if (!S_ISDIR(FactsOf(directory->get()).mode)) return Errno(ENOTDIR);
  if (name.size() > kMaxLookupName) return Errno(ENAMETOOLONG);
  ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory->get(), name);
  if (!found.ok()) return Errno(found.error());
  if (!found->has_value()) {
    if (name.find(':') != name.npos) return LookupStream(directory->get(), name);
    return Errno(CheckName(name) == ENAMETOOLONG ? ENAMETOOLONG : ENOENT);
  }
  ErrnoOr<Inode> inode = volume_->Open((*found)->file);
  if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);
  return LookupResult{AttributesOf(inode->get()), (*found)->exact};
}

// "file:stream", with ":$DATA" behind it or not; "file::$DATA" is the file itself.
ErrnoOr<LookupResult> NtfsTreeImpl::LookupStream(ntfs_inode* directory, std::string_view name) const {
  constexpr std::string_view kDataType = ":$DATA";
  const size_t colon = name.find(':');
  if (colon == name.npos || colon == 0) return Errno(ENOENT);
  ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory, name.substr(0, colon));
  if (!found.ok()) return Errno(found.error());
  if (!found->has_value()) return Errno(ENOENT);
  ErrnoOr<Inode> inode = volume_->Open((*found)->file);
  if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);

  std::string_view wanted = name.substr(colon + 1);
  const size_t type_at = wanted.rfind(':');
  const bool typed = type_at != wanted.npos;
  if (typed) {
    if (!EqualFolded(wanted.substr(type_at), kDataType)) return Errno(ENOENT);
    wanted = wanted.substr(0, type_at);
    if (wanted.empty()) return LookupResult{AttributesOf(inode->get()), false};
  }
  ErrnoOr<std::vector<NamedStream>> streams = ShownStreams(inode->get(), FactsOf(inode->get()));
  if (!streams.ok()) return Errno(streams.error());
  const NamedStream* match = nullptr;
  bool exact = false;
  for (const NamedStream& stream : *streams) {
    const std::string candidate = Utf16LeToWtf8(stream.name);
    const bool same = candidate == wanted;
    if (same || (match == nullptr && EqualFolded(candidate, wanted))) match = &stream;
    exact = exact || same;
    if (exact) break;
  }
  if (match == nullptr) return Errno(ENOENT);
  return LookupResult{AttributesOf(inode->get(), *match), exact && (*found)->exact && !typed};
}

ErrnoOr<NodeId> NtfsTreeImpl::ParentLocked(NodeId node) const {
  if (node == kRootNode) return kRootNode;
  ErrnoOr<Inode> directory = OpenFile(node);
  if (!directory.ok()) return Errno(directory.error());
  if (StreamNumberOf(node) != 0 || !IsDirectory(directory->get())) return Errno(ENOTDIR);
  ErrnoOr<OwnedFileName> name = FirstName(directory->get());
  if (!name.ok()) return Errno(name.error() == ENOMEM ? ENOMEM : EIO);
  if (!IsUserFile(name->directory)) return Errno(EIO);
  return NodeOf(name->directory);
}

ErrnoOr<NodeId> NtfsTreeImpl::Parent(NodeId node) const {
  absl::MutexLock lock(&library_mutex());
  return ParentLocked(node);
}

ErrnoOr<std::shared_ptr<const DirectoryListing>> NtfsTreeImpl::ListingOf(NodeId node) const {
  if (std::shared_ptr<const DirectoryListing> known = listings_.Find(node)) return known;
  absl::MutexLock lock(&library_mutex());
  if (StreamNumberOf(node) != 0) return Errno(ENOTDIR);
  ErrnoOr<Inode> directory = OpenFile(node);
  if (!directory.ok()) return Errno(directory.error());
  if (!S_ISDIR(FactsOf(directory->get()).mode)) return Errno(ENOTDIR);
  ErrnoOr<DirectoryIndex> index = DirectoryIndex::Open(directory->get());
  if (!index.ok()) return Errno(index.error());
  ErrnoOr<std::shared_ptr<const DirectoryListing>> listing = DirectoryListing::Of(*index);
  // Under the lock: what changes the directory then removes this one, and not a newer.
  if (listing.ok()) listings_.Insert(node, *listing);
  return listing;
}

int NtfsTreeImpl::ReadDirectory(NodeId node, uint64_t cookie, EntryVisitor visitor) const {
  ErrnoOr<std::shared_ptr<const DirectoryListing>> listing = ListingOf(node);
  if (!listing.ok()) return listing.error();
  const std::vector<DirectoryListing::Item>& items = (*listing)->items();
  for (size_t i = (*listing)->Behind(cookie); i < items.size(); ++i) {
    NodeAttributes attributes;
    {
      absl::MutexLock lock(&library_mutex());
      ErrnoOr<Inode> inode = volume_->Open(items[i].file);
      if (inode.ok()) {
        attributes = AttributesOf(inode->get());
      } else if (inode.error() == ENOMEM) {
        return ENOMEM;
      } else {
        if (inode.error() == ENOENT && !read_only()) continue;  // removed meanwhile
        attributes.node = NodeOf(items[i].file);
        const uint32_t directory_bit = items[i].attributes & kEntryIsDirectory ? kAttributeDirectory : 0;
        attributes.mode = FileMode(directory_bit | kAttributeReadOnly, 0, std::nullopt);
        attributes.size = S_ISREG(attributes.mode) ? kUnknownSize : 0;
        attributes.uid = options_.uid;
        attributes.gid = options_.gid;
      }
    }
    if (node == kRootNode && (*listing)->name(items[i]).starts_with(kOrphanPrefix)) continue;
    if (!visitor({(*listing)->name(items[i]), attributes, items[i].cookie})) break;
  }
  return 0;
}

void NtfsTreeImpl::VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const {
  if (StreamNumberOf(file) != 0) return;
  NodeId parent = 0;
  {
    absl::MutexLock lock(&library_mutex());
    ErrnoOr<Inode> inode = OpenFile(file);
    if (!inode.ok()) return;
    ErrnoOr<OwnedFileName> name = FirstName(inode->get());
    if (!name.ok() || !IsUserFile(name->directory)) return;
    parent = NodeOf(name->directory);
  }
  // Only where somebody reads the directory: else it is not worth making a listing.
  std::shared_ptr<const DirectoryListing> listing = listings_.Find(parent);
  if (listing == nullptr) return;
  const std::vector<DirectoryListing::Item>& items = listing->items();
  size_t at = listing->Behind((file & UINT32_MAX) << 31 | INT32_MAX);
  for (const size_t end = std::min(items.size(), at + kMaxSiblings); at < end; ++at) {
    const NodeId sibling = NodeOf(items[at].file);
    uint64_t size = 0;
    {
      absl::MutexLock lock(&library_mutex());
      ErrnoOr<Inode> inode = volume_->Open(items[at].file);
      if (!inode.ok() || !S_ISREG(FactsOf(inode->get()).mode) || inode->get()->data_size <= 0) continue;
      size = static_cast<uint64_t>(inode->get()->data_size);
      if (size > max_size || (FileFlagsOf(inode->get()) & kAttributeEncrypted) != 0) continue;
    }
    if (!visitor(sibling, size)) return;
  }
}

struct statvfs NtfsTreeImpl::FileSystemStats() const {
  absl::MutexLock lock(&library_mutex());
  ntfs_volume* raw = volume_->raw();
  if (raw == nullptr) return {};
  if (!NVolFreeSpaceKnown(raw)) ntfs_volume_get_free_space(raw);
  struct statvfs stats = {};
  stats.f_bsize = raw->cluster_size;
  stats.f_frsize = raw->cluster_size;
  stats.f_blocks = volume_->clusters();
  stats.f_bfree = static_cast<fsblkcnt_t>(std::max<s64>(raw->free_clusters, 0));
  stats.f_bavail = stats.f_bfree;
  const s64 records = raw->mftbmp_na->allocated_size << 3;
  stats.f_ffree = static_cast<fsfilcnt_t>(std::max<s64>(raw->free_mft_records, 0));
  stats.f_favail = stats.f_ffree;
  stats.f_files = static_cast<fsfilcnt_t>(std::max<s64>(records, 0));
  stats.f_flag = (read_only() ? ST_RDONLY : 0) | ST_NOSUID;
  stats.f_namemax = MaxWtf8Size(kMaxNameUnits);
  return stats;
}

std::string NtfsTreeImpl::label() const {
  absl::MutexLock lock(&library_mutex());
  const ntfs_volume* raw = volume_->raw();
  return raw == nullptr || raw->vol_name == nullptr ? std::string() : std::string(raw->vol_name);
}

void NtfsTreeImpl::SetCacheBudget(size_t bytes) {
  listings_.SetBudget(ListingShare(bytes));
  maps_.SetBudget(bytes - ListingShare(bytes));
  wof_.Trim();
}

NtfsTree::Stats NtfsTreeImpl::GetStats() const {
  Stats stats;
  stats.cache_bytes = maps_.bytes() + listings_.bytes();
  absl::MutexLock lock(&damage_mutex_);
  stats.damaged_files = damaged_.size();
  return stats;
}

}  // namespace libmount
