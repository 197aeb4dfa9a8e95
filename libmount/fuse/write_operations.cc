// SPDX-License-Identifier: GPL-3.0-or-later
//
// The requests that change something, one function each, in terms of a WritableTree.

#include <fcntl.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "libmount/fuse/handler.h"

namespace libmount {
namespace {

// Writing more than this may take a while; for less, waking another thread would take longer than the writing.
constexpr size_t kShortWriteBytes = 32 << 10;

// Extended attributes that show in stat(2) too.
constexpr std::string_view kMetadataXattrPrefix = "system.ntfs_";

WritableTree& TreeOf(fuse_req_t request) { return *ContextOf(request).writable; }

Request RequestOf(fuse_req_t request) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  return {.id = OriginalUnique(HeaderOf(RawRequest())), .uid = caller->uid, .gid = caller->gid};
}

// A change that is made beside the one that the request is for: the tree must not take it for the request's own when
// that comes again. Making it twice does no harm.
Request WithoutNumber(Request request) {
  request.id = 0;
  return request;
}

// --- Who gets what is made

// As on other Linux file systems: in a directory with the set-group-ID bit everything new belongs to its group, and
// directories inherit the bit.
Request OwnerOfNew(fuse_req_t request, NodeId parent, uint32_t* mode) {
  Request owner = RequestOf(request);
  ErrnoOr<NodeAttributes> directory = TreeOf(request).GetAttributes(parent);
  if (!directory.ok() || (directory->mode & S_ISGID) == 0) return owner;
  owner.gid = directory->gid;
  if (S_ISDIR(*mode)) *mode |= S_ISGID;
  return owner;
}

void ReplyNewEntry(fuse_req_t request, const ErrnoOr<NodeAttributes>& made) {
  if (!made.ok()) {
    fuse_reply_err(request, made.error());
    return;
  }
  fuse_entry_param entry = ToEntry(ContextOf(request), *made, /*exact=*/true);
  fuse_reply_entry(request, &entry);
}

// --- Set-user-ID and set-group-ID bits, which do not survive a change of the file by another than root. The kernel
// tells when (FUSE_HANDLE_KILLPRIV_V2): doing it itself it would ask for security.capability before each write.

constexpr uint32_t kPermissionBits = 07777;

uint32_t WithoutPrivileges(uint32_t mode) {
  mode &= kPermissionBits & ~S_ISUID;
  return (mode & S_IXGRP) != 0 ? mode & ~S_ISGID : mode;
}

int DropPrivileges(fuse_req_t request, const NodeAttributes& file) {
  const uint32_t mode = file.mode & kPermissionBits;
  if (WithoutPrivileges(mode) == mode) return 0;
  AttributeChanges changes;
  changes.mode = WithoutPrivileges(mode);
  return TreeOf(request).SetAttributes(WithoutNumber(RequestOf(request)), file.node, changes).error();
}

// --- Opening

fuse_file_info HowToOpen(const NodeAttributes& attributes) {
  fuse_file_info file = {};
  if (IsNamedStream(attributes)) {
    file.direct_io = 1;  // no pages that an extended attribute could make stale
  } else {
    file.keep_cache = 1;  // every write passes through the kernel: its pages are right
    file.cache_readdir = S_ISDIR(attributes.mode);
  }
  return file;
}

// Of what was opened past the page cache by way of DirectOpens; all others are 0. Nothing but this depends on it.
constexpr uint64_t kDirectHandle = 1;

void OpenDirectly(fuse_file_info* file) {
  file->direct_io = 1;
  file->keep_cache = 0;
  file->fh = kDirectHandle;
}

void HowOthersOpenedIt(ServingContext& context, const NodeAttributes& attributes, fuse_file_info* file) {
  DirectOpens* opens = context.direct_opens;
  if (opens == nullptr || !S_ISREG(attributes.mode) || IsNamedStream(attributes)) return;
  switch (opens->Open(attributes.node)) {
    case DirectOpens::How::kCached: break;
    case DirectOpens::How::kCachedAnew: file->keep_cache = 0; break;
    case DirectOpens::How::kDirect: OpenDirectly(file); break;
  }
}

void Close(ServingContext& context, NodeId node, const fuse_file_info& file) {
  if (file.fh == kDirectHandle && context.direct_opens != nullptr) context.direct_opens.load()->Release(node);
  context.writable->Release(node);
}

void Open(fuse_req_t request, fuse_ino_t node, fuse_file_info* how) {
  ServingContext& context = ContextOf(request);
  ErrnoOr<NodeAttributes> attributes = context.writable->GetAttributes(node);
  int error = attributes.ok() ? context.writable->Open(node) : attributes.error();
  if (const auto removed = error == ENOENT ? RemovedDirectory(context, node) : std::nullopt) {
    attributes = *removed;  // the tree has nothing to open; nor will it miss it at Release
    error = 0;
  }
  // A file that lives on because it is open, or because nobody knows whether it is: not by its former name.
  const bool is_gone = error == 0 && attributes->link_count == 0 && context.invalidator->MayHaveStaleNameOf(node);
  if (is_gone || (error == 0 && context.type_changes.Contains(node))) {
    context.writable->Release(node);
    error = ESTALE;
  }
  if (error != 0) {
    fuse_reply_err(request, NodeError(context, error));
    return;
  }
  fuse_file_info file = HowToOpen(*attributes);
  HowOthersOpenedIt(context, *attributes, &file);
  // Closing would first write what is dirty of the file, through anybody's mapping, and wait for us. Who opens so does
  // not want to (the broker, daemon/broker/inspect.cc); it is written a little later all the same.
  file.noflush = (how->flags & O_NONBLOCK) != 0;
  // Who asked is gone: no release will follow.
  if (fuse_reply_open(request, &file) == -ENOENT) Close(context, node, file);
}

void Release(fuse_req_t request, fuse_ino_t node, fuse_file_info* file) {
  Close(ContextOf(request), node, *file);
  fuse_reply_err(request, 0);
}

// The file that CREATE found in its place, unless it must not be there.
ErrnoOr<NodeAttributes> OpenInstead(fuse_req_t request, NodeId parent, std::string_view name, int flags) {
  if ((flags & O_EXCL) != 0) return Errno(EEXIST);
  WritableTree& tree = TreeOf(request);
  ErrnoOr<LookupResult> found = tree.Lookup(parent, name);
  if (!found.ok()) return Errno(found.error());
  if (!S_ISREG(found->attributes.mode)) return Errno(EEXIST);
  if ((flags & O_TRUNC) == 0) return found->attributes;
  AttributeChanges changes;
  changes.size = 0;
  return tree.SetAttributes(WithoutNumber(RequestOf(request)), found->attributes.node, changes);
}

void Create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* how) {
  WritableTree& tree = TreeOf(request);
  uint32_t type_and_mode = S_IFREG | (mode & kPermissionBits);
  Request owner = OwnerOfNew(request, parent, &type_and_mode);
  ErrnoOr<NodeAttributes> made = tree.MakeNode(owner, parent, name, type_and_mode, 0);
  const bool is_new = made.ok();
  if (!made.ok() && made.error() == EEXIST) made = OpenInstead(request, parent, name, how->flags);
  int error = made.ok() ? tree.Open(made->node) : made.error();
  if (error != 0) {
    fuse_reply_err(request, error);
    return;
  }
  ServingContext& context = ContextOf(request);
  fuse_entry_param entry = ToEntry(context, *made, /*exact=*/true);
  fuse_file_info file = HowToOpen(*made);
  DirectOpens* direct = context.direct_opens;
  const bool only_writes = (how->flags & O_ACCMODE) == O_WRONLY && !IsNamedStream(*made);
  if (!is_new) {
    HowOthersOpenedIt(context, *made, &file);
  } else if (only_writes && direct != nullptr && direct->Begin(made->node)) {
    OpenDirectly(&file);
  }
  if (fuse_reply_create(request, &entry, &file) == -ENOENT) Close(context, made->node, file);
}

