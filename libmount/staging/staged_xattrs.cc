// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: extended attributes, in the names and forms of wim/image_xattrs.cc.

#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/security.h"
#include "libmount/staging/staged_tree_impl.h"
#include "libmount/tree/reparse.h"
#include "libmount/tree/tagged_items.h"
#include "libmount/tree/xattr_names.h"

namespace libmount {
namespace {

constexpr size_t kReparseHeaderSize = 8;

// What cannot be set as an attribute: it follows from what the file is.
constexpr uint32_t kFixedAttributes =
    kAttributeDirectory | kAttributeReparsePoint | kAttributeDevice | kAttributeEncrypted;

bool StartsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

template <typename T>
std::string Bytes(std::initializer_list<T> values, bool big_endian) {
  std::string bytes;
  for (T value : values) big_endian ? AppendBe(value, bytes) : AppendLe(value, bytes);
  return bytes;
}

template <typename T>
T LoadNumber(std::string_view bytes, bool big_endian) {
  if (!big_endian) return LoadLe<T>(bytes.data());
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | static_cast<uint8_t>(bytes[i]));
  return value;
}

// "_be" off the end.
bool TakeBigEndian(std::string_view& name) {
  constexpr std::string_view kSuffix = "_be";
  if (name.size() <= kSuffix.size() || name.substr(name.size() - kSuffix.size()) != kSuffix) return false;
  name.remove_suffix(kSuffix.size());
  return true;
}

ErrnoOr<std::string> OrNoData(std::string value) {
  if (value.empty()) return Errno(ENODATA);
  return value;
}

bool IsShortName(std::string_view name) {
  constexpr std::string_view kForbidden = "\"*+,/:;<=>?[\\]|. ";
  const size_t dot = name.find('.');
  const std::string_view stem = name.substr(0, dot);
  const std::string_view extension = dot == name.npos ? std::string_view() : name.substr(dot + 1);
  auto good = [&](std::string_view part) {
    return std::all_of(part.begin(), part.end(), [&](char c) {
      return static_cast<uint8_t>(c) > ' ' && static_cast<uint8_t>(c) < 0x7f && kForbidden.find(c) == kForbidden.npos;
    });
  };
  if (stem.empty() || stem.size() > 8 || extension.size() > 3) return false;
  return (dot == name.npos || !extension.empty()) && good(stem) && good(extension);
}

}  // namespace

ErrnoOr<std::string> StagedTreeImpl::ReparseDataOf(const Node& node) const {
  if (node.reparse_staged) return node.reparse_data;
  if (node.reparse_size > kMaxReparseData) return Errno(EIO);
  std::string data(node.reparse_size, '\0');
  if (data.empty()) return data;
  if (int error = blobs_->ReadBlob(node.reparse_hash, 0, absl::MakeSpan(data))) return Errno(error);
  return data;
}

ErrnoOr<std::string> StagedTreeImpl::NtfsXattr(NodeId file, const Node& node, std::string_view name) const {
  const bool big_endian = TakeBigEndian(name);
  if (name == "attrib") return Bytes({node.attributes == 0 ? kAttributeNormal : node.attributes}, big_endian);
  if (name == "crtime") return Bytes({node.creation_time}, big_endian);
  if (name == "times") {
    return Bytes({node.creation_time, node.write_time, node.access_time, node.change_time}, big_endian);
  }
  if (big_endian) return Errno(ENODATA);
  if (name == "acl") return OrNoData(node.security == nullptr ? std::string() : *node.security);
  if (name == "dos_name") return OrNoData(catalog_.FindName(file).short_name);
  if (name == "object_id") {
    return OrNoData(std::string(FindTaggedItem(node.tagged_items, kTagObjectId, kObjectIdMinSize)));
  }
  if (name == "ea") return OrNoData(NtfsEas(node.tagged_items));
  if (name != "reparse_data" || !node.has_reparse_point()) return Errno(ENODATA);
  ErrnoOr<std::string> data = ReparseDataOf(node);
  if (!data.ok()) return data;
  std::string whole;
  AppendLe(node.reparse_tag, whole);
  AppendLe(static_cast<uint16_t>(data->size()), whole);
  AppendLe(node.reparse_reserved, whole);
  return whole + *data;
}

