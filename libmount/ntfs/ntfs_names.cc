// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: names: making, linking, removing, renaming.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"
#include "libmount/tree/names.h"
#include "libmount/tree/security.h"

namespace libmount {
namespace {

constexpr uint32_t kMaxLinks = 1024;  // as Windows
constexpr uint32_t kWriteBits = 0222;
constexpr size_t kMaxDepth = 4096;
constexpr size_t kMaxInherited = 1024;
constexpr size_t kMaxLinkTexts = 65536;

// A name as the library takes it.
class Name {
 public:
  explicit Name(std::string_view utf16) : units_(utf16.size() / 2) {
    utf16.copy(reinterpret_cast<char*>(units_.data()), units_.size() * sizeof(ntfschar));
  }
  const ntfschar* units() const { return units_.data(); }
  u8 size() const { return static_cast<u8>(units_.size()); }

 private:
  std::vector<ntfschar> units_;
};

}  // namespace

std::string_view Utf16Bytes(const std::u16string& text) {
  return {reinterpret_cast<const char*>(text.data()), text.size() * 2};
}

ErrnoOr<Inode> NtfsTreeImpl::OpenDirectory(NodeId node) const {
  if (StreamNumberOf(node) != 0) return Errno(ENOTDIR);
  ErrnoOr<Inode> directory = OpenFile(node);
  if (directory.ok() && !S_ISDIR(FactsOf(directory->get()).mode)) return Errno(ENOTDIR);
  return directory;
}

void NtfsTreeImpl::TouchDirectory(ntfs_inode* directory) {
  TouchData(directory);
  listings_.Remove(NodeOf(libmount::ReferenceOf(directory)));
}

int NtfsTreeImpl::InheritSecurityOf(ntfs_inode* directory, ntfs_inode* inode) {
  const bool is_directory = IsDirectory(inode);
  ErrnoOr<std::string> above = SecurityOf(directory);
  if (!above.ok()) return above.error() == ENODATA ? 0 : above.error();
  const std::string inherited = InheritSecurity(*above, is_directory);
  if (inherited.empty()) return 0;
  SECURITY_CONTEXT context = {};
  context.vol = volume_->raw();
  errno = 0;
  if (ntfs_set_ntfs_acl(&context, inode, inherited.data(), inherited.size(), 0) != 0) return ChangeErrno();
  // Files of directories with the same descriptor get the same one, by its number.
  if (directory->security_id != const_cpu_to_le32(0) && inode->security_id != const_cpu_to_le32(0)) {
    if (inherited_.size() >= kMaxInherited) inherited_.clear();
    inherited_[{le32_to_cpu(directory->security_id), is_directory}] = inode->security_id;
  }
  return 0;
}

ErrnoOr<uint64_t> NtfsTreeImpl::MakeFile(NodeId parent, std::string_view name, uint32_t mode,
                                         std::optional<std::string_view> link_target, bool& changing) {
  ErrnoOr<Inode> directory = OpenDirectory(parent);
  if (!directory.ok()) return Errno(directory.error());
  if (int error = CheckName(name)) return Errno(error);
  ErrnoOr<std::optional<DirectoryIndex::Found>> taken = FindEntry(directory->get(), name);
  if (!taken.ok()) return Errno(taken.error());
  if (taken->has_value()) return Errno(EEXIST);
  const size_t colon = name.find(':');
  if (S_ISREG(mode) && colon != name.npos && colon > 0) {
    ErrnoOr<std::optional<DirectoryIndex::Found>> file = FindEntry(directory->get(), name.substr(0, colon));
    if (!file.ok()) return Errno(file.error());
    if (file->has_value()) return MakeStream((*file)->file, name.substr(colon + 1), changing);
  }
  const std::string utf16 = *Wtf8ToUtf16Le(name);
  if (IsOrphanName(utf16)) return Errno(EINVAL);

  changing = true;
  const bool is_directory = S_ISDIR(mode);
  le32 security = const_cpu_to_le32(0);
  auto known = inherited_.find({le32_to_cpu(directory->get()->security_id), is_directory});
  if (directory->get()->security_id != const_cpu_to_le32(0) && known != inherited_.end()) security = known->second;
  const Name units(utf16);
  errno = 0;
  ntfs_inode* raw =
      ntfs_create(directory->get(), security, units.units(), units.size(), is_directory ? S_IFDIR : S_IFREG);
  if (raw == nullptr) return Errno(ChangeErrno());
  Inode inode = volume_->Adopt(raw);
  if (security == const_cpu_to_le32(0)) {
    if (int error = InheritSecurityOf(directory->get(), raw)) return Errno(error);
  }
  if (S_ISREG(mode) && (mode & kWriteBits) == 0) SetFlag(raw, FILE_ATTR_READONLY, true);
  const NodeId node = NodeOf(libmount::ReferenceOf(raw));
  if (link_target) {
    const std::optional<ReparsePoint> point = EncodeLink(*link_target);
    if (int error = SetReparsePoint(raw, point->Bytes())) return Errno(error);
    if (link_texts_.size() < kMaxLinkTexts) link_texts_[node] = std::string(*link_target);
  } else {
    link_texts_.erase(node);
  }
  NInoFileNameSetDirty(raw);
  ntfs_inode_mark_dirty(raw);
  TouchDirectory(directory->get());
  if (int error = inode.CloseBehind(*directory)) return Errno(error);
  return node;
}

ErrnoOr<uint64_t> NtfsTreeImpl::MakeStream(FileReference file, std::string_view name, bool& changing) {
  constexpr std::string_view kDataType = ":$DATA";
  if (name.size() >= kDataType.size() && EqualFolded(name.substr(name.size() - kDataType.size()), kDataType)) {
    name.remove_suffix(kDataType.size());
  }
  if (int error = CheckName(name)) return Errno(error);
  if (name.find(':') != name.npos) return Errno(EINVAL);
  ErrnoOr<Inode> inode = volume_->Open(file);
  if (!inode.ok()) return Errno(inode.error());
  ErrnoOr<std::vector<NamedStream>> streams = NamedStreams(inode->get());
  if (!streams.ok()) return Errno(streams.error());
  for (const NamedStream& stream : *streams) {
    if (EqualFolded(Utf16LeToWtf8(stream.name), name)) return Errno(EEXIST);
  }
  changing = true;
  const std::string utf16 = *Wtf8ToUtf16Le(name);
  if (int error = AddStream(inode->get(), utf16)) return Errno(error);
  if (int error = inode->Close()) return Errno(error);
  inode = volume_->Open(file);
  if (!inode.ok()) return Errno(inode.error());
  streams = NamedStreams(inode->get());
  if (!streams.ok()) return Errno(streams.error());
  for (const NamedStream& stream : *streams) {
    if (stream.name == utf16) return StreamNode(NodeOf(file), stream.number);
  }
  return Errno(EIO);
}

int NtfsTreeImpl::AddStream(ntfs_inode* inode, std::string_view utf16) {
  const Name name(utf16);
  errno = 0;
  if (ntfs_attr_add(inode, AT_DATA, const_cast<ntfschar*>(name.units()), name.size(), nullptr, 0) != 0) {
    return ChangeErrno();
  }
  TouchData(inode);
  return 0;
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::Made(const ErrnoOr<uint64_t>& result) const {
  if (!result.ok()) return Errno(result.error());
  return GetAttributes(*result);
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeNode(const Request& request, NodeId parent, std::string_view name,
                                               uint32_t mode, uint32_t) {
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  // Windows has no place for devices.
  if (!S_ISREG(mode)) return Errno(read_only() ? EROFS : EPERM);
  return Made(Change(request, Operation::kMakeNode, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return MakeFile(parent, name, mode, std::nullopt, changing);
  }));
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                                    uint32_t) {
  return Made(Change(request, Operation::kMakeDirectory, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return MakeFile(parent, name, S_IFDIR | 0755, std::nullopt, changing);
  }));
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                                  std::string_view target) {
  if (target.empty()) return Errno(ENOENT);
  if (target.find('\0') != target.npos) return Errno(EINVAL);
  if (!EncodeLink(target)) return Errno(ENAMETOOLONG);
  return Made(Change(request, Operation::kMakeSymlink, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return MakeFile(parent, name, S_IFLNK | 0777, target, changing);
  }));
}