// --- Names

void MakeNode(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  uint32_t type_and_mode = mode;
  Request owner = OwnerOfNew(request, parent, &type_and_mode);
  ReplyNewEntry(request, TreeOf(request).MakeNode(owner, parent, name, type_and_mode, static_cast<uint32_t>(device)));
}

void MakeDirectory(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  uint32_t type_and_mode = S_IFDIR | (mode & kPermissionBits);
  Request owner = OwnerOfNew(request, parent, &type_and_mode);
  ReplyNewEntry(request, TreeOf(request).MakeDirectory(owner, parent, name, type_and_mode & kPermissionBits));
}

void MakeSymlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  uint32_t type_and_mode = S_IFLNK;
  Request owner = OwnerOfNew(request, parent, &type_and_mode);
  ReplyNewEntry(request, TreeOf(request).MakeSymlink(owner, parent, name, target));
}

void MakeLink(fuse_req_t request, fuse_ino_t node, fuse_ino_t new_parent, const char* new_name) {
  ReplyNewEntry(request, TreeOf(request).MakeLink(RequestOf(request), node, new_parent, new_name));
}

// Names of which the kernel may hold an entry that the change makes wrong.
using StaleNames = std::vector<Invalidator::StaleName>;

// `name` is about to go, or to stand for another file. Where it is not the file's own name (other case, short name),
// that one, of which the kernel has perhaps an entry with an unlimited lifetime, goes with it.
// Returns what has the name now.
ErrnoOr<LookupResult> NoteStale(fuse_req_t request, NodeId parent, std::string_view name, StaleNames* stale) {
  const WritableTree& tree = TreeOf(request);
  ErrnoOr<LookupResult> found = tree.Lookup(parent, name);
  if (!found.ok() || found->exact || IsNamedStream(found->attributes)) return found;
  Invalidator* invalidator = ContextOf(request).invalidator;
  tree.ReadDirectory(parent, 0, [&](const DirectoryEntry& entry) {
    if (entry.attributes.node == found->attributes.node) {
      stale->emplace_back(invalidator, parent, std::string(entry.name), entry.attributes.node);
    }
    return true;
  });
  return found;
}

