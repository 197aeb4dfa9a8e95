// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: names: making, linking, removing, renaming.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"
#include "libmount/staging/staged_tree_impl.h"
#include "libmount/tree/names.h"
#include "libmount/tree/security.h"

namespace libmount {
namespace {

constexpr uint32_t kMaxLinks = 1024;    // as NTFS
constexpr uint32_t kMaxDepth = 16384;   // of directories: what can be read back from an image
constexpr size_t kMaxInherited = 1024;  // security descriptors remembered
constexpr uint32_t kWriteBits = 0222;

// A change of one of a directory's entries changes its times.
void AppendTimes(NodeId node, uint64_t now, EditWriter& edits) {
  edits.Op(Edit::kMeta).Number(node).Number(kMetaWriteTime | kMetaChangeTime).Number(now).Number(now);
}

void AppendChangeTime(NodeId node, uint64_t now, EditWriter& edits) {
  edits.Op(Edit::kMeta).Number(node).Number(kMetaChangeTime).Number(now);
}

void AppendName(NodeId directory, uint64_t cookie, NodeId node, std::string_view name, std::string_view short_name,
                EditWriter& edits) {
  edits.Op(Edit::kAddName).Number(directory).Number(cookie).Number(node).Text(name).Text(short_name);
}

}  // namespace

std::shared_ptr<const std::string> StagedTreeImpl::InheritedSecurity(const Node& parent, bool is_directory) {
  if (parent.security == nullptr) return nullptr;
  const auto key = std::pair(parent.security.get(), is_directory);
  if (auto found = inherited_.find(key); found != inherited_.end()) return found->second;
  // The catalog keeps each descriptor it ever had, so that the pointer stands for it.
  if (inherited_.size() >= kMaxInherited) inherited_.clear();
  return inherited_[key] = catalog_.Intern(InheritSecurity(*parent.security, is_directory));
}

void StagedTreeImpl::DescribeNew(const Request& request, NodeId id, NodeId parent, uint32_t mode, uint32_t device,
                                 std::optional<std::string_view> link_target, uint64_t now, EditWriter& edits) {
  constexpr uint32_t kInheritedAttributes = kAttributeCompressed | kAttributeNotContentIndexed;
  const Node& directory = *catalog_.Copy(parent);
  Node node;
  const bool is_directory = S_ISDIR(mode);
  uint32_t mask = kMetaAttributes | kMetaCreationTime | kMetaAccessTime | kMetaWriteTime | kMetaChangeTime;
  node.attributes = directory.attributes & kInheritedAttributes;
  node.attributes |= is_directory ? kAttributeDirectory : kAttributeArchive;
  node.creation_time = node.access_time = node.write_time = node.change_time = now;
  node.security = InheritedSecurity(directory, is_directory);
  if (node.security != nullptr) mask |= kMetaSecurity;
  if (keeps_unix_data_) {
    node.unix_data = UnixFileData{request.uid, request.gid, mode, device};
    mask |= kMetaUnixData;
  } else if (S_ISREG(mode) && (mode & kWriteBits) == 0) {
    node.attributes |= kAttributeReadOnly;
  }
  if (link_target) {
    std::optional<ReparsePoint> point = EncodeLink(*link_target);
    node.attributes = (node.attributes & ~kAttributeCompressed) | kAttributeReparsePoint;
    node.reparse_tag = point->tag;
    node.reparse_data = std::move(point->data);
    node.link_text = std::string(*link_target);
    mask |= kMetaReparse | kMetaLinkText;
  }
  edits.Op(Edit::kNewNode).Number(id).Number(is_directory ? 1 : 0);
  AppendMeta(id, node, mask, catalog_.security_table(), edits);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeFile(const Request& request, Operation operation, NodeId parent,
                                                 std::string_view name, uint32_t mode, uint32_t device,
                                                 std::optional<std::string_view> link_target) {
  absl::MutexLock lock(&mutex_);
  if (const Catalog::Outcome* done = Repeated(request, operation)) return RepeatedNode(*done);
  if (int error = CheckDirectory(parent)) return Errno(error);
  if (int error = CheckName(name)) return Errno(error);
  const Directory* entries = catalog_.Entries(parent);
  const Node* directory = catalog_.Copy(parent);
  if (entries == nullptr || directory == nullptr) return Errno(EIO);
  if (parent != kRootNode && directory->parent == 0) return Errno(ENOENT);
  if (entries->Find(name).item != nullptr) return Errno(EEXIST);
  if (operation == Operation::kMakeNode && S_ISREG(mode)) {
    if (FindStreamName(parent, name).node != 0) return Errno(EEXIST);
    const size_t colon = name.find(':');
    const FoundName file = colon == name.npos ? FoundName() : FindInDirectory(parent, name.substr(0, colon));
    if (file.node != 0) return MakeStream(request, file.node, name.substr(colon + 1));
  }
  if (S_ISDIR(mode)) {
    uint32_t depth = 0;
    for (NodeId at = parent; at != kRootNode && at != 0 && depth <= kMaxDepth; ++depth) {
      ErrnoOr<NodeId> above = ParentLocked(at);
      if (!above.ok()) break;
      at = *above;
    }
    if (depth + 2 > kMaxDepth) return Errno(ENAMETOOLONG);
  }

  const NodeId id = catalog_.next_node();
  if (id + 1 >= kEndOfNewNodes) return Errno(ENOSPC);
  const uint64_t now = WindowsNow();
  EditWriter edits;
  DescribeNew(request, id, parent, mode, device, link_target, now, edits);
  AppendName(parent, entries->next_cookie(), id, name, {}, edits);
  AppendTimes(parent, now, edits);
  if (int error = Commit(request.id, operation, id, edits)) return Errno(error);
  return AttributesLocked(id);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeStream(const Request& request, NodeId file, std::string_view name) {
  constexpr std::string_view kDataType = ":$DATA";
  if (name.size() >= kDataType.size() && EqualFolded(name.substr(name.size() - kDataType.size()), kDataType)) {
    name.remove_suffix(kDataType.size());
  }
  if (int error = CheckName(name)) return Errno(error);
  if (name.find(':') != name.npos) return Errno(EINVAL);
  const NodeId id = catalog_.next_node();
  EditWriter edits;
  edits.Op(Edit::kNewStream).Number(file).Number(id).Text(name);
  AppendTimes(file, WindowsNow(), edits);
  if (int error = Commit(request.id, Operation::kMakeNode, id, edits)) return Errno(error);
  return AttributesLocked(id);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeNode(const Request& request, NodeId parent, std::string_view name,
                                                 uint32_t mode, uint32_t device) {
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  if (!S_ISREG(mode)) {
    if (!IsSpecialFile(mode)) return Errno(EINVAL);
    if (!keeps_unix_data_) return Errno(EPERM);
  }
  return MakeFile(request, Operation::kMakeNode, parent, name, mode, device, std::nullopt);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                                      uint32_t mode) {
  return MakeFile(request, Operation::kMakeDirectory, parent, name, S_IFDIR | (mode & kPermissionBits), 0,
                  std::nullopt);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                                    std::string_view target) {
  if (target.empty()) return Errno(ENOENT);
  if (target.find('\0') != target.npos) return Errno(EINVAL);
  if (!EncodeLink(target)) return Errno(ENAMETOOLONG);
  return MakeFile(request, Operation::kMakeSymlink, parent, name, S_IFLNK | 0777, 0, target);
}

ErrnoOr<NodeAttributes> StagedTreeImpl::MakeLink(const Request& request, NodeId id, NodeId new_parent,
                                                 std::string_view new_name) {
  absl::MutexLock lock(&mutex_);
  if (const Catalog::Outcome* done = Repeated(request, Operation::kMakeLink)) return RepeatedNode(*done);
  if (int error = CheckDirectory(new_parent)) return Errno(error);
  if (int error = CheckName(new_name)) return Errno(error);
  ErrnoOr<Target> target = FindForChange(id);
  if (!target.ok()) return Errno(target.error());
  if (target->stream_id != 0 || target->node->is_directory()) return Errno(EPERM);
  if (target->node->link_count == 0) return Errno(ENOENT);
  if (target->node->link_count >= kMaxLinks) return Errno(EMLINK);
  const Directory* entries = catalog_.Entries(new_parent);
  const Node* directory = catalog_.Copy(new_parent);
  if (entries == nullptr || directory == nullptr) return Errno(EIO);
  if (new_parent != kRootNode && directory->parent == 0) return Errno(ENOENT);
  if (entries->Find(new_name).item != nullptr) return Errno(EEXIST);
  const uint64_t now = WindowsNow();
  EditWriter edits;
  AppendName(new_parent, entries->next_cookie(), id, new_name, {}, edits);
  AppendChangeTime(id, now, edits);
  AppendTimes(new_parent, now, edits);
  if (int error = Commit(request.id, Operation::kMakeLink, id, edits)) return Errno(error);
  return AttributesLocked(id);
}

// After a recovery nobody knows what was open before: those nodes stay.
void StagedTreeImpl::DropIfUnused(NodeId node, uint32_t names_left, EditWriter& edits) {
  if (names_left > 0 || node < first_known_node_ || open_counts_.contains(node)) return;
  edits.Op(Edit::kDropNode).Number(node);
}

int StagedTreeImpl::UnlinkStream(const Request& request, NodeId parent, std::string_view name) {
  const FoundName found = FindStreamName(parent, name);
  if (found.node == 0) return ENOENT;
  const auto [file, stream] = catalog_.Resolve(found.node);
  if (stream == 0) return EINVAL;  // "file::$DATA"
  EditWriter edits;
  edits.Op(Edit::kDropStream).Number(file).Number(stream);
  AppendTimes(file, WindowsNow(), edits);
  return Commit(request.id, Operation::kUnlink, 0, edits);
}

int StagedTreeImpl::Unlink(const Request& request, NodeId parent, std::string_view name) {
  int error;
  {
    absl::MutexLock lock(&mutex_);
    if (Repeated(request, Operation::kUnlink) != nullptr) return 0;
    if (int bad = CheckDirectory(parent)) return bad;
    const Directory* entries = catalog_.Entries(parent);
    if (entries == nullptr) return EIO;
    const Directory::Found found = entries->Find(name);
    if (found.item == nullptr) return UnlinkStream(request, parent, name);
    const NodeId id = found.item->node;
    const Node* node = catalog_.Copy(id);
    if (node == nullptr) return EIO;
    if (node->is_directory()) return EISDIR;
    const uint64_t now = WindowsNow();
    EditWriter edits;
    edits.Op(Edit::kRemoveName).Number(parent).Number(found.cookie);
    AppendTimes(parent, now, edits);
    AppendChangeTime(id, now, edits);
    DropIfUnused(id, node->link_count - 1, edits);
    error = Commit(request.id, Operation::kUnlink, 0, edits);
  }
  ReclaimSpace(/*now=*/false);
  return error;
}

bool StagedTreeImpl::IsEmptyDirectory(NodeId directory) {
  const Directory* entries = catalog_.Entries(directory);
  return entries != nullptr && entries->items().empty();
}

int StagedTreeImpl::RemoveDirectory(const Request& request, NodeId parent, std::string_view name) {
  absl::MutexLock lock(&mutex_);
  if (Repeated(request, Operation::kRemoveDirectory) != nullptr) return 0;
  if (int error = CheckDirectory(parent)) return error;
  const Directory* entries = catalog_.Entries(parent);
  if (entries == nullptr) return EIO;
  const Directory::Found found = entries->Find(name);
  if (found.item == nullptr) return ENOENT;
  const NodeId id = found.item->node;
  if (!IsDirectory(id)) return ENOTDIR;
  if (!IsEmptyDirectory(id)) return ENOTEMPTY;
  const uint64_t now = WindowsNow();
  EditWriter edits;
  edits.Op(Edit::kRemoveName).Number(parent).Number(found.cookie);
  AppendTimes(parent, now, edits);
  AppendChangeTime(id, now, edits);
  DropIfUnused(id, 0, edits);
  return Commit(request.id, Operation::kRemoveDirectory, 0, edits);
}

int StagedTreeImpl::Exchange(const Request& request, NodeId parent, const Directory::Found& from, NodeId new_parent,
                             const Directory::Found& to) {
  if (to.item == nullptr) return ENOENT;
  const NodeId node = from.item->node;
  const NodeId other = to.item->node;
  if (node == other) return 0;
  if ((IsDirectory(node) && IsWithin(new_parent, node)) || (IsDirectory(other) && IsWithin(parent, other))) {
    return EINVAL;
  }
  const uint64_t now = WindowsNow();
  EditWriter edits;
  edits.Op(Edit::kRemoveName).Number(parent).Number(from.cookie);
  edits.Op(Edit::kRemoveName).Number(new_parent).Number(to.cookie);
  AppendName(parent, from.cookie, other, from.item->name, from.item->short_name, edits);
  AppendName(new_parent, to.cookie, node, to.item->name, to.item->short_name, edits);
  AppendTimes(parent, now, edits);
  if (new_parent != parent) AppendTimes(new_parent, now, edits);
  AppendChangeTime(node, now, edits);
  AppendChangeTime(other, now, edits);
  return Commit(request.id, Operation::kRename, 0, edits);
}

int StagedTreeImpl::Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent,
                           std::string_view new_name, unsigned flags) {
  if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE) return EINVAL;
  int error;
  {
    absl::MutexLock lock(&mutex_);
    if (Repeated(request, Operation::kRename) != nullptr) return 0;
    if (int bad = CheckDirectory(parent)) return bad;
    if (int bad = CheckDirectory(new_parent)) return bad;
    if (catalog_.Entries(parent) == nullptr || catalog_.Entries(new_parent) == nullptr) return EIO;
    const Directory* entries = catalog_.FindDirectory(parent);
    const Directory* new_entries = catalog_.FindDirectory(new_parent);
    const Directory::Found from = entries->Find(name);
    if (from.item == nullptr) return FindStreamName(parent, name).node != 0 ? EINVAL : ENOENT;
    if (int bad = CheckName(new_name)) return bad;
    const Directory::Found to = new_entries->Find(new_name);
    if (flags == RENAME_EXCHANGE) return Exchange(request, parent, from, new_parent, to);

    const NodeId id = from.item->node;
    const bool same_entry = to.item != nullptr && parent == new_parent && from.cookie == to.cookie;
    if (to.item != nullptr && !same_entry) {
      if (flags == RENAME_NOREPLACE) return EEXIST;
      if (to.item->node == id) return 0;  // two names of one file: nothing happens
    }
    if (same_entry && from.item->name == new_name) return flags == RENAME_NOREPLACE ? EEXIST : 0;
    const bool is_directory = IsDirectory(id);
    if (is_directory && IsWithin(new_parent, id)) return EINVAL;
    const Node* new_directory = catalog_.Copy(new_parent);
    if (new_directory == nullptr || catalog_.Copy(id) == nullptr) return EIO;
    if (new_parent != kRootNode && new_directory->parent == 0) return ENOENT;
    const bool replaces = to.item != nullptr && !same_entry;
    const NodeId replaced = replaces ? to.item->node : 0;
    if (replaces) {
      const bool replaces_directory = IsDirectory(replaced);
      if (is_directory && !replaces_directory) return ENOTDIR;
      if (!is_directory && replaces_directory) return EISDIR;
      if (replaces_directory && !IsEmptyDirectory(replaced)) return ENOTEMPTY;
    }

    const uint64_t now = WindowsNow();
    EditWriter edits;
    // A short name belongs to the long one; it stays with it where only the case changes, or the directory.
    std::string short_name;
    if (!from.item->short_name.empty() && EqualFolded(from.item->name, new_name)) {
      const Directory::Found taken = new_entries->Find(from.item->short_name);
      const bool free = taken.item == nullptr || (replaces && taken.cookie == to.cookie) ||
                        (parent == new_parent && taken.cookie == from.cookie);
      if (free) short_name = from.item->short_name;
    }
    edits.Op(Edit::kRemoveName).Number(parent).Number(from.cookie);
    if (replaces) edits.Op(Edit::kRemoveName).Number(new_parent).Number(to.cookie);
    AppendName(new_parent, same_entry ? from.cookie : new_entries->next_cookie(), id, new_name, short_name, edits);
    AppendTimes(parent, now, edits);
    if (new_parent != parent) AppendTimes(new_parent, now, edits);
    AppendChangeTime(id, now, edits);
    if (replaces) {
      AppendChangeTime(replaced, now, edits);
      const Node* node = catalog_.Copy(replaced);
      if (node == nullptr) return EIO;
      DropIfUnused(replaced, node->is_directory() ? 0 : node->link_count - 1, edits);
    }
    error = Commit(request.id, Operation::kRename, 0, edits);
  }
  ReclaimSpace(/*now=*/false);
  return error;
}

int StagedTreeImpl::Open(NodeId node) {
  absl::MutexLock lock(&mutex_);
  ErrnoOr<Target> target = Find(node);
  if (!target.ok()) return target.error();
  ++open_counts_[target->file];
  return 0;
}

void StagedTreeImpl::Release(NodeId node) {
  arena_->GiveBackAhead(node);
  {
    absl::MutexLock lock(&mutex_);
    const NodeId file = catalog_.Resolve(node).first;
    auto found = open_counts_.find(file);
    if (found == open_counts_.end()) return;  // opened before a recovery
    if (--found->second > 0) return;
    open_counts_.erase(found);
    if (!catalog_.orphans().contains(file)) return;
    EditWriter edits;
    DropIfUnused(file, 0, edits);
    // Without space for that it stays until the tree is opened for a new mount.
    if (!edits.empty()) Commit(0, Operation::kInternal, 0, edits);
  }
  ReclaimSpace(/*now=*/false);
}

}  // namespace libmount