ErrnoOr<std::string> StagedTreeImpl::GetXattr(NodeId id, std::string_view name) const {
  absl::ReaderMutexLock lock(&mutex_);
  ErrnoOr<Target> target = Find(id);
  if (!target.ok()) return Errno(target.error());
  if (target->node == nullptr) return base_tree_->GetXattr(id, name);
  if (target->stream_id != 0) return Errno(ENODATA);
  const Node& node = *target->node;
  if (StartsWith(name, kNtfsXattrPrefix)) return NtfsXattr(id, node, name.substr(kNtfsXattrPrefix.size()));
  if (StartsWith(name, kUserXattrPrefix)) {
    for (const Stream& stream : node.streams) {
      if (stream.name.empty() || stream.name != name.substr(kUserXattrPrefix.size())) continue;
      if (stream.size > XATTR_SIZE_MAX) return Errno(E2BIG);
      std::string value(stream.size, '\0');
      std::vector<Segment> blob_parts;
      ErrnoOr<size_t> got = ReadStream(stream, 0, absl::MakeSpan(value), blob_parts);
      if (!got.ok()) return Errno(got.error());
      if (int error = ReadBlobParts(stream.hash, blob_parts, 0, absl::MakeSpan(value))) return Errno(error);
      return value;
    }
  }
  const std::optional<std::string_view> found = FindLinuxXattr(node.tagged_items, name);
  if (!found) return Errno(ENODATA);
  return std::string(*found);
}

ErrnoOr<std::vector<std::string>> StagedTreeImpl::ListXattrs(NodeId id) const {
  absl::ReaderMutexLock lock(&mutex_);
  ErrnoOr<Target> target = Find(id);
  if (!target.ok()) return Errno(target.error());
  if (target->node == nullptr) return base_tree_->ListXattrs(id);
  if (target->stream_id != 0) return std::vector<std::string>();
  const Node& node = *target->node;
  XattrNames names;
  if (node.security != nullptr) names.AddNtfs("acl", node.security->size());
  if (!catalog_.FindName(id).short_name.empty()) names.AddNtfs("dos_name", 0);
  if (node.has_reparse_point()) names.AddNtfs("reparse_data", 0);
  names.AddNtfsItems(node.tagged_items);
  const uint32_t mode = node.mode();
  const bool user_readable = S_ISREG(mode) || S_ISDIR(mode);
  for (const Stream& stream : node.streams) {
    if (user_readable && !stream.name.empty()) names.Add(kUserXattrPrefix, stream.name, stream.size);
  }
  names.AddLinuxXattrs(node.tagged_items, user_readable, options_.uid == 0);
  return names.Take();
}

// --- changing

int StagedTreeImpl::DescribeReparse(const Target& target, std::optional<std::string_view> value, EditWriter& edits) {
  const Node& node = *target.node;
  uint32_t attributes = node.attributes & ~kAttributeReparsePoint;
  uint32_t tag = 0;
  uint16_t reserved = 0;
  std::string_view data;
  if (value) {
    if (value->size() < kReparseHeaderSize || value->size() > kMaxReparseData + kReparseHeaderSize) return EINVAL;
    tag = LoadLe32(value->data());
    reserved = LoadLe16(value->data() + 6);
    data = value->substr(kReparseHeaderSize);
    if (tag == 0 || LoadLe16(value->data() + 4) != data.size()) return EINVAL;
    if (IsLinkTag(tag) && !LinkText(tag, data)) return EINVAL;
    attributes |= kAttributeReparsePoint;
  }
  // A link to a directory has no entries; without its reparse point it is an empty directory again.
  const bool was_directory = node.is_directory();
  const bool will_be = (attributes & kAttributeDirectory) != 0 && !IsLinkTag(tag);
  if (was_directory && !will_be) {
    if (target.file == kRootNode) return EBUSY;
    if (!IsEmptyDirectory(target.file)) return ENOTEMPTY;
  }
  if (!was_directory && will_be && node.link_count != 1) return EINVAL;
  edits.Op(Edit::kMeta).Number(target.file).Number(kMetaAttributes | kMetaReparse).Number(attributes);
  edits.Number(tag).Number(reserved).Text(data);
  return 0;
}

