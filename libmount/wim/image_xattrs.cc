// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageTree: extended attributes, under the names and in the binary forms of ntfs-3g.
//
//   system.ntfs_attrib         u32 Windows attributes (.._be: big endian)
//   system.ntfs_times          u64 creation, write, access, change (.._be); system.ntfs_crtime: the first alone
//   system.ntfs_acl            security descriptor, self-relative
//   system.ntfs_dos_name       short name, UTF-8
//   system.ntfs_reparse_data   reparse point with its header
//   system.ntfs_object_id      object id: 16 bytes, or 64
//   system.ntfs_ea             EAs (see tree/tagged_items.h)
//   user.NAME                  a named data stream
//
// A Linux image keeps its own extended attributes where a Windows image keeps EAs; what has a name of Linux (user.*,
// security.*, ...) is shown as that.

#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/xattr_names.h"
#include "libmount/wim/image_tree.h"

namespace libmount {
namespace {

bool StartsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

ErrnoOr<std::string> OrNoData(std::string value) {
  if (value.empty()) return Errno(ENODATA);
  return value;
}

template <typename T>
std::string Bytes(std::initializer_list<T> values, bool big_endian) {
  std::string bytes;
  for (T value : values) big_endian ? AppendBe(value, bytes) : AppendLe(value, bytes);
  return bytes;
}

uint32_t NtfsAttributes(const MetadataInode& inode) {
  return inode.attributes == 0 ? kAttributeNormal : inode.attributes;
}

}  // namespace

ErrnoOr<std::string> ImageTree::NtfsXattr(const MetadataInode& inode, std::string_view name) const {
  const MetadataExtra* extra = image_.Extra(inode);
  const std::string_view tagged_items = extra == nullptr ? std::string_view() : image_.Text(extra->tagged_items);
  name.remove_prefix(kNtfsXattrPrefix.size());
  if (name == "attrib" || name == "attrib_be") return Bytes({NtfsAttributes(inode)}, name == "attrib_be");
  if (name == "crtime" || name == "crtime_be") return Bytes({inode.creation_time}, name == "crtime_be");
  if (name == "times" || name == "times_be") {
    // A WIM has no time of change; what writes to the data changes the file.
    return Bytes({inode.creation_time, inode.write_time, inode.access_time, inode.write_time}, name == "times_be");
  }
  if (name == "acl") {
    if (inode.security == kNone) return Errno(ENODATA);
    return std::string(image_.Text(image_.security[inode.security]));
  }
  if (name == "dos_name") return OrNoData(std::string(image_.ShortName(image_.entries[inode.first_entry])));
  if (extra == nullptr) return Errno(ENODATA);
  if (name == "reparse_data") {
    if (!(inode.attributes & kAttributeReparsePoint)) return Errno(ENODATA);
    ErrnoOr<std::string> data = ReparseDataOf(inode);
    if (!data.ok()) return data;
    std::string whole;
    AppendLe(extra->reparse_tag, whole);
    AppendLe(static_cast<uint16_t>(data->size()), whole);
    AppendLe(extra->reparse_reserved, whole);
    return whole + *data;
  }
  if (name == "object_id") {
    return OrNoData(std::string(FindTaggedItem(tagged_items, kTagObjectId, kObjectIdMinSize)));
  }
  if (name == "ea") return OrNoData(NtfsEas(tagged_items));
  return Errno(ENODATA);
}

ErrnoOr<std::string> ImageTree::StreamXattr(const MetadataInode& inode, std::string_view name) const {
  const MetadataExtra& extra = image_.extras[inode.extra];
  for (uint32_t i = 0; i < extra.stream_count; ++i) {
    const MetadataStream& stream = image_.streams[extra.first_stream + i];
    if (image_.Text(stream.name) != name) continue;
    const uint64_t size = BlobSize(stream.blob);
    if (size > XATTR_SIZE_MAX) return Errno(E2BIG);
    std::string value(size, '\0');
    if (stream.blob == kNoBlob) return value;
    if (int error = ReadBlob(stream.blob, 0, absl::MakeSpan(value))) return Errno(error);
    return value;
  }
  return Errno(ENODATA);
}

ErrnoOr<std::string> ImageTree::GetXattr(NodeId id, std::string_view name) const {
  std::optional<Node> node = FindNode(id);
  if (!node) return Errno(ENOENT);
  if (node->stream != nullptr) return Errno(ENODATA);
  const MetadataInode& inode = *node->inode;
  if (StartsWith(name, kNtfsXattrPrefix)) return NtfsXattr(inode, name);
  const MetadataExtra* extra = image_.Extra(inode);
  if (extra == nullptr) return Errno(ENODATA);
  if (StartsWith(name, kUserXattrPrefix)) {
    ErrnoOr<std::string> stream = StreamXattr(inode, name.substr(kUserXattrPrefix.size()));
    if (stream.ok() || stream.error() != ENODATA) return stream;
  }
  const std::optional<std::string_view> found = FindLinuxXattr(image_.Text(extra->tagged_items), name);
  if (!found) return Errno(ENODATA);
  return std::string(*found);
}

ErrnoOr<std::vector<std::string>> ImageTree::ListXattrs(NodeId id) const {
  std::optional<Node> node = FindNode(id);
  if (!node) return Errno(ENOENT);
  if (node->stream != nullptr) return std::vector<std::string>();
  const MetadataInode& inode = *node->inode;
  XattrNames names;
  if (inode.security != kNone) names.AddNtfs("acl", image_.security[inode.security].size);
  if (image_.entries[inode.first_entry].short_name_size > 0) names.AddNtfs("dos_name", 0);
  const MetadataExtra* extra = image_.Extra(inode);
  if (extra == nullptr) return names.Take();

  const std::string_view tagged_items = image_.Text(extra->tagged_items);
  if (inode.attributes & kAttributeReparsePoint) names.AddNtfs("reparse_data", 0);
  names.AddNtfsItems(tagged_items);
  const uint32_t mode = ModeOf(inode);
  const bool user_readable = S_ISREG(mode) || S_ISDIR(mode);
  for (uint32_t i = 0; user_readable && i < extra->stream_count; ++i) {
    const MetadataStream& stream = image_.streams[extra->first_stream + i];
    names.Add(kUserXattrPrefix, image_.Text(stream.name), BlobSize(stream.blob));
  }
  names.AddLinuxXattrs(tagged_items, user_readable, options_.uid == 0);
  return names.Take();
}

}  // namespace libmount
