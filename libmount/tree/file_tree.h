// SPDX-License-Identifier: GPL-3.0-or-later
//
// FileTree: what a mounted image offers. The one interface between the kernel side (fuse/) and the formats
// (wim/, later ntfs/ and staging/): node ids in; attributes, bytes and entries out.
//
// Node ids are stable: they are derived from the image (WIM: the order of inodes in the metadata resource), never
// from memory, so that a process that opens the same image again answers for the ids a former one handed out. No
// state hangs on them: there is no open, no forget, no reference count. The root is kRootNode.
//
// Names are WTF-8: UTF-16 converted to UTF-8, unpaired surrogates kept as three-byte sequences. Look-ups take the
// exact name first, then a name that differs only in case, then a short (8.3) name. `file:stream` finds a named data
// stream of `file` as a node of its own.
//
// Ownership: a tree owns nothing of its caller's, and the caller owns the tree. Views handed to visitors are valid
// during the visit only.
//
// Thread safety: every method of a read-only tree may be called from any number of threads at once.

#ifndef LIBMOUNT_TREE_FILE_TREE_H_
#define LIBMOUNT_TREE_FILE_TREE_H_

#include <sys/statvfs.h>
#include <time.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "libmount/base/errno_or.h"

namespace libmount {

using NodeId = uint64_t;
inline constexpr NodeId kRootNode = 1;

// A node's attributes, in the terms of stat(2).
struct NodeAttributes {
  NodeId node = 0;   // also st_ino
  NodeId stream_of = 0;  // for a named data stream: the file it belongs to, whose user.* attribute has the same bytes
  uint32_t mode = 0;  // type and permission bits
  uint32_t link_count = 1;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t device = 0;        // st_rdev, for device nodes of UNIX data
  uint64_t size = 0;          // bytes
  uint64_t allocated = 0;     // bytes; st_blocks is this in units of 512
  timespec access_time = {};
  timespec modification_time = {};
  timespec change_time = {};
};

struct LookupResult {
  NodeAttributes attributes;
  bool exact = true;  // false: found by another case, or by its short name
};

struct DirectoryEntry {
  std::string_view name;  // WTF-8, without a terminating zero
  const NodeAttributes& attributes;
  uint64_t next_cookie;   // pass it to ReadDirectory to go on behind this entry; never 0
};

// Told by a tree about what a human should know. Called from any thread, also several at once; must not call back
// into the tree; must be quick.
class TreeObserver {
 public:
  virtual ~TreeObserver() = default;

  // The content of the file at `path` is damaged (hash mismatch or decoding error): its reads give EIO from now on.
  // Reported once for each damaged blob.
  virtual void OnDamage(std::string_view path, std::string_view what) = 0;

  // The image file was changed, truncated or replaced by somebody else: all reads give EIO from now on. Once.
  virtual void OnImageChanged(std::string_view what) = 0;
};

class FileTree {
 public:
  // Return false to end the visit (nothing more fits).
  using EntryVisitor = absl::FunctionRef<bool(const DirectoryEntry&)>;
  // Called with a file's id and size for each candidate. Return false to end.
  using CandidateVisitor = absl::FunctionRef<bool(NodeId, uint64_t size)>;

  virtual ~FileTree() = default;

  // ENOENT: no such node (an id that this image never handed out).
  virtual ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const = 0;

  // ENOENT, ENOTDIR, ENAMETOOLONG.
  virtual ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const = 0;

  // The directory that holds `directory` (the root's parent is the root). ENOTDIR.
  virtual ErrnoOr<NodeId> Parent(NodeId directory) const = 0;

  // Visits the entries behind `cookie` (0: from the start) in the image's order, "." and ".." not among them.
  // 0 or an errno: ENOTDIR, EINVAL (a cookie never handed out).
  virtual int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const = 0;

  // A link's target, relative to the directory that holds the link and never leading out of the image.
  // EINVAL: not a symbolic link or junction.
  virtual ErrnoOr<std::string> ReadLink(NodeId link) const = 0;

  // Reads into `out`, short only at the end of the file. EISDIR, EIO (damaged, or the image was changed), ENOMEM.
  virtual ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const = 0;

  // Extended attributes: those of architecture.md (system.ntfs_*, user.* for named streams, the image's own Linux
  // xattrs). GetXattr: ENODATA; E2BIG when a stream is longer than XATTR_SIZE_MAX (read it as file:stream). What is
  // listed can be read by the mount's owner.
  virtual ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const = 0;
  virtual ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const = 0;

  // Small files that a reader walking this directory would read after `file`: its later siblings in directory order
  // of at most `max_size` bytes, cheap to read now. May visit none.
  virtual void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const = 0;

  virtual struct statvfs FileSystemStats() const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_FILE_TREE_H_