int StagedTreeImpl::DescribeShortName(NodeId file, std::string_view value, EditWriter& edits) {
  if (!value.empty() && value.back() == '\0') value.remove_suffix(1);
  if (!value.empty() && !IsShortName(value)) return EINVAL;
  const Catalog::Name name = catalog_.FindName(file);
  if (name.directory == 0) return EINVAL;
  const Directory* entries = catalog_.Entries(name.directory);
  if (entries == nullptr) return EIO;
  if (!value.empty()) {
    const Directory::Found taken = entries->Find(value);
    if (taken.item != nullptr && taken.cookie != name.cookie) return EEXIST;
  }
  edits.Op(Edit::kShortName).Number(name.directory).Number(name.cookie).Text(value);
  return 0;
}

int StagedTreeImpl::DescribeStreamXattr(const Target& target, std::string_view name,
                                        std::optional<std::string_view> value, EditWriter& edits) {
  const Node& node = *target.node;
  const std::string linux_name = std::string(kUserXattrPrefix).append(name);
  std::string tagged_items = RemoveLinuxXattr(node.tagged_items, linux_name);
  if (tagged_items != node.tagged_items) {
    edits.Op(Edit::kMeta).Number(target.file).Number(kMetaTaggedItems).Text(tagged_items);
  }
  const Stream* stream = nullptr;
  for (const Stream& candidate : node.streams) {
    if (!candidate.name.empty() && candidate.name == name) stream = &candidate;
  }
  if (!value) {
    if (stream != nullptr) edits.Op(Edit::kDropStream).Number(target.file).Number(stream->id);
    return 0;
  }
  NodeId id = stream == nullptr ? 0 : stream->id;
  if (stream == nullptr) {
    if (name.find(':') != name.npos) return EINVAL;
    if (int error = CheckName(name)) return error;
    if (StreamOf(target.file, name).node != 0) return EEXIST;  // of the same name in other case
    id = catalog_.next_node();
    edits.Op(Edit::kNewStream).Number(target.file).Number(id).Text(name);
  } else {
    edits.Op(Edit::kSize).Number(target.file).Number(id).Number(0);
  }
  // Never in place: until the record is written, the old value is the value.
  const Target fresh{target.file, id, target.node, nullptr};
  return StageData(fresh, 0, absl::MakeConstSpan(value->data(), value->size()), edits);
}

