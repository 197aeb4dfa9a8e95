// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: changing data, sizes, permissions and times.

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"
#include "libmount/ntfs/cluster_ranges.h"
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

int WriteZeros(ntfs_attr* attribute, uint64_t offset, uint64_t end) {
  if (offset >= end) return 0;
  const std::string zeros(std::min<uint64_t>(kCopySize, end - offset), '\0');
  while (offset < end) {
    const size_t size = std::min<uint64_t>(zeros.size(), end - offset);
    if (int error = WriteAll(attribute, offset, absl::MakeConstSpan(zeros.data(), size))) return error;
    offset += size;
  }
  return 0;
}

// Of what lies within one cluster.
int ZeroPart(ntfs_attr* attribute, uint64_t offset, uint64_t end) {
  end = std::min(end, static_cast<uint64_t>(attribute->initialized_size));
  if (offset >= end) return 0;
  ErrnoOr<bool> there = HasCluster(attribute, offset >> attribute->ni->vol->cluster_size_bits);
  if (!there.ok()) return there.error();
  return *there ? WriteZeros(attribute, offset, end) : 0;
}

int AllocateRange(ntfs_attr* attribute, int mode, uint64_t offset, uint64_t end) {
  // What is compressed takes room as it is written.
  if ((DataFlagsOf(attribute) & kDataCompressed) != 0) return EOPNOTSUPP;
  if (end > static_cast<uint64_t>(attribute->data_size)) {
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) {
      if (int error = ResizeAttribute(attribute, end)) return error;
    } else if (!NAttrNonResident(attribute)) {
      errno = 0;
      if (ntfs_attr_force_non_resident(attribute) != 0) return ChangeErrno();
    }
  }
  if (!NAttrNonResident(attribute)) return 0;  // it has its room in the file's record
  const int bits = attribute->ni->vol->cluster_size_bits;
  return AllocateClusters(attribute, offset >> bits, ((end - 1) >> bits) + 1);
}

// Clusters that lie wholly in the range become a hole; at its ends zeros are written where there is data.
int ZeroRange(ntfs_attr* attribute, uint64_t offset, uint64_t end) {
  const auto size = static_cast<uint64_t>(attribute->data_size);
  if (offset >= size) return 0;
  const bool to_the_end = end >= size;
  end = std::min(end, size);
  if (!NAttrNonResident(attribute) || (DataFlagsOf(attribute) & kDataCompressed) != 0) {
    if (int error = WriteZeros(attribute, offset, end)) return error;
    return Finish(attribute);
  }
  const int bits = attribute->ni->vol->cluster_size_bits;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  const uint64_t first = (offset + mask) >> bits;
  const uint64_t behind = (to_the_end ? end + mask : end) >> bits;
  if (int error = ZeroPart(attribute, offset, std::min(first << bits, end))) return error;
  if (behind >= first) {
    if (int error = ZeroPart(attribute, std::max(offset, behind << bits), end)) return error;
  }
  return behind > first ? FreeClusters(attribute, first, behind) : 0;
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

ErrnoOr<uint64_t> NtfsTreeImpl::ChangeAllocation(NodeId node, int mode, uint64_t offset, uint64_t length,
                                                 bool& changing) {
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  {
    ErrnoOr<Attribute> attribute = OpenData(inode->get(), node, changing);
    if (!attribute.ok()) return Errno(attribute.error());
    const uint64_t end = offset + length;
    int error = 0;
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0) {
      error = AllocateRange(attribute->get(), mode, offset, end);
    } else {
      error = ZeroRange(attribute->get(), offset, end);
      const bool grows = (mode & FALLOC_FL_KEEP_SIZE) == 0 && end > static_cast<uint64_t>((*attribute)->data_size);
      if (error == 0 && grows) error = ResizeAttribute(attribute->get(), end);
    }
    if (error != 0) return Errno(error);
  }
  SetFlag(inode->get(), FILE_ATTR_ARCHIVE, true);
  TouchData(inode->get());
  maps_.Remove(node);
  if (int error = inode->Close()) return Errno(error);
  return uint64_t{0};
}

int NtfsTreeImpl::Allocate(const Request& request, NodeId node, int mode, uint64_t offset, uint64_t length) {
  if (read_only()) return EROFS;
  const bool known = mode == 0 || mode == FALLOC_FL_KEEP_SIZE || mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
                     mode == FALLOC_FL_ZERO_RANGE || mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  if (!known) return EOPNOTSUPP;
  if (length == 0) return EINVAL;
  if (offset > kMaxFileSize || length > kMaxFileSize - offset) return EFBIG;
  return Change(request, Operation::kAllocate,
                [&](bool& changing)
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return ChangeAllocation(node, mode, offset, length, changing); })
      .error();
}

}  // namespace libmount