// The directory that had a name is gone, or moved: then the tree still has it, and nobody asks what is noted here.
void NoteRemoved(fuse_req_t request, const ErrnoOr<LookupResult>& was) {
  if (was.ok() && S_ISDIR(was->attributes.mode)) ContextOf(request).removed_directories.Add(was->attributes);
}

// The change was made, or not.
void ReplyChange(fuse_req_t request, int error, StaleNames* stale) {
  for (Invalidator::StaleName& name : *stale) {
    if (error == 0) name.Tell();
  }
  fuse_reply_err(request, error);
}

void Unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  StaleNames stale;
  std::ignore = NoteStale(request, parent, name, &stale);
  ReplyChange(request, TreeOf(request).Unlink(RequestOf(request), parent, name), &stale);
}

void RemoveDirectory(fuse_req_t request, fuse_ino_t parent, const char* name) {
  StaleNames stale;
  const ErrnoOr<LookupResult> was = NoteStale(request, parent, name, &stale);
  const int error = TreeOf(request).RemoveDirectory(RequestOf(request), parent, name);
  if (error == 0) NoteRemoved(request, was);
  ReplyChange(request, error, &stale);
}

void Rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  WritableTree& tree = TreeOf(request);
  StaleNames stale;
  std::ignore = NoteStale(request, parent, name, &stale);
  const ErrnoOr<LookupResult> was = NoteStale(request, new_parent, new_name, &stale);
  // The kernel gives the entry, with its lifetime, the new name, which may become an inexact one: that of an entry that
  // is replaced is kept in its own case.
  StaleNames inexact;
  if (!stale.empty()) {
    inexact.emplace_back(ContextOf(request).invalidator, parent, name, NodeId{0});
    inexact.emplace_back(ContextOf(request).invalidator, new_parent, new_name, NodeId{0});
  }
  int error = tree.Rename(RequestOf(request), parent, name, new_parent, new_name, flags);
  if (error == 0) NoteRemoved(request, was);
  for (Invalidator::StaleName& given : inexact) {
    ErrnoOr<LookupResult> now = tree.Lookup(given.directory(), given.name());
    if (error == 0 && now.ok() && !now->exact) given.Tell();
  }
  ReplyChange(request, error, &stale);
}

