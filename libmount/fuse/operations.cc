// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/operations.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/handler.h"

namespace libmount {
namespace {

// Parallel requests of one mount that the kernel sends before it makes readers wait. The default of 12 would limit
// read-ahead of several readers to about as many 1 MiB requests.
constexpr int kMaxBackground = 64;
constexpr int kCongestionThreshold = 48;

// Longest name the kernel takes in a directory (FUSE_NAME_MAX of the oldest kernel supported).
constexpr size_t kMaxNameBytes = 1024;

// Directory cookies: "." and ".." come first, then the tree's own.
constexpr uint64_t kCookieAfterDot = 1;
constexpr uint64_t kCookieAfterDotDot = 2;

FileTree& TreeOf(fuse_req_t request) { return *ContextOf(request).tree; }

void Init(void* user_data, fuse_conn_info* connection) {
  const auto& context = *static_cast<ServingContext*>(user_data);
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS | FUSE_CAP_ASYNC_DIO;
  // Read-write: a link to an absolute Windows path is shown relative to where it lies, and that may change.
  if (context.writable == nullptr) {
    wanted |= FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT;
  }
  // Exactly these: libfuse's defaults would bring READDIRPLUS_AUTO (28,900 look-ups more in a walk of 100,000 entries).
  // No ATOMIC_O_TRUNC: the kernel then truncates by SETATTR, with all that belongs to it (times, set-user-ID bits). No
  // WRITEBACK_CACHE: README.md says why.
  connection->want = connection->capable & wanted;
  connection->max_write = kFuseMaxRead;  // the kernel derives the pages of a READ from it too
  connection->max_read = kFuseMaxRead;
  // libfuse preset it to the kernel's offer of 128 KiB; the kernel takes the smaller of this and the device's value.
  connection->max_readahead = context.read_ahead;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kCongestionThreshold;
  connection->time_gran = 100;  // Windows time
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ServingContext& context = ContextOf(request);
  Count(context.lookups);
  ErrnoOr<LookupResult> found = context.tree->Lookup(parent, name);
  if (found.ok()) {
    context.type_changes.Told(found->attributes.node);
    fuse_entry_param entry = ToEntry(context, found->attributes, found->exact);
    fuse_reply_entry(request, &entry);
  } else if (found.error() == ENOENT && context.writable == nullptr) {
    fuse_entry_param none = {};  // node 0: the kernel remembers that there is no such name
    none.entry_timeout = kForever;
    fuse_reply_entry(request, &none);
  } else {
    fuse_reply_err(request, found.error());
  }
}

void GetAttr(fuse_req_t request, fuse_ino_t node, fuse_file_info*) {
  ServingContext& context = ContextOf(request);
  ErrnoOr<NodeAttributes> attributes = context.tree->GetAttributes(node);
  if (attributes.error() == ENOENT) {
    if (const auto removed = RemovedDirectory(context, node)) attributes = *removed;
  }
  if (!attributes.ok()) {
    fuse_reply_err(request, NodeError(context, attributes.error()));
  } else if (context.type_changes.Contains(node)) {
    fuse_reply_err(request, ESTALE);
  } else {
    struct stat st = ToStat(*attributes);
    fuse_reply_attr(request, &st, AttributeLifetime(context, *attributes));
  }
}

void ReadLink(fuse_req_t request, fuse_ino_t node) {
  BeginLongWork(request);
  ErrnoOr<std::string> target = TreeOf(request).ReadLink(node);
  if (target.ok()) {
    fuse_reply_readlink(request, target->c_str());
  } else {
    fuse_reply_err(request, target.error());
  }
}

// The kernel stops asking after the first answer, and then keeps pages and directory entries cached across opens.
void OpenNotNeeded(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, ENOSYS); }

// The start of a small file was read: the reader may go on with the next ones.
void StoreFollowing(ServingContext& context, fuse_ino_t node) {
  if (context.store_ahead == nullptr) return;
  ErrnoOr<NodeAttributes> attributes = context.tree->GetAttributes(node);
  if (attributes.ok() && attributes->size <= kSmallFileBytes) context.store_ahead->OnSmallFileRead(node);
}

void Read(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  ServingContext& context = ContextOf(request);
  PageBuffer& reply = ServingThread::Current()->reply;
  Count(context.reads);
  if (offset < 0 || size > reply.size()) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  BeginLongWork(request);
  ErrnoOr<size_t> got = context.tree->Read(node, static_cast<uint64_t>(offset), reply.first(size));
  if (!got.ok()) {
    fuse_reply_err(request, got.error());
    return;
  }
  Count(context.bytes_read, *got);
  if (offset == 0) StoreFollowing(context, node);
  fuse_reply_buf(request, reply.data(), *got);
}

// Fills one reply with directory entries.
class DirectoryReply {
 public:
  DirectoryReply(fuse_req_t request, absl::Span<char> out, bool plus) : request_(request), out_(out), plus_(plus) {}

  // False: it did not fit.
  bool Add(std::string_view name, const fuse_entry_param& entry, uint64_t next_cookie) {
    // What the kernel would refuse the whole directory for.
    if (name.empty() || name.size() > kMaxNameBytes || name.find('/') != name.npos || name.find('\0') != name.npos) {
      return true;
    }
    char terminated[kMaxNameBytes + 1];
    memcpy(terminated, name.data(), name.size());
    terminated[name.size()] = '\0';
    char* at = out_.data() + used_;
    size_t left = out_.size() - used_;
    auto cookie = static_cast<off_t>(next_cookie);
    size_t needed = plus_ ? fuse_add_direntry_plus(request_, at, left, terminated, &entry, cookie)
                          : fuse_add_direntry(request_, at, left, terminated, &entry.attr, cookie);
    if (needed > left) return false;
    used_ += needed;
    return true;
  }

