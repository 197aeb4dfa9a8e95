// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTreeImpl: the NtfsTree.
//
// Locks, in this order: data_mutex_ (only of a tree that can be changed), the volume's (all that the library does), the
// caches' own. Data of plain files is read with none of the volume's.
//
// Implemented in ntfs_tree.cc (opening, attributes, look-up, directories), ntfs_data.cc (reading), ntfs_links.cc,
// ntfs_xattrs.cc; ntfs_changes.cc (what all changes share), ntfs_names.cc, ntfs_writing.cc and ntfs_set_xattrs.cc.

#ifndef LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_
#define LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
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
  // What a reply was given to.
  enum class Operation : uint32_t {
    kInternal = 0,
    kMakeNode = 1,
    kMakeDirectory = 2,
    kMakeSymlink = 3,
    kMakeLink = 4,
    kUnlink = 5,
    kRemoveDirectory = 6,
    kRename = 7,
    kSetAttributes = 8,
    kWrite = 9,
    kAllocate = 10,
    kSetXattr = 11,
    kRemoveXattr = 12,
  };

  // `device` and `groups` are null for a tree to be read only.
  NtfsTreeImpl(std::unique_ptr<Volume> volume, const NtfsTreeOptions& options, WritableBlockDevice* device,
               OperationGroups* groups, bool resumed);
  absl::Status Init();

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

  bool read_only() const override { return device_ == nullptr; }
  std::string label() const override;
  int RemoveUnlinked() override;
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
  ErrnoOr<size_t> ReadData(NodeId node, uint64_t offset, absl::Span<char> out) const
      ABSL_LOCKS_EXCLUDED(volume_->mutex());
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

  // --- ntfs_changes.cc
  // Makes a change, unless the request was made before: `body` looks whether it can be made, sets `changing`, and makes
  // it; what it gives is the reply. After an error nothing of it is done. All inodes must be closed when it returns.
  using ChangeBody = absl::FunctionRef<ErrnoOr<uint64_t>(bool& changing)>;
  ErrnoOr<uint64_t> Change(const Request& request, Operation operation, ChangeBody body)
      ABSL_LOCKS_EXCLUDED(volume_->mutex(), data_mutex_);
  ErrnoOr<uint64_t> ChangeLocked(const Request& request, Operation operation, ChangeBody body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex(), data_mutex_);
  // The name, in the root, of a file without names.
  static std::u16string OrphanName(FileReference file);
  using Orphan = std::pair<FileReference, std::string>;  // with that name, in UTF-16LE
  ErrnoOr<std::vector<Orphan>> ListOrphans() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // What this process does not know of them: those of the one before, and not those of a change that was given up.
  int FindOrphans() ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  // --- ntfs_names.cc
  ErrnoOr<NodeAttributes> Made(const ErrnoOr<uint64_t>& result) const;
  ErrnoOr<Inode> OpenDirectory(NodeId node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  void TouchDirectory(ntfs_inode* directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int InheritSecurityOf(ntfs_inode* directory, ntfs_inode* inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> MakeFile(NodeId parent, std::string_view name, uint32_t mode,
                             std::optional<std::string_view> link_target, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> MakeStream(FileReference file, std::string_view name, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int AddStream(ntfs_inode* inode, std::string_view utf16) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int AddName(ntfs_inode* inode, ntfs_inode* directory, std::string_view utf16)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int LinkInto(FileReference file, NodeId directory, std::string_view utf16)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // Of the directory; with its last name the file goes.
  ErrnoOr<uint64_t> RemoveEntry(NodeId directory, FileReference file, std::string_view utf16)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // The same of a file that may be open: then it stays.
  ErrnoOr<uint64_t> RemoveName(NodeId parent, const DirectoryIndex::Found& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> RemoveStream(ntfs_inode* directory, std::string_view name, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<bool> IsDirectoryEntry(const DirectoryIndex::Found& entry) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<bool> IsEmptyDirectory(FileReference file) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  // Whether `directory` is `ancestor` or lies below it, or nobody can tell.
  bool IsWithin(NodeId directory, NodeId ancestor) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> Exchange(NodeId parent, const DirectoryIndex::Found& from, NodeId new_parent,
                             const DirectoryIndex::Found& to, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> RenameLocked(NodeId parent, std::string_view name, NodeId new_parent, std::string_view new_name,
                                 unsigned flags, bool& changing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  // --- ntfs_writing.cc
  ErrnoOr<Attribute> OpenData(ntfs_inode* inode, NodeId node, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int Unpack(ntfs_inode* inode, NodeId node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> SetAttributesLocked(NodeId node, const AttributeChanges& changes, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> WriteLocked(NodeId node, uint64_t offset, absl::Span<const char> data, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  ErrnoOr<uint64_t> ChangeAllocation(NodeId node, int mode, uint64_t offset, uint64_t length, bool& changing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  // --- ntfs_set_xattrs.cc
  int ChangeXattr(const Request& request, Operation operation, NodeId node, std::string_view name,
                  std::optional<std::string_view> value, int flags);
  int CheckXattr(ntfs_inode* inode, const FileFacts& facts, std::string_view name,
                 std::optional<std::string_view> value, int flags) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int CheckReparsePoint(ntfs_inode* inode, std::string_view value) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int SetReparsePoint(ntfs_inode* inode, std::string_view point) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int SetNtfsXattr(Inode& inode, std::string_view name, std::optional<std::string_view> value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  static int SetTimes(ntfs_inode* inode, std::string_view value, size_t max_count, bool big_endian);
  struct NamesForShort {
    OwnedFileName chosen;
    std::vector<OwnedFileName> others;
  };
  static ErrnoOr<NamesForShort> ChooseForShort(ntfs_inode* inode);
  int SetShortName(Inode& inode, std::optional<std::string_view> value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int SetOnlyShortName(FileReference file, FileReference parent, std::optional<std::string_view> value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());
  int SetStream(ntfs_inode* inode, std::string_view name, std::optional<std::string_view> value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(volume_->mutex());

  const std::unique_ptr<Volume> volume_;
  WritableBlockDevice* const device_;
  OperationGroups* const groups_;
  const bool resumed_;
  // Held by readers of data while they look into clusters that a change may give to another file. Before the volume's.
  mutable absl::Mutex data_mutex_;
  absl::flat_hash_map<NodeId, uint32_t> open_counts_ ABSL_GUARDED_BY(volume_->mutex());
  absl::flat_hash_set<NodeId> orphans_ ABSL_GUARDED_BY(volume_->mutex());  // removed while open
  // Targets of links made here, as they were given.
  absl::flat_hash_map<NodeId, std::string> link_texts_ ABSL_GUARDED_BY(volume_->mutex());
  // The descriptor that new files and directories get, by that of the directory: numbers in $Secure.
  absl::flat_hash_map<std::pair<uint32_t, bool>, le32> inherited_ ABSL_GUARDED_BY(volume_->mutex());
  const NtfsTreeOptions options_;
  mutable LruCache<DataMap> maps_;
  mutable LruCache<DirectoryListing> listings_;
  mutable WofReader wof_;
  mutable absl::Mutex damage_mutex_;
  mutable absl::flat_hash_set<NodeId> damaged_ ABSL_GUARDED_BY(damage_mutex_);  // and reported
};

// Names of removed files in the root begin with it; they are not shown.
inline constexpr std::string_view kOrphanPrefix = "$dismd-removed-";
bool IsOrphanName(std::string_view utf16);

// errno as the library left it, where a caller can make something of it; else EIO.
int ChangeErrno();
std::string_view Utf16Bytes(const std::u16string& text);

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_NTFS_TREE_IMPL_H_