int StagedTreeImpl::DescribeXattr(const Target& target, std::string_view name, std::optional<std::string_view> value,
                                  EditWriter& edits) {
  const Node& node = *target.node;
  if (StartsWith(name, kUserXattrPrefix))
    return DescribeStreamXattr(target, name.substr(kUserXattrPrefix.size()), value, edits);
  if (!StartsWith(name, kNtfsXattrPrefix)) {
    // Other xattrs of Linux that came with the image can go.
    if (value) return EOPNOTSUPP;
    edits.Op(Edit::kMeta).Number(target.file).Number(kMetaTaggedItems).Text(RemoveLinuxXattr(node.tagged_items, name));
    return 0;
  }
  name.remove_prefix(kNtfsXattrPrefix.size());
  if (name == "reparse_data") return DescribeReparse(target, value, edits);
  if (name == "dos_name") return DescribeShortName(target.file, value.value_or(std::string_view()), edits);
  if (name == "acl") {
    if (!value) {
      edits.Op(Edit::kMeta).Number(target.file).Number(kMetaSecurity).Number(0);
      return 0;
    }
    if (!IsSecurityDescriptor(*value)) return EINVAL;
    Node changed;
    changed.security = catalog_.Intern(*value);
    AppendMeta(target.file, changed, kMetaSecurity, catalog_.security_table(), edits);
    return 0;
  }
  if (name == "object_id" || name == "ea") {
    std::string tagged_items;
    if (name == "ea") {
      std::optional<std::string> with_eas = ReplaceNtfsEas(node.tagged_items, value.value_or(std::string_view()));
      if (!with_eas) return EINVAL;
      tagged_items = *std::move(with_eas);
    } else {
      if (value && value->size() != kObjectIdMinSize && value->size() != kObjectIdMaxSize) return EINVAL;
      tagged_items = ReplaceTaggedItem(node.tagged_items, kTagObjectId, value.value_or(std::string_view()));
    }
    edits.Op(Edit::kMeta).Number(target.file).Number(kMetaTaggedItems).Text(tagged_items);
    return 0;
  }
  const bool big_endian = TakeBigEndian(name);
  if (!value) return EOPNOTSUPP;  // attributes and times are always there
  if (name == "attrib") {
    if (value->size() != sizeof(uint32_t)) return EINVAL;
    uint32_t attributes = LoadNumber<uint32_t>(*value, big_endian) & ~kFixedAttributes;
    attributes |= node.attributes & kFixedAttributes;
    if (attributes != kAttributeNormal) attributes &= ~kAttributeNormal;
    edits.Op(Edit::kMeta).Number(target.file).Number(kMetaAttributes).Number(attributes);
    return 0;
  }
  if (name != "crtime" && name != "times") return EOPNOTSUPP;
  // Creation, write, access; a change time behind them is ntfs-3g's to give, not to take.
  const size_t count = value->size() / sizeof(uint64_t);
  if (value->size() % sizeof(uint64_t) != 0 || count == 0 || count > (name == "crtime" ? 1 : 4)) return EINVAL;
  auto time = [&](size_t i) { return LoadNumber<uint64_t>(value->substr(8 * i), big_endian); };
  for (size_t i = 0; i < count; ++i) {
    if (time(i) > INT64_MAX) return EINVAL;
  }
  uint32_t mask = kMetaCreationTime;
  if (count > 1) mask |= kMetaWriteTime;
  if (count > 2) mask |= kMetaAccessTime;
  edits.Op(Edit::kMeta).Number(target.file).Number(mask).Number(time(0));
  if (count > 2) edits.Number(time(2));
  if (count > 1) edits.Number(time(1));
  return 0;
}

bool StagedTreeImpl::HasXattr(NodeId file, const Node& node, std::string_view name) const {
  if (StartsWith(name, kNtfsXattrPrefix)) return NtfsXattr(file, node, name.substr(kNtfsXattrPrefix.size())).ok();
  bool found = false;
  for (const Stream& stream : node.streams) {
    found |= StartsWith(name, kUserXattrPrefix) && !stream.name.empty() &&
             stream.name == name.substr(kUserXattrPrefix.size());
  }
  VisitLinuxXattrs(node.tagged_items, [&](const ExtendedAttribute& attribute) {
    found |= attribute.name == name;
    return !found;
  });
  return found;
}

int StagedTreeImpl::ChangeXattr(const Request& request, Operation operation, NodeId id, std::string_view name,
                                std::optional<std::string_view> value, int flags) {
  absl::MutexLock file_lock(FileLock(id));
  absl::MutexLock lock(&mutex_);
  if (Repeated(request, operation) != nullptr) return 0;
  ErrnoOr<Target> target = FindForChange(id);
  if (!target.ok()) return target.error();
  if (target->stream_id != 0) return value ? EOPNOTSUPP : ENODATA;
  const bool exists = HasXattr(id, *target->node, name);
  if (value && exists && (flags & XATTR_CREATE) != 0) return EEXIST;
  if (!exists && (!value || (flags & XATTR_REPLACE) != 0)) return ENODATA;
  EditWriter edits;
  if (int error = DescribeXattr(*target, name, value, edits)) return error;
  edits.Op(Edit::kMeta).Number(id).Number(kMetaChangeTime).Number(WindowsNow());
  return Commit(request.id, operation, 0, edits);
}

int StagedTreeImpl::SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value,
                             int flags) {
  if (value.size() > XATTR_SIZE_MAX) return E2BIG;
  return ChangeXattr(request, Operation::kSetXattr, node, name, value, flags);
}

int StagedTreeImpl::RemoveXattr(const Request& request, NodeId node, std::string_view name) {
  return ChangeXattr(request, Operation::kRemoveXattr, node, name, std::nullopt, 0);
}

}  // namespace libmount