// --- Attributes

AttributeChanges ToChanges(const struct stat& wanted, uint32_t valid) {
  AttributeChanges changes;
  if ((valid & FATTR_MODE) != 0) changes.mode = wanted.st_mode & kPermissionBits;
  if ((valid & FATTR_UID) != 0) changes.uid = wanted.st_uid;
  if ((valid & FATTR_GID) != 0) changes.gid = wanted.st_gid;
  if ((valid & FATTR_SIZE) != 0) changes.size = static_cast<uint64_t>(wanted.st_size);
  if ((valid & FATTR_ATIME) != 0) changes.access_time = wanted.st_atim;
  if ((valid & FATTR_MTIME) != 0) changes.modification_time = wanted.st_mtim;
  changes.access_time_now = (valid & FATTR_ATIME_NOW) != 0;
  changes.modification_time_now = (valid & FATTR_MTIME_NOW) != 0;
  return changes;
}

void SetAttr(fuse_req_t request, fuse_ino_t node, struct stat* wanted, int, fuse_file_info*) {
  ServingContext& context = ContextOf(request);
  WritableTree& tree = *context.writable;
  const uint32_t valid = RawArgument<fuse_setattr_in>().valid;  // libfuse hides some of it
  if ((valid & FATTR_SIZE) != 0 && wanted->st_size < 0) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  AttributeChanges changes = ToChanges(*wanted, valid);
  if ((valid & FATTR_KILL_SUIDGID) != 0) {
    ErrnoOr<NodeAttributes> now = tree.GetAttributes(node);
    const uint32_t mode = changes.mode.value_or(now.ok() ? now->mode & kPermissionBits : 0);
    if (now.ok() && WithoutPrivileges(mode) != mode) changes.mode = WithoutPrivileges(mode);
  }
  if (changes.size.has_value()) BeginLongWork(request);
  ErrnoOr<NodeAttributes> changed = tree.SetAttributes(RequestOf(request), node, changes);
  if (!changed.ok()) {
    fuse_reply_err(request, NodeError(context, changed.error()));
    return;
  }
  if (IsNamedStream(*changed)) context.invalidator->Attributes(changed->stream_of);
  struct stat st = ToStat(*changed);
  fuse_reply_attr(request, &st, AttributeLifetime(context, *changed));
}

// What an extended attribute says may show in stat(2), even as another type of file.
void AfterXattrChange(fuse_req_t request, const ErrnoOr<NodeAttributes>& before, std::string_view name) {
  if (!before.ok() || !name.starts_with(kMetadataXattrPrefix)) return;
  ServingContext& context = ContextOf(request);
  ErrnoOr<NodeAttributes> after = context.writable->GetAttributes(before->node);
  if (after.ok() && (after->mode & S_IFMT) != (before->mode & S_IFMT)) context.type_changes.Add(before->node);
  context.invalidator->Attributes(before->node);
}