// The library refuses names for reparse points that it does not know.
int NtfsTreeImpl::AddName(ntfs_inode* inode, ntfs_inode* directory, std::string_view utf16) {
  const Name name(utf16);
  const bool is_reparse_point = (FileFlagsOf(inode) & kAttributeReparsePoint) != 0;
  SetFlag(inode, FILE_ATTR_REPARSE_POINT, false);
  errno = 0;
  const int result = ntfs_link(inode, directory, name.units(), name.size());
  const int error = result == 0 ? 0 : ChangeErrno();
  SetFlag(inode, FILE_ATTR_REPARSE_POINT, is_reparse_point);
  NInoFileNameSetDirty(inode);
  ntfs_inode_mark_dirty(inode);
  return error;
}

ErrnoOr<uint64_t> NtfsTreeImpl::RemoveEntry(NodeId directory_node, FileReference file, std::string_view utf16) {
  ErrnoOr<Inode> directory = OpenFile(directory_node);
  if (!directory.ok()) return Errno(directory.error());
  ErrnoOr<Inode> inode = volume_->Open(file);
  if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);
  const Name name(utf16);
  TouchDirectory(directory->get());
  ntfs_inode_update_times(inode->get(), NTFS_UPDATE_CTIME);
  // The library closes both, whatever comes of it.
  ntfs_inode* raw_inode = inode->Release();
  ntfs_inode* raw_directory = directory->Release();
  errno = 0;
  if (ntfs_delete(volume_->raw(), nullptr, raw_inode, raw_directory, name.units(), name.size()) != 0) {
    return Errno(ChangeErrno());
  }
  maps_.Remove(NodeOf(file));
  return uint64_t{0};
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeLink(const Request& request, NodeId node, NodeId new_parent,
                                               std::string_view new_name) {
  if (StreamNumberOf(node) != 0) return Errno(EPERM);
  return Made(
      Change(request, Operation::kMakeLink, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
        ErrnoOr<Inode> directory = OpenDirectory(new_parent);
        if (!directory.ok()) return Errno(directory.error());
        if (int error = CheckName(new_name)) return Errno(error);
        ErrnoOr<Inode> inode = OpenFile(node);
        if (!inode.ok()) return Errno(inode.error());
        if (IsDirectory(inode->get())) return Errno(EPERM);
        if (orphans_.contains(node)) return Errno(ENOENT);
        if (le16_to_cpu(inode->get()->mrec->link_count) >= kMaxLinks) return Errno(EMLINK);
        ErrnoOr<std::optional<DirectoryIndex::Found>> taken = FindEntry(directory->get(), new_name);
        if (!taken.ok()) return Errno(taken.error());
        if (taken->has_value()) return Errno(EEXIST);
        changing = true;
        if (int error = AddName(inode->get(), directory->get(), *Wtf8ToUtf16Le(new_name))) return Errno(error);
        ntfs_inode_update_times(inode->get(), NTFS_UPDATE_CTIME);
        TouchDirectory(directory->get());
        if (int error = inode->CloseBehind(*directory)) return Errno(error);
        return node;
      }));
}

