// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the request handlers of operations.cc and write_operations.cc share.

#ifndef LIBMOUNT_FUSE_HANDLER_H_
#define LIBMOUNT_FUSE_HANDLER_H_

#include <errno.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <atomic>
#include <limits>
#include <optional>
#include <string_view>

#include "libmount/fuse/operations.h"
#include "libmount/fuse/wire.h"

namespace libmount {

// The kernel may keep what it was told for as long as it likes: only its own requests change it, or nothing does.
inline constexpr double kForever = std::numeric_limits<double>::max();

inline ServingContext& ContextOf(fuse_req_t request) {
  return *static_cast<ServingContext*>(fuse_req_userdata(request));
}

inline void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) { counter.fetch_add(n, std::memory_order_relaxed); }

// Before work that may decode, read the disk or wait: lets another thread receive.
inline void BeginLongWork(fuse_req_t request) { ContextOf(request).source->PassTurn(&ServingThread::Current()->turn); }

// The request as the kernel sent it, for what libfuse does not pass on.
inline const char* RawRequest() { return ServingThread::Current()->request; }
template <typename T>
const T& RawArgument() {
  return *reinterpret_cast<const T*>(RawRequest() + sizeof(fuse_in_header));
}

// The same bytes are also an extended attribute of a file, which changes behind the kernel's back.
inline bool IsNamedStream(const NodeAttributes& attributes) { return attributes.stream_of != 0; }

inline struct stat ToStat(const NodeAttributes& attributes) {
  struct stat st = {};
  st.st_ino = attributes.node;
  st.st_mode = attributes.mode;
  st.st_nlink = attributes.link_count;
  st.st_uid = attributes.uid;
  st.st_gid = attributes.gid;
  st.st_rdev = attributes.device;
  st.st_size = static_cast<off_t>(attributes.size);
  st.st_blocks = static_cast<blkcnt_t>((attributes.allocated + 511) / 512);
  st.st_atim = attributes.access_time;
  st.st_mtim = attributes.modification_time;
  st.st_ctim = attributes.change_time;
  return st;
}

// How long the kernel may keep the attributes of a node in a mount like this.
inline double AttributeLifetime(const ServingContext& context, const NodeAttributes& attributes) {
  return context.writable != nullptr && IsNamedStream(attributes) ? 0 : kForever;
}

// `exact`: the name is the file's own, not one of other case or a short one. Such a name, and that of a stream, goes
// with a change of another name, of which the kernel does not know that it is the same.
inline fuse_entry_param ToEntry(const ServingContext& context, const NodeAttributes& attributes, bool exact) {
  fuse_entry_param entry = {};
  entry.ino = attributes.node;
  entry.attr = ToStat(attributes);
  entry.attr_timeout = AttributeLifetime(context, attributes);
  entry.entry_timeout = context.writable == nullptr || (exact && !IsNamedStream(attributes)) ? kForever : 0;
  return entry;
}

// The errno for a request about a node. That the kernel asks for one that is gone means that it took a name from its
// cache: told ESTALE, it looks the name up again.
inline int NodeError(const ServingContext& context, int error) {
  return context.writable != nullptr && error == ENOENT ? ESTALE : error;
}

// The attributes of a node that the tree has not got, where it is a directory that was removed and that somebody has.
inline std::optional<NodeAttributes> RemovedDirectory(ServingContext& context, NodeId node) {
  if (context.writable == nullptr) return std::nullopt;
  std::optional<NodeAttributes> removed = context.removed_directories.Find(node);
  return removed && !context.invalidator->MayHaveStaleNameOf(node) ? removed : std::nullopt;
}

// Asked of every file by ls and cp, and never there: file capabilities and labels of another system's image would not
// be honoured on a nosuid mount anyway, and permissions are the mode's alone.
inline bool IsNeverPresent(std::string_view name) {
  return name == "security.capability" || name == "security.selinux" || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default";
}

}  // namespace libmount

#endif  // LIBMOUNT_FUSE_HANDLER_H_
