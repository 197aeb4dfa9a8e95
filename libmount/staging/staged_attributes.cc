// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: permissions, owners, times and sizes.

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/staging/staged_tree_impl.h"

namespace libmount {
namespace {

constexpr uint32_t kWriteBits = 0222;

}  // namespace

int StagedTreeImpl::DescribeChanges(const Target& target, const AttributeChanges& changes, EditWriter& edits) {
  const Node& node = *target.node;
  const uint64_t now = WindowsNow();
  uint32_t mask = kMetaChangeTime;
  uint32_t attributes = node.attributes;
  uint64_t access_time = node.access_time;
  uint64_t write_time = node.write_time;
  UnixFileData unix_data = node.unix_data.value_or(UnixFileData{options_.uid, options_.gid, node.mode(), 0});
  const bool with_unix_data = node.unix_data || keeps_unix_data_;

  if (changes.size) {
    if (target.stream_id == 0 && !S_ISREG(node.mode())) return node.is_directory() ? EISDIR : EINVAL;
    if (*changes.size > kMaxFileSize) return EFBIG;
    if (target.stream == nullptr) return EIO;
    edits.Op(Edit::kSize).Number(target.file).Number(target.stream_id).Number(*changes.size);
    write_time = now;
    mask |= kMetaWriteTime;
  }
  if (changes.mode && !node.is_link()) {
    if (with_unix_data) {
      unix_data.mode = (unix_data.mode & ~kPermissionBits) | (*changes.mode & kPermissionBits);
      mask |= kMetaUnixData;
    } else if (!node.is_directory()) {
      // Of a directory Windows takes the bit for something else.
      attributes = *changes.mode & kWriteBits ? attributes & ~kAttributeReadOnly : attributes | kAttributeReadOnly;
      if (attributes != node.attributes) mask |= kMetaAttributes;
    }
  }
  const bool changes_owner =
      (changes.uid && *changes.uid != unix_data.uid) || (changes.gid && *changes.gid != unix_data.gid);
  if (changes_owner) {
    if (!with_unix_data) return EPERM;
    unix_data.uid = changes.uid.value_or(unix_data.uid);
    unix_data.gid = changes.gid.value_or(unix_data.gid);
    mask |= kMetaUnixData;
  }
  if (changes.access_time || changes.access_time_now) {
    access_time = changes.access_time_now ? now : ToWindowsTime(*changes.access_time);
    mask |= kMetaAccessTime;
  }
  if (changes.modification_time || changes.modification_time_now) {
    write_time = changes.modification_time_now ? now : ToWindowsTime(*changes.modification_time);
    mask |= kMetaWriteTime;
  }

  edits.Op(Edit::kMeta).Number(target.file).Number(mask);
  if (mask & kMetaAttributes) edits.Number(attributes);
  if (mask & kMetaAccessTime) edits.Number(access_time);
  if (mask & kMetaWriteTime) edits.Number(write_time);
  edits.Number(now);
  if (mask & kMetaUnixData) {
    edits.Number(unix_data.uid).Number(unix_data.gid).Number(unix_data.mode).Number(unix_data.device);
  }
  return 0;
}

ErrnoOr<NodeAttributes> StagedTreeImpl::SetAttributes(const Request& request, NodeId id,
                                                      const AttributeChanges& changes) {
  ErrnoOr<NodeAttributes> result = Errno(EIO);
  {
    absl::MutexLock file_lock(FileLock(id));
    absl::MutexLock lock(&mutex_);
    if (const Catalog::Outcome* done = Repeated(request, Operation::kSetAttributes)) return RepeatedNode(*done);
    ErrnoOr<Target> target = FindForChange(id);
    if (!target.ok()) return Errno(target.error());
    EditWriter edits;
    if (int error = DescribeChanges(*target, changes, edits)) return Errno(error);
    if (int error = Commit(request.id, Operation::kSetAttributes, id, edits)) return Errno(error);
    result = AttributesLocked(id);
  }
  if (changes.size) ReclaimSpace(/*now=*/false);
  return result;
}

}  // namespace libmount