ErrnoOr<uint64_t> NtfsTreeImpl::RemoveName(NodeId parent, const DirectoryIndex::Found& entry) {
  const NodeId node = NodeOf(entry.file);
  bool last = false;
  bool is_directory = false;
  {
    ErrnoOr<Inode> inode = volume_->Open(entry.file);
    if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);
    last = AttributesOf(inode->get()).link_count <= 1;
    is_directory = IsDirectory(inode->get());
    const bool may_be_open = resumed_ || open_counts_.contains(node);
    if (last && !is_directory && may_be_open) {
      ErrnoOr<Inode> root = OpenFile(kRootNode);
      if (!root.ok()) return Errno(root.error());
      if (int error = AddName(inode->get(), root->get(), Utf16Bytes(OrphanName(entry.file)))) return Errno(error);
      orphans_.insert(node);
      if (int error = inode->CloseBehind(*root)) return Errno(error);
    }
  }
  return RemoveEntry(parent, entry.file, entry.name);
}

ErrnoOr<uint64_t> NtfsTreeImpl::RemoveStream(ntfs_inode* directory, std::string_view name, bool& changing) {
  ErrnoOr<LookupResult> found = LookupStream(directory, name);
  if (!found.ok()) return Errno(found.error());
  const NodeId node = found->attributes.node;
  if (StreamNumberOf(node) == 0) return Errno(EINVAL);  // "file::$DATA"
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  ErrnoOr<NamedStream> stream = StreamOf(inode->get(), node);
  if (!stream.ok()) return Errno(stream.error());
  changing = true;
  const Name units(stream->name);
  errno = 0;
  if (ntfs_attr_remove(inode->get(), AT_DATA, const_cast<ntfschar*>(units.units()), units.size()) != 0) {
    return Errno(ChangeErrno());
  }
  maps_.Remove(node);
  TouchData(inode->get());
  if (int error = inode->Close()) return Errno(error);
  return uint64_t{0};
}

