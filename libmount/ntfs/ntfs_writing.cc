// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: changing data, sizes, permissions and times.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {
namespace {

constexpr uint64_t kMaxFileSize = (uint64_t{1} << 44) - 65536;  // as Windows
constexpr size_t kCopySize = size_t{1} << 20;
constexpr uint32_t kWriteBits = 0222;

int WriteAll(ntfs_attr* attribute, uint64_t offset, absl::Span<const char> data) {
  while (!data.empty()) {
    errno = 0;
    const s64 put = ntfs_attr_pwrite(attribute, static_cast<s64>(offset), static_cast<s64>(data.size()), data.data());
    if (put <= 0) return put == 0 ? EIO : ChangeErrno();
    data.remove_prefix(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return 0;
}

// What is left of a compressed block in memory goes to the volume.
int Finish(ntfs_attr* attribute) {
  if ((DataFlagsOf(attribute) & kDataCompressed) == 0) return 0;
  errno = 0;
  return ntfs_attr_pclose(attribute) == 0 ? 0 : ChangeErrno();
}

int ResizeAttribute(ntfs_attr* attribute, uint64_t size) {
  const bool compressed = (DataFlagsOf(attribute) & kDataCompressed) != 0;
  if (compressed && static_cast<s64>(size) > attribute->initialized_size) {
    // The library grows a compressed file by writing into it only.
    const char zero = 0;
    if (int error = WriteAll(attribute, size - 1, absl::MakeConstSpan(&zero, 1))) return error;
    return Finish(attribute);
  }
  errno = 0;
  return ntfs_attr_truncate(attribute, static_cast<s64>(size)) == 0 ? 0 : ChangeErrno();
}

}  // namespace

// `changing` is set where the file had to be unpacked for that.
ErrnoOr<Attribute> NtfsTreeImpl::OpenData(ntfs_inode* inode, NodeId node, bool& changing) {
  const FileFacts facts = FactsOf(inode);
  std::string name;
  if (StreamNumberOf(node) != 0) {
    ErrnoOr<NamedStream> stream = StreamOf(inode, node);
    if (!stream.ok()) return Errno(stream.error());
    name = std::move(stream->name);
  } else if (!S_ISREG(facts.mode)) {
    return Errno(S_ISDIR(facts.mode) ? EISDIR : EINVAL);
  }
  // Nobody here has the key.
  if ((facts.attributes & kAttributeEncrypted) != 0) return Errno(EPERM);
  changing = true;
  if (facts.wof && name.empty()) {
    if (int error = Unpack(inode, node)) return Errno(error);
  }
  ErrnoOr<Attribute> attribute = OpenAttribute(inode, AT_DATA, name);
  if (attribute.ok() || attribute.error() != ENOENT || !name.empty()) return attribute;
  errno = 0;
  if (ntfs_attr_add(inode, AT_DATA, AT_UNNAMED, 0, nullptr, 0) != 0) return Errno(ChangeErrno());
  return OpenAttribute(inode, AT_DATA, name);
}

// As Windows does it when somebody writes to such a file.
int NtfsTreeImpl::Unpack(ntfs_inode* inode, NodeId node) {
  ErrnoOr<std::shared_ptr<const DataMap>> map = MakeMap(inode, node);
  if (!map.ok()) return map.error();
  if ((*map)->kind() == DataMap::Kind::kWof) {
    ErrnoOr<Attribute> attribute = OpenAttribute(inode, AT_DATA, {});
    if (!attribute.ok()) return attribute.error();
    std::string buffer;
    for (uint64_t at = 0; at < (*map)->size(); at += buffer.size()) {
      buffer.resize(std::min<uint64_t>(kCopySize, (*map)->size() - at));
      if (int error = wof_.Read(volume_->device(), **map, at, absl::MakeSpan(buffer))) return error;
      if (int error = WriteAll(attribute->get(), at, buffer)) return error;
    }
  }
  std::string name = *Wtf8ToUtf16Le(kWofStreamName);
  std::vector<ntfschar> units(name.size() / 2);
  name.copy(reinterpret_cast<char*>(units.data()), name.size());
  errno = 0;
  if (ntfs_attr_remove(inode, AT_DATA, units.data(), static_cast<u32>(units.size())) != 0) return ChangeErrno();
  if (ntfs_remove_ntfs_reparse_data(inode) != 0) return ChangeErrno();
  maps_.Remove(node);
  return 0;
}

ErrnoOr<uint64_t> NtfsTreeImpl::SetAttributesLocked(NodeId node, const AttributeChanges& changes, bool& changing) {
  ErrnoOr<Inode> opened = OpenFile(node);
  if (!opened.ok()) return Errno(opened.error());
  ntfs_inode* inode = opened->get();
  const FileFacts facts = FactsOf(inode);
  if ((changes.uid && *changes.uid != options_.uid) || (changes.gid && *changes.gid != options_.gid)) {
    return Errno(EPERM);
  }
  if (changes.size) {
    if (*changes.size > kMaxFileSize) return Errno(EFBIG);
    ErrnoOr<Attribute> attribute = OpenData(inode, node, changing);
    if (!attribute.ok()) return Errno(attribute.error());
    if (int error = ResizeAttribute(attribute->get(), *changes.size)) return Errno(error);
    SetFlag(inode, FILE_ATTR_ARCHIVE, true);
    TouchData(inode);
    maps_.Remove(node);
  }
  changing = true;
  if (changes.mode && S_ISREG(facts.mode)) {
    // Of a directory Windows takes the bit for something else.
    SetFlag(inode, FILE_ATTR_READONLY, (*changes.mode & kWriteBits) == 0);
  }
  ntfs_inode_update_times(inode, NTFS_UPDATE_CTIME);
  const uint64_t now = WindowsTimeNow();
  if (changes.access_time || changes.access_time_now) {
    inode->last_access_time = cpu_to_sle64(changes.access_time_now ? now : ToWindowsTime(*changes.access_time));
  }
  if (changes.modification_time || changes.modification_time_now) {
    inode->last_data_change_time =
        cpu_to_sle64(changes.modification_time_now ? now : ToWindowsTime(*changes.modification_time));
  }
  NInoFileNameSetDirty(inode);
  ntfs_inode_mark_dirty(inode);
  if (int error = opened->Close()) return Errno(error);
  return node;
}

ErrnoOr<NodeAttributes> NtfsTreeImpl::SetAttributes(const Request& request, NodeId node,
                                                    const AttributeChanges& changes) {
  return Made(Change(request, Operation::kSetAttributes, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return SetAttributesLocked(node, changes, changing);
  }));
}

ErrnoOr<uint64_t> NtfsTreeImpl::WriteLocked(NodeId node, uint64_t offset, absl::Span<const char> data, bool& changing) {
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  {
    ErrnoOr<Attribute> attribute = OpenData(inode->get(), node, changing);
    if (!attribute.ok()) return Errno(attribute.error());
    if (int error = WriteAll(attribute->get(), offset, data)) return Errno(error);
    if (int error = Finish(attribute->get())) return Errno(error);
  }
  SetFlag(inode->get(), FILE_ATTR_ARCHIVE, true);
  TouchData(inode->get());
  maps_.Remove(node);
  if (int error = inode->Close()) return Errno(error);
  return data.size();
}

ErrnoOr<size_t> NtfsTreeImpl::Write(const Request& request, NodeId node, uint64_t offset, absl::Span<const char> data) {
  if (offset > kMaxFileSize || data.size() > kMaxFileSize - offset) return Errno(EFBIG);
  if (data.empty()) return size_t{0};
  ErrnoOr<uint64_t> done = Change(request, Operation::kWrite, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return WriteLocked(node, offset, data, changing);
  });
  if (!done.ok()) return Errno(done.error());
  return static_cast<size_t>(*done);
}

