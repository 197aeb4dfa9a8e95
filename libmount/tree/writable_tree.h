// SPDX-License-Identifier: GPL-3.0-or-later
//
// WritableTree: a FileTree that can be changed. What a read-write mount serves.
//
// Each change is one step: when the method returns, it is acknowledged, and outlives the process (a tree of the same
// staging directory, opened by another process, has it); when the process dies before, it has happened wholly or not at
// all. Sync() makes what was acknowledged outlive the machine.
//
// A request that the kernel sends again, since the process that read it died before it answered, has the number
// (`Request::id`) it had before. The tree remembers the numbers of the last changes together with them, and answers a
// repeated one with what it answered then, without doing it twice.
//
// Permissions are the kernel's business (default_permissions); what a tree refuses is what Windows could not store
// (EINVAL, ENAMETOOLONG: names longer than 255 UTF-16 units, the characters "/" and zero, a lone "." or "..").
//
// Thread safety: all methods, those of FileTree too, may be called from any number of threads at once.

#ifndef LIBMOUNT_TREE_WRITABLE_TREE_H_
#define LIBMOUNT_TREE_WRITABLE_TREE_H_

#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "libmount/base/errno_or.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

// Who asks for a change.
struct Request {
  uint64_t id = 0;  // fuse_in_header.unique without the kernel's resend mark (bit 63); 0: never repeated
  uid_t uid = 0;
  gid_t gid = 0;
};

// For SetAttributes: what is to be changed. Times: kTimeNow stands for the time at which the change is made.
struct AttributeChanges {
  std::optional<uint32_t> mode;  // permission bits
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::optional<uint64_t> size;
  std::optional<timespec> access_time;
  std::optional<timespec> modification_time;
  bool access_time_now = false;
  bool modification_time_now = false;
};

class WritableTree : public FileTree {
 public:
  // Makes a regular file, or (where the image keeps UNIX data) a device, FIFO or socket; `mode` has type and permission
  // bits, the umask already applied. EEXIST, ENOENT (no such parent), ENOTDIR, EPERM (no UNIX data for a device),
  // ENOSPC, EDQUOT, EIO. These last three are every method's below.
  virtual ErrnoOr<NodeAttributes> MakeNode(const Request& request, NodeId parent, std::string_view name, uint32_t mode,
                                           uint32_t device) = 0;
  virtual ErrnoOr<NodeAttributes> MakeDirectory(const Request& request, NodeId parent, std::string_view name,
                                                uint32_t mode) = 0;
  // Stored as a reparse point; ReadLink gives `target` back.
  virtual ErrnoOr<NodeAttributes> MakeSymlink(const Request& request, NodeId parent, std::string_view name,
                                              std::string_view target) = 0;
  // EPERM (a directory, a named stream), EMLINK (more than 1024 names, as NTFS).
  virtual ErrnoOr<NodeAttributes> MakeLink(const Request& request, NodeId node, NodeId new_parent,
                                           std::string_view new_name) = 0;
  // The data stays while the node is open (see Open). EISDIR. Of "file:stream": removes the stream.
  virtual int Unlink(const Request& request, NodeId parent, std::string_view name) = 0;
  virtual int RemoveDirectory(const Request& request, NodeId parent, std::string_view name) = 0;  // ENOTEMPTY, ENOTDIR
  // `flags`: 0, RENAME_NOREPLACE or RENAME_EXCHANGE; else EINVAL. EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into its
  // own descendant). From a name to the same name in other case is a rename. The short name goes with a replaced entry.
  virtual int Rename(const Request& request, NodeId parent, std::string_view name, NodeId new_parent,
                     std::string_view new_name, unsigned flags) = 0;

  virtual ErrnoOr<NodeAttributes> SetAttributes(const Request& request, NodeId node,
                                                const AttributeChanges& changes) = 0;
  // Writes all of `data` or nothing. EFBIG.
  virtual ErrnoOr<size_t> Write(const Request& request, NodeId file, uint64_t offset, absl::Span<const char> data) = 0;
  // As fallocate(2): mode 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE[|KEEP_SIZE]; others EOPNOTSUPP.
  virtual int Allocate(const Request& request, NodeId file, int mode, uint64_t offset, uint64_t length) = 0;
  // As lseek(2) with SEEK_DATA or SEEK_HOLE. ENXIO.
  virtual ErrnoOr<uint64_t> Seek(NodeId file, uint64_t offset, int whence) const = 0;

  // As setxattr(2), for the names of FileTree::GetXattr: system.ntfs_attrib, system.ntfs_attrib_be, system.ntfs_acl,
  // system.ntfs_dos_name, system.ntfs_crtime, system.ntfs_crtime_be, system.ntfs_times, system.ntfs_times_be,
  // system.ntfs_reparse_data, system.ntfs_ea, system.ntfs_object_id, user.STREAM. EEXIST, ENODATA, EINVAL (a malformed
  // value), EOPNOTSUPP (another name).
  virtual int SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value,
                       int flags) = 0;
  virtual int RemoveXattr(const Request& request, NodeId node, std::string_view name) = 0;

  // Between Open and Release (of which there may be several) a node without names lives on. After a recovery nobody
  // knows who had it open: it then lives until the tree is committed at unmount or discarded.
  virtual int Open(NodeId node) = 0;
  virtual void Release(NodeId node) = 0;

  // Everything acknowledged before is on the disk when it returns. EIO, ENOSPC: what was not stored is told to each
  // later Sync as well.
  virtual int Sync() = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_WRITABLE_TREE_H_
