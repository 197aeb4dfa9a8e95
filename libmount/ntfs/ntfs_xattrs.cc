// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: extended attributes, under the names and in the binary forms of ntfs-3g (wim/image_xattrs.cc lists them);
// and system.ntfs_efsinfo of encrypted files, which a WIM keeps elsewhere.

#include <linux/limits.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"
#include "libmount/tree/xattr_names.h"

namespace libmount {
namespace {

// Windows allows no larger ones.
constexpr size_t kMaxSecurityDescriptor = 65536;

template <typename T>
std::string Bytes(std::initializer_list<T> values, bool big_endian) {
  std::string bytes;
  for (T value : values) big_endian ? AppendBe(value, bytes) : AppendLe(value, bytes);
  return bytes;
}

// A value that the library gives: asked for its size first, as getxattr(2).
template <typename Get>
ErrnoOr<std::string> FromLibrary(Get get, size_t max_size) {
  errno = 0;
  const int size = get(nullptr, 0);
  if (size < 0) return Errno(LibraryErrno() == ENOMEM ? ENOMEM : LibraryErrno() == ENODATA ? ENODATA : EIO);
  if (size == 0) return Errno(ENODATA);
  if (static_cast<size_t>(size) > max_size) return Errno(E2BIG);
  std::string value(static_cast<size_t>(size), '\0');
  errno = 0;
  const int got = get(value.data(), value.size());
  if (got < 0 || static_cast<size_t>(got) > value.size()) return Errno(LibraryErrno() == ENOMEM ? ENOMEM : EIO);
  value.resize(static_cast<size_t>(got));
  return value;
}

bool HasAttribute(ntfs_inode* inode, ATTR_TYPES type) {
  bool found = false;
  VisitAttributes(inode, type, [&](const ATTR_RECORD*, const MFT_RECORD*) {
    found = true;
    return false;
  });
  return found;
}

}  // namespace

ErrnoOr<std::string> NtfsTreeImpl::SecurityOf(ntfs_inode* inode) const {
  const bool listed = test_nino_flag(inode, v3_Extensions) && inode->security_id != const_cpu_to_le32(0);
  // The library makes one up where there is none.
  if (!listed && !HasAttribute(inode, AT_SECURITY_DESCRIPTOR)) return Errno(ENODATA);
  SECURITY_CONTEXT context = {};
  context.vol = volume_->raw();
  return FromLibrary([&](char* out, size_t size) { return ntfs_get_ntfs_acl(&context, inode, out, size); },
                     kMaxSecurityDescriptor);
}

// That of the name which FirstName tells; a name and its short name lie in the same directory.
ErrnoOr<std::string> NtfsTreeImpl::ShortNameOf(ntfs_inode* inode) const {
  std::string short_name;
  const int error = VisitNames(inode, [&](const FileName& name) {
    if (name.is_short()) short_name = Utf16LeToWtf8(name.name);
    return !name.is_short();
  });
  if (error != 0) return Errno(error);
  if (short_name.empty()) return Errno(ENODATA);
  return short_name;
}

ErrnoOr<std::string> NtfsTreeImpl::NtfsXattr(ntfs_inode* inode, const FileFacts& facts, std::string_view name) const {
  const uint32_t attributes = facts.attributes == 0 ? kAttributeNormal : facts.attributes;
  const uint64_t created = sle64_to_cpu(inode->creation_time);
  const uint64_t written = sle64_to_cpu(inode->last_data_change_time);
  const uint64_t accessed = sle64_to_cpu(inode->last_access_time);
  const uint64_t changed = sle64_to_cpu(inode->last_mft_change_time);
  if (name == "attrib" || name == "attrib_be") return Bytes({attributes}, name == "attrib_be");
  if (name == "crtime" || name == "crtime_be") return Bytes({created}, name == "crtime_be");
  if (name == "times" || name == "times_be") return Bytes({created, written, accessed, changed}, name == "times_be");
  if (name == "acl") return SecurityOf(inode);
  if (name == "dos_name") return ShortNameOf(inode);
  if (name == "reparse_data") {
    if ((facts.attributes & kAttributeReparsePoint) == 0) return Errno(ENODATA);
    return ReparsePointOf(inode);
  }
  if (name == "object_id") {
    return FromLibrary([&](char* out, size_t size) { return ntfs_get_ntfs_object_id(inode, out, size); },
                       XATTR_SIZE_MAX);
  }
  if (name == "ea") {
    return FromLibrary([&](char* out, size_t size) { return ntfs_get_ntfs_ea(inode, out, size); }, XATTR_SIZE_MAX);
  }
  if (name == "efsinfo" && (facts.attributes & kAttributeEncrypted) != 0) {
    return FromLibrary([&](char* out, size_t size) { return ntfs_get_efs_info(inode, out, size); }, XATTR_SIZE_MAX);
  }
  return Errno(ENODATA);
}

ErrnoOr<std::string> NtfsTreeImpl::GetXattr(NodeId node, std::string_view name) const {
  if (StreamNumberOf(node) != 0) return Errno(ENODATA);
  NodeId stream_node = 0;
  uint64_t stream_size = 0;
  {
    absl::MutexLock lock(&library_mutex());
    ErrnoOr<Inode> inode = OpenFile(node);
    if (!inode.ok()) return Errno(inode.error());
    const FileFacts facts = FactsOf(inode->get());
    if (name.starts_with(kNtfsXattrPrefix)) return NtfsXattr(inode->get(), facts, name.substr(kNtfsXattrPrefix.size()));
    if (!name.starts_with(kUserXattrPrefix)) return Errno(ENODATA);
    const std::optional<std::string> wanted = Wtf8ToUtf16Le(name.substr(kUserXattrPrefix.size()));
    ErrnoOr<std::vector<NamedStream>> streams = ShownStreams(inode->get(), facts);
    if (!streams.ok()) return Errno(streams.error());
    for (const NamedStream& stream : *streams) {
      if (!wanted || stream.name != *wanted) continue;
      stream_node = StreamNode(node, stream.number);
      stream_size = stream.size;
    }
  }
  if (stream_node == 0) return Errno(ENODATA);
  if (stream_size > XATTR_SIZE_MAX) return Errno(E2BIG);
  std::string value(stream_size, '\0');
  ErrnoOr<size_t> got = Read(stream_node, 0, absl::MakeSpan(value));
  if (!got.ok()) return Errno(got.error());
  value.resize(*got);
  return value;
}

ErrnoOr<std::vector<std::string>> NtfsTreeImpl::ListXattrs(NodeId node) const {
  if (StreamNumberOf(node) != 0) return std::vector<std::string>();
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  const FileFacts facts = FactsOf(inode->get());
  XattrNames names;
  // What is listed can be read.
  for (std::string_view name : {"acl", "dos_name", "reparse_data", "object_id", "ea", "efsinfo"}) {
    ErrnoOr<std::string> value = NtfsXattr(inode->get(), facts, name);
    if (value.ok()) names.AddNtfs(name, value->size());
  }
  if (S_ISREG(facts.mode) || S_ISDIR(facts.mode)) {
    ErrnoOr<std::vector<NamedStream>> streams = ShownStreams(inode->get(), facts);
    if (!streams.ok()) return Errno(streams.error());
    for (const NamedStream& stream : *streams) names.Add(kUserXattrPrefix, Utf16LeToWtf8(stream.name), stream.size);
  }
  return names.Take();
}

}  // namespace libmount
