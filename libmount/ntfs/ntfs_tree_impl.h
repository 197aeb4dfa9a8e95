// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTreeImpl: the NtfsTree.
//
// Locks, in this order: the volume's (all that the library does), the caches' own. Data of plain files is read with
// none of the volume's.
//
// Implemented in ntfs_tree.cc (opening, attributes, look-up, directories), ntfs_data.cc (reading), ntfs_links.cc and
// ntfs_xattrs.cc.

#ifndef LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_
#define LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libmount/ntfs/attributes.h"
#include "libmount/ntfs/data_map.h"
#include "libmount/ntfs/directory_listing.h"
#include "libmount/ntfs/lru_cache.h"
#include "libmount/ntfs/ntfs_tree.h"
#include "libmount/ntfs/streams.h"
#include "libmount/ntfs/volume.h"
#include "libmount/ntfs/wof.h"
#include "libmount/tree/reparse.h"
#include "libmount/tree/windows.h"

namespace libmount {

class NtfsTreeImpl final : public NtfsTree {
 public:
  NtfsTreeImpl(std::unique_ptr<Volume> volume, const NtfsTreeOptions& options);

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override;
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override;
  ErrnoOr<NodeId> Parent(NodeId directory) const override;
  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override;
  ErrnoOr<std::string> ReadLink(NodeId link) const override;
  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override;
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override;
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override;
  void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const override;
  struct statvfs FileSystemStats() const override;

  ErrnoOr<NodeAttributes> MakeNode(const Request& request, NodeId parent, std::string_view name, uint32_t mode,
                                   uint32_t device) override;
  ErrnoOr<NodeAttributes> MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                        uint32_t mode) override;
  ErrnoOr<NodeAttributes> MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                      std::string_view target) override;
  ErrnoOr<NodeAttributes> MakeLink(const Request& request, NodeId node, NodeId new_parent,
                                   std::string_view new_name) override;
  int Unlink(const Request& request, NodeId parent, std::string_view name) override;
  int RemoveDirectory(const Request& request, NodeId parent, std::string_view name) override;
  int Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent, std::string_view new_name,
             unsigned flags) override;
  ErrnoOr<NodeAttributes> SetAttributes(const Request& request, NodeId node, const AttributeChanges& changes) override;
  ErrnoOr<size_t> Write(const Request& request, NodeId file, uint64_t offset, absl::Span<const char> data) override;
  int Allocate(const Request& request, NodeId file, int mode, uint64_t offset, uint64_t length) override;
  ErrnoOr<uint64_t> Seek(NodeId file, uint64_t offset, int whence) const override;
  int SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value, int flags) override;
  int RemoveXattr(const Request& request, NodeId node, std::string_view name) override;
  int Open(NodeId node) override;
  void Release(NodeId node) override;
  int Sync() override;

  bool read_only() const override { return true; }
  void SetCacheBudget(size_t bytes) override;
  Stats GetStats() const override;

 private:
  // What a look at an inode tells before anything else.
  struct FileFacts {
    uint32_t attributes = 0;  // Windows', with the bit for directories
    uint32_t reparse_tag = 0;
    std::optional<uint32_t> wof;  // algorithm; the reparse point is then not shown
    uint32_t mode = 0;
  };

  absl::Mutex& library_mutex() const ABSL_LOCK_RETURNED(volume_->mutex()) { return volume_->mutex(); }

  // ENOENT: no node, or another file now.
  ErrnoOr<Inode> OpenFile(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  FileFacts FactsOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  NodeAttributes AttributesOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  NodeAttributes AttributesOf(ntfs_inode* inode, const NamedStream& stream) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<NodeAttributes> AttributesLocked(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // Those that are shown, of the streams of a file.
  ErrnoOr<std::vector<NamedStream>> ShownStreams(ntfs_inode* inode, const FileFacts& facts) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<NamedStream> StreamOf(ntfs_inode* inode, NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  ErrnoOr<std::optional<DirectoryIndex::Found>> FindEntry(ntfs_inode* directory, std::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<LookupResult> LookupStream(ntfs_inode* directory, std::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<NodeId> ParentLocked(NodeId directory) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<std::shared_ptr<const DirectoryListing>> ListingOf(NodeId directory) const
      ABSL_LOCKS_EXCLUDED(volume_->mutex());

  // ntfs_data.cc
  ErrnoOr<std::shared_ptr<const DataMap>> MapOf(NodeId node) const ABSL_LOCKS_EXCLUDED(volume_->mutex());
  ErrnoOr<std::shared_ptr<const DataMap>> MakeMap(ntfs_inode* inode, NodeId node) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<size_t> ReadThroughLibrary(NodeId node, uint64_t offset, absl::Span<char> out) const
      ABSL_LOCKS_EXCLUDED(volume_->mutex());
  // Tells the observer, once for each node. Returns `error`.
  Errno Damaged(NodeId node, int error, std::string_view what) const ABSL_LOCKS_EXCLUDED(volume_->mutex());

  // ntfs_links.cc
  // [ u32 tag ][ u16 size ][ u16 ][ data ]. ENODATA, EIO.
  ErrnoOr<std::string> ReparsePointOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<std::string> TargetOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // The names of the directories from the root to the one that holds the file.
  ErrnoOr<std::vector<std::string>> DirectoriesOf(ntfs_inode* inode) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // Replaces each component by the name that the volume has for it, as far as directories lead.
  void CorrectCase(std::vector<std::string>& components) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  std::string PathOf(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  // ntfs_xattrs.cc
  ErrnoOr<std::string> NtfsXattr(ntfs_inode* inode, const FileFacts& facts, std::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<std::string> SecurityOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<std::string> ShortNameOf(ntfs_inode* inode) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  const std::unique_ptr<Volume> volume_;
  const NtfsTreeOptions options_;
  mutable LruCache<DataMap> maps_;
  mutable LruCache<DirectoryListing> listings_;
  mutable WofReader wof_;
  mutable absl::Mutex damage_mutex_;
  mutable absl::flat_hash_set<NodeId> damaged_ ABSL_GUARDED_BY(damage_mutex_);  // and reported
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_