  // "." and "..": node 0 tells the kernel that this is no look-up.
  bool AddDots(NodeId node, NodeId parent, uint64_t cookie) {
    fuse_entry_param entry = {};
    entry.attr.st_mode = S_IFDIR;
    entry.attr.st_ino = node;
    if (cookie < kCookieAfterDot && !Add(".", entry, kCookieAfterDot)) return false;
    entry.attr.st_ino = parent;
    return cookie >= kCookieAfterDotDot || Add("..", entry, kCookieAfterDotDot);
  }

  size_t used() const { return used_; }

 private:
  const fuse_req_t request_;
  const absl::Span<char> out_;
  const bool plus_;
  size_t used_ = 0;
};

void ReadDirectory(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, bool plus) {
  ServingContext& context = ContextOf(request);
  PageBuffer& buffer = ServingThread::Current()->reply;
  Count(context.directory_reads);
  auto cookie = static_cast<uint64_t>(offset);
  DirectoryReply reply(request, buffer.first(std::min(size, buffer.size())), plus);
  bool fits = true;
  if (cookie < kCookieAfterDotDot) {
    ErrnoOr<NodeId> parent = context.tree->Parent(node);
    if (!parent.ok()) {
      fuse_reply_err(request, parent.error());
      return;
    }
    fits = reply.AddDots(node, *parent, cookie);
    cookie = kCookieAfterDotDot;
  }
  int error = 0;
  if (fits) {
    error = context.tree->ReadDirectory(node, cookie - kCookieAfterDotDot, [&](const DirectoryEntry& entry) {
      return reply.Add(entry.name, ToEntry(context, entry.attributes, /*exact=*/true),
                       entry.next_cookie + kCookieAfterDotDot);
    });
  }
  if (error != 0) {
    fuse_reply_err(request, error);
  } else {
    fuse_reply_buf(request, buffer.data(), reply.used());
  }
}

void ReadDir(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  ReadDirectory(request, node, size, offset, /*plus=*/false);
}

void ReadDirPlus(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  ReadDirectory(request, node, size, offset, /*plus=*/true);
}

void StatFs(fuse_req_t request, fuse_ino_t) {
  struct statvfs stats = TreeOf(request).FileSystemStats();
  fuse_reply_statfs(request, &stats);
}

// Replies with a value, or with its size where that was asked for.
void ReplySized(fuse_req_t request, std::string_view value, size_t room) {
  if (room == 0) {
    fuse_reply_xattr(request, value.size());
  } else if (value.size() > room) {
    fuse_reply_err(request, ERANGE);
  } else {
    fuse_reply_buf(request, value.data(), value.size());
  }
}

void GetXattr(fuse_req_t request, fuse_ino_t node, const char* name, size_t size) {
  if (IsNeverPresent(name)) {
    fuse_reply_err(request, ENODATA);
    return;
  }
  BeginLongWork(request);
  ErrnoOr<std::string> value = TreeOf(request).GetXattr(node, name);
  if (value.ok()) {
    ReplySized(request, *value, size);
  } else {
    fuse_reply_err(request, NodeError(ContextOf(request), value.error()));
  }
}

void ListXattr(fuse_req_t request, fuse_ino_t node, size_t size) {
  ErrnoOr<std::vector<std::string>> names = TreeOf(request).ListXattrs(node);
  if (!names.ok()) {
    fuse_reply_err(request, NodeError(ContextOf(request), names.error()));
    return;
  }
  std::string list;
  for (const std::string& name : *names) {
    if (IsNeverPresent(name)) continue;
    list.append(name).push_back('\0');
  }
  ReplySized(request, list, size);
}

// Every operation that would change something.
template <typename... Arguments>
void Refuse(fuse_req_t request, Arguments...) {
  fuse_reply_err(request, EROFS);
}

fuse_lowlevel_ops MakeReadOnlyOperations() {
  fuse_lowlevel_ops ops = {};
  ops.init = Init;
  ops.lookup = Lookup;
  ops.getattr = GetAttr;
  ops.readlink = ReadLink;
  ops.open = OpenNotNeeded;  // without a handler libfuse answers success
  ops.opendir = OpenNotNeeded;
  ops.read = Read;
  ops.readdir = ReadDir;
  ops.readdirplus = ReadDirPlus;
  ops.statfs = StatFs;
  ops.getxattr = GetXattr;
  ops.listxattr = ListXattr;
  ops.setattr = Refuse;
  ops.mknod = Refuse;
  ops.mkdir = Refuse;
  ops.unlink = Refuse;
  ops.rmdir = Refuse;
  ops.symlink = Refuse;
  ops.rename = Refuse;
  ops.link = Refuse;
  ops.write = Refuse;
  ops.create = Refuse;
  ops.setxattr = Refuse;
  ops.removexattr = Refuse;
  ops.fallocate = Refuse;
  ops.copy_file_range = Refuse;
  // No access (default_permissions: the kernel checks), no forget (nothing to forget), no flush, fsync and release
  // (nothing was opened), no locks (they stay in the kernel).
  return ops;
}

}  // namespace

const fuse_lowlevel_ops& ReadOnlyOperations() {
  static const fuse_lowlevel_ops operations = MakeReadOnlyOperations();
  return operations;
}

}  // namespace libmount