// Zeros take the place of what is punched out: the library cannot give clusters in the middle of a file back.
ErrnoOr<uint64_t> NtfsTreeImpl::AllocateLocked(NodeId node, int mode, uint64_t offset, uint64_t length,
                                               bool& changing) {
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  {
    ErrnoOr<Attribute> attribute = OpenData(inode->get(), node, changing);
    if (!attribute.ok()) return Errno(attribute.error());
    const auto old_size = static_cast<uint64_t>((*attribute)->data_size);
    const uint64_t end = offset + length;
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && end > old_size) {
      if (int error = ResizeAttribute(attribute->get(), end)) return Errno(error);
    }
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
      const std::string zeros(kCopySize, '\0');
      for (uint64_t at = offset; at < std::min(end, old_size);) {
        const uint64_t size = std::min<uint64_t>(zeros.size(), std::min(end, old_size) - at);
        if (int error = WriteAll(attribute->get(), at, absl::MakeConstSpan(zeros.data(), size))) return Errno(error);
        at += size;
      }
    }
    if (int error = Finish(attribute->get())) return Errno(error);
  }
  SetFlag(inode->get(), FILE_ATTR_ARCHIVE, true);
  TouchData(inode->get());
  maps_.Remove(node);
  if (int error = inode->Close()) return Errno(error);
  return uint64_t{0};
}

int NtfsTreeImpl::Allocate(const Request& request, NodeId node, int mode, uint64_t offset, uint64_t length) {
  if (read_only()) return EROFS;
  const bool known = mode == 0 || mode == FALLOC_FL_KEEP_SIZE ||
                     mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) || mode == FALLOC_FL_ZERO_RANGE ||
                     mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  if (!known) return EOPNOTSUPP;
  if (length == 0) return EINVAL;
  if (offset > kMaxFileSize || length > kMaxFileSize - offset) return EFBIG;
  return Change(request, Operation::kAllocate,
                [&](bool& changing)
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return AllocateLocked(node, mode, offset, length, changing); })
      .error();
}

}  // namespace libmount