void SetXattr(fuse_req_t request, fuse_ino_t node, const char* name, const char* value, size_t size, int flags) {
  ServingContext& context = ContextOf(request);
  if (IsNeverPresent(name)) {
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  BeginLongWork(request);
  ErrnoOr<NodeAttributes> before = context.writable->GetAttributes(node);
  int error = context.writable->SetXattr(RequestOf(request), node, name, {value, size}, flags);
  if (error == 0) AfterXattrChange(request, before, name);
  fuse_reply_err(request, NodeError(context, error));
}

void RemoveXattr(fuse_req_t request, fuse_ino_t node, const char* name) {
  ServingContext& context = ContextOf(request);
  if (IsNeverPresent(name)) {
    fuse_reply_err(request, ENODATA);
    return;
  }
  ErrnoOr<NodeAttributes> before = context.writable->GetAttributes(node);
  int error = context.writable->RemoveXattr(RequestOf(request), node, name);
  if (error == 0) AfterXattrChange(request, before, name);
  fuse_reply_err(request, NodeError(context, error));
}

// --- Data

void Write(fuse_req_t request, fuse_ino_t node, const char* data, size_t size, off_t offset, fuse_file_info* how) {
  ServingContext& context = ContextOf(request);
  Count(context.writes);
  if (offset < 0 || size > static_cast<uint64_t>(std::numeric_limits<off_t>::max() - offset)) {
    fuse_reply_err(request, offset < 0 ? EINVAL : EFBIG);
    return;
  }
  if (size > kShortWriteBytes) BeginLongWork(request);
  ErrnoOr<NodeAttributes> file = context.writable->GetAttributes(node);
  int error = file.error();
  if (error == 0 && (RawArgument<fuse_write_in>().write_flags & FUSE_WRITE_KILL_SUIDGID) != 0) {
    error = DropPrivileges(request, *file);
  }
  ErrnoOr<size_t> written =
      error != 0 ? ErrnoOr<size_t>(Errno(error))
                 : context.writable->Write(RequestOf(request), node, static_cast<uint64_t>(offset), {data, size});
  if (!written.ok()) {
    fuse_reply_err(request, NodeError(context, written.error()));
    return;
  }
  Count(context.bytes_written, *written);
  if (IsNamedStream(*file)) context.invalidator->Attributes(file->stream_of);
  fuse_reply_write(request, *written);
  // A mapping may have brought in a page of it just before.
  DirectOpens* direct = context.direct_opens;
  if (how->fh == kDirectHandle && direct != nullptr && direct->IsShared(node)) context.invalidator->Content(node);
}

void Allocate(fuse_req_t request, fuse_ino_t node, int mode, off_t offset, off_t length, fuse_file_info*) {
  ServingContext& context = ContextOf(request);
  if (offset < 0 || length <= 0) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  BeginLongWork(request);
  ErrnoOr<NodeAttributes> file = context.writable->GetAttributes(node);
  int error = file.error();
  // The kernel says nothing of privileges here; root is who may keep them.
  if (error == 0 && fuse_req_ctx(request)->uid != 0) error = DropPrivileges(request, *file);
  if (error == 0) {
    error = context.writable->Allocate(RequestOf(request), node, mode, static_cast<uint64_t>(offset),
                                       static_cast<uint64_t>(length));
  }
  if (error == 0 && IsNamedStream(*file)) context.invalidator->Attributes(file->stream_of);
  fuse_reply_err(request, NodeError(context, error));
}

void Seek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence, fuse_file_info*) {
  BeginLongWork(request);
  ErrnoOr<uint64_t> found =
      offset < 0 ? Errno(ENXIO) : TreeOf(request).Seek(node, static_cast<uint64_t>(offset), whence);
  if (found.ok()) {
    fuse_reply_lseek(request, static_cast<off_t>(*found));
  } else {
    fuse_reply_err(request, found.error());
  }
}

void Sync(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  BeginLongWork(request);
  fuse_reply_err(request, TreeOf(request).Sync());
}

// Nothing is held back until a file is closed; the kernel stops asking after the first answer. (It writes the pages of
// a shared mapping out before it would ask.)
void FlushNotNeeded(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, ENOSYS); }

fuse_lowlevel_ops MakeReadWriteOperations() {
  fuse_lowlevel_ops ops = ReadOnlyOperations();
  ops.open = Open;
  ops.release = Release;
  ops.opendir = Open;
  ops.releasedir = Release;
  ops.create = Create;
  ops.mknod = MakeNode;
  ops.mkdir = MakeDirectory;
  ops.symlink = MakeSymlink;
  ops.link = MakeLink;
  ops.unlink = Unlink;
  ops.rmdir = RemoveDirectory;
  ops.rename = Rename;
  ops.setattr = SetAttr;
  ops.setxattr = SetXattr;
  ops.removexattr = RemoveXattr;
  ops.write = Write;
  ops.fallocate = Allocate;
  ops.lseek = Seek;
  ops.fsync = Sync;
  ops.fsyncdir = Sync;
  ops.flush = FlushNotNeeded;
  ops.copy_file_range = nullptr;  // ENOSYS: the kernel copies by reading and writing
  return ops;
}

}  // namespace

const fuse_lowlevel_ops& ReadWriteOperations() {
  static const fuse_lowlevel_ops operations = MakeReadWriteOperations();
  return operations;
}

}  // namespace libmount