int NtfsTreeImpl::Unlink(const Request& request, NodeId parent, std::string_view name) {
  return Change(request, Operation::kUnlink,
                [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
                  ErrnoOr<Inode> directory = OpenDirectory(parent);
                  if (!directory.ok()) return Errno(directory.error());
                  ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory->get(), name);
                  if (!found.ok()) return Errno(found.error());
                  if (!found->has_value()) return RemoveStream(directory->get(), name, changing);
                  ErrnoOr<bool> is_directory = IsDirectoryEntry(**found);
                  if (!is_directory.ok()) return Errno(is_directory.error());
                  if (*is_directory) return Errno(EISDIR);
                  directory->Close();
                  changing = true;
                  return RemoveName(parent, **found);
                })
      .error();
}

// What is shown as a directory: not a link to one.
ErrnoOr<bool> NtfsTreeImpl::IsDirectoryEntry(const DirectoryIndex::Found& entry) const {
  ErrnoOr<Inode> inode = volume_->Open(entry.file);
  if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);
  return S_ISDIR(FactsOf(inode->get()).mode);
}

ErrnoOr<bool> NtfsTreeImpl::IsEmptyDirectory(FileReference file) const {
  ErrnoOr<Inode> inode = volume_->Open(file);
  if (!inode.ok()) return Errno(inode.error() == ENOMEM ? ENOMEM : EIO);
  ErrnoOr<DirectoryIndex> index = DirectoryIndex::Open(inode->get());
  if (!index.ok()) return Errno(index.error());
  bool empty = true;
  const int error = index->VisitAll([&](const DirectoryIndex::Entry&) { return empty = false; });
  if (error != 0) return Errno(error);
  return empty;
}

int NtfsTreeImpl::RemoveDirectory(const Request& request, NodeId parent, std::string_view name) {
  return Change(request, Operation::kRemoveDirectory,
                [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
                  ErrnoOr<Inode> directory = OpenDirectory(parent);
                  if (!directory.ok()) return Errno(directory.error());
                  ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory->get(), name);
                  if (!found.ok()) return Errno(found.error());
                  if (!found->has_value()) return Errno(ENOENT);
                  ErrnoOr<bool> is_directory = IsDirectoryEntry(**found);
                  if (!is_directory.ok()) return Errno(is_directory.error());
                  if (!*is_directory) return Errno(ENOTDIR);
                  ErrnoOr<bool> empty = IsEmptyDirectory((*found)->file);
                  if (!empty.ok()) return Errno(empty.error());
                  if (!*empty) return Errno(ENOTEMPTY);
                  directory->Close();
                  changing = true;
                  return RemoveEntry(parent, (*found)->file, (*found)->name);
                })
      .error();
}

bool NtfsTreeImpl::IsWithin(NodeId directory, NodeId ancestor) const {
  for (size_t depth = 0; depth < kMaxDepth; ++depth) {
    if (directory == ancestor) return true;
    if (directory == kRootNode) return false;
    ErrnoOr<NodeId> above = ParentLocked(directory);
    if (!above.ok()) return true;
    directory = *above;
  }
  return true;
}

int NtfsTreeImpl::LinkInto(FileReference file, NodeId directory_node, std::string_view utf16) {
  ErrnoOr<Inode> directory = OpenFile(directory_node);
  if (!directory.ok()) return directory.error();
  ErrnoOr<Inode> inode = volume_->Open(file);
  if (!inode.ok()) return inode.error() == ENOMEM ? ENOMEM : EIO;
  if (int error = AddName(inode->get(), directory->get(), utf16)) return error;
  ntfs_inode_update_times(inode->get(), NTFS_UPDATE_CTIME);
  TouchDirectory(directory->get());
  return inode->CloseBehind(*directory);
}

// The file of one name goes to the root meanwhile: a file never is without a name.
ErrnoOr<uint64_t> NtfsTreeImpl::Exchange(NodeId parent, const DirectoryIndex::Found& from, NodeId new_parent,
                                         const DirectoryIndex::Found& to, bool& changing) {
  if (from.file == to.file) return uint64_t{0};
  ErrnoOr<bool> from_is_directory = IsDirectoryEntry(from);
  ErrnoOr<bool> to_is_directory = IsDirectoryEntry(to);
  if (!from_is_directory.ok() || !to_is_directory.ok()) return Errno(EIO);
  if ((*from_is_directory && IsWithin(new_parent, NodeOf(from.file))) ||
      (*to_is_directory && IsWithin(parent, NodeOf(to.file)))) {
    return Errno(EINVAL);
  }
  changing = true;
  const std::u16string aside = OrphanName(from.file);
  if (int error = LinkInto(from.file, kRootNode, Utf16Bytes(aside))) return Errno(error);
  if (ErrnoOr<uint64_t> done = RemoveEntry(parent, from.file, from.name); !done.ok()) return done;
  if (int error = LinkInto(to.file, parent, from.name)) return Errno(error);
  if (ErrnoOr<uint64_t> done = RemoveEntry(new_parent, to.file, to.name); !done.ok()) return done;
  if (int error = LinkInto(from.file, new_parent, to.name)) return Errno(error);
  return RemoveEntry(kRootNode, from.file, Utf16Bytes(aside));
}

ErrnoOr<uint64_t> NtfsTreeImpl::RenameLocked(NodeId parent, std::string_view name, NodeId new_parent,
                                             std::string_view new_name, unsigned flags, bool& changing) {
  DirectoryIndex::Found from;
  std::optional<DirectoryIndex::Found> to;
  {
    ErrnoOr<Inode> directory = OpenDirectory(parent);
    if (!directory.ok()) return Errno(directory.error());
    ErrnoOr<Inode> new_directory = OpenDirectory(new_parent);
    if (!new_directory.ok()) return Errno(new_directory.error());
    ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory->get(), name);
    if (!found.ok()) return Errno(found.error());
    if (!found->has_value()) return Errno(LookupStream(directory->get(), name).ok() ? EINVAL : ENOENT);
    from = **found;
    if (int error = CheckName(new_name)) return Errno(error);
    found = FindEntry(new_directory->get(), new_name);
    if (!found.ok()) return Errno(found.error());
    to = *std::move(found);
  }
  if (flags == RENAME_EXCHANGE) return to ? Exchange(parent, from, new_parent, *to, changing) : Errno(ENOENT);

  const std::string utf16 = *Wtf8ToUtf16Le(new_name);
  if (IsOrphanName(utf16)) return Errno(EINVAL);
  const NodeId node = NodeOf(from.file);
  const bool same_entry = to && parent == new_parent && to->file == from.file && EqualFolded(name, new_name);
  if (to && !same_entry) {
    if (flags == RENAME_NOREPLACE) return Errno(EEXIST);
    if (to->file == from.file) return uint64_t{0};  // two names of one file: nothing happens
  }
  if (same_entry && from.name == utf16) {
    if (flags == RENAME_NOREPLACE) return Errno(EEXIST);
    return uint64_t{0};
  }
  ErrnoOr<bool> is_directory = IsDirectoryEntry(from);
  if (!is_directory.ok()) return Errno(is_directory.error());
  if (*is_directory && IsWithin(new_parent, node)) return Errno(EINVAL);
  if (to && !same_entry) {
    ErrnoOr<bool> replaces_directory = IsDirectoryEntry(*to);
    if (!replaces_directory.ok()) return Errno(replaces_directory.error());
    if (*is_directory && !*replaces_directory) return Errno(ENOTDIR);
    if (!*is_directory && *replaces_directory) return Errno(EISDIR);
    if (*replaces_directory) {
      ErrnoOr<bool> empty = IsEmptyDirectory(to->file);
      if (!empty.ok()) return Errno(empty.error());
      if (!*empty) return Errno(ENOTEMPTY);
    }
  }

  changing = true;
  if (to && !same_entry) {
    ErrnoOr<uint64_t> removed =
        *is_directory ? RemoveEntry(new_parent, to->file, to->name) : RemoveName(new_parent, *to);
    if (!removed.ok()) return removed;
  }
  // A name in other case beside the old one would be found as the old one: aside first.
  if (same_entry) {
    const std::u16string aside = OrphanName(from.file);
    if (int error = LinkInto(from.file, kRootNode, Utf16Bytes(aside))) return Errno(error);
    if (ErrnoOr<uint64_t> done = RemoveEntry(parent, from.file, from.name); !done.ok()) return done;
    if (int error = LinkInto(from.file, new_parent, utf16)) return Errno(error);
    return RemoveEntry(kRootNode, from.file, Utf16Bytes(aside));
  }
  if (int error = LinkInto(from.file, new_parent, utf16)) return Errno(error);
  return RemoveEntry(parent, from.file, from.name);
}

int NtfsTreeImpl::Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent,
                         std::string_view new_name, unsigned flags) {
  if (read_only()) return EROFS;
  if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE) return EINVAL;
  return Change(request, Operation::kRename,
                [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                  return RenameLocked(parent, name, new_parent, new_name, flags, changing);
                })
      .error();
}

}  // namespace libmount
