// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: changing extended attributes.

#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"
#include "libmount/tree/names.h"
#include "libmount/tree/security.h"
#include "libmount/tree/xattr_names.h"

namespace libmount {
namespace {

constexpr size_t kReparseHeaderSize = 8;

bool TakeBigEndian(std::string_view& name) {
  constexpr std::string_view kSuffix = "_be";
  if (name.size() <= kSuffix.size() || name.substr(name.size() - kSuffix.size()) != kSuffix) return false;
  name.remove_suffix(kSuffix.size());
  return true;
}

template <typename T>
T LoadNumber(std::string_view bytes, bool big_endian) {
  T value = LoadLe<T>(bytes.data());
  if (!big_endian) return value;
  std::string turned(bytes.substr(0, sizeof(T)));
  std::reverse(turned.begin(), turned.end());
  return LoadLe<T>(turned.data());
}

// What the library's functions tell.
int Result(int result) { return result == 0 ? 0 : ChangeErrno(); }

}  // namespace

int NtfsTreeImpl::SetReparsePoint(ntfs_inode* inode, std::string_view point) {
  errno = 0;
  return Result(ntfs_set_ntfs_reparse_data(inode, point.data(), point.size(), 0));
}

int NtfsTreeImpl::CheckReparsePoint(ntfs_inode* inode, std::string_view value) const {
  if (value.size() < kReparseHeaderSize || value.size() > kMaxReparseData + kReparseHeaderSize) return EINVAL;
  const uint32_t tag = LoadLe32(value.data());
  const std::string_view data = value.substr(kReparseHeaderSize);
  if (tag == 0 || LoadLe16(value.data() + 4) != data.size()) return EINVAL;
  if (IsLinkTag(tag) && !DecodeLink(tag, data)) return EINVAL;
  if (!IsDirectory(inode)) return 0;
  if (inode->mft_no == kRootRecord) return EBUSY;
  ErrnoOr<bool> empty = IsEmptyDirectory(libmount::ReferenceOf(inode));
  if (!empty.ok()) return empty.error();
  return *empty ? 0 : ENOTEMPTY;
}

int NtfsTreeImpl::SetTimes(ntfs_inode* inode, std::string_view value, size_t max_count, bool big_endian) {
  // Creation, write, access; a change time behind them is ntfs-3g's to give, not to take.
  const size_t count = value.size() / sizeof(uint64_t);
  if (value.size() % sizeof(uint64_t) != 0 || count == 0 || count > max_count) return EINVAL;
  auto time = [&](size_t i) { return LoadNumber<uint64_t>(value.substr(8 * i), big_endian); };
  for (size_t i = 0; i < count; ++i) {
    if (time(i) > INT64_MAX) return EINVAL;
  }
  inode->creation_time = cpu_to_sle64(time(0));
  if (count > 1) inode->last_data_change_time = cpu_to_sle64(time(1));
  if (count > 2) inode->last_access_time = cpu_to_sle64(time(2));
  return 0;
}

// A file has one short name. It stays with the name that has it; else the first gets it.
ErrnoOr<NtfsTreeImpl::NamesForShort> NtfsTreeImpl::ChooseForShort(ntfs_inode* inode) {
  std::vector<OwnedFileName> long_names;
  std::vector<uint8_t> spaces;
  std::vector<FileReference> short_names;  // their directories
  const int error = VisitNames(inode, [&](const FileName& name) {
    if (name.is_short()) {
      short_names.push_back(name.directory);
    } else {
      long_names.push_back({name.directory, std::string(name.name)});
      spaces.push_back(name.name_space);
    }
    return true;
  });
  if (error != 0) return Errno(error);
  if (long_names.empty()) return Errno(EINVAL);
  size_t chosen = 0;
  for (size_t i = 0; i < long_names.size() && !short_names.empty(); ++i) {
    if (spaces[i] == FILE_NAME_WIN32 && long_names[i].directory == short_names[0]) chosen = i;
  }
  NamesForShort names = {long_names[chosen], {}};
  for (size_t i = 0; i < long_names.size(); ++i) {
    if (i == chosen) continue;
    // With a short name of its own, which the library would confuse with the other one's.
    if (spaces[i] == FILE_NAME_WIN32 || short_names.size() > 1) return Errno(EOPNOTSUPP);
    names.others.push_back(std::move(long_names[i]));
  }
  return names;
}

// The library does it for files of one name alone: the others are taken away meanwhile.
int NtfsTreeImpl::SetShortName(Inode& inode, std::optional<std::string_view> value) {
  if (value && !value->empty() && value->back() == '\0') value->remove_suffix(1);
  const FileReference file = libmount::ReferenceOf(inode.get());
  if (orphans_.contains(NodeOf(file))) return EOPNOTSUPP;  // its name is ours
  ErrnoOr<NamesForShort> names = ChooseForShort(inode.get());
  if (!names.ok()) return names.error();
  if (int error = inode.Close()) return error;
  for (const OwnedFileName& other : names->others) {
    ErrnoOr<uint64_t> removed = RemoveEntry(NodeOf(other.directory), file, other.name);
    if (!removed.ok()) return removed.error();
  }
  if (int error = SetOnlyShortName(file, names->chosen.directory, value)) return error;
  for (const OwnedFileName& other : names->others) {
    if (int error = LinkInto(file, NodeOf(other.directory), other.name)) return error;
  }
  return 0;
}

int NtfsTreeImpl::SetOnlyShortName(FileReference file, FileReference parent, std::optional<std::string_view> value) {
  ErrnoOr<Inode> inode = volume_->Open(file);
  if (!inode.ok()) return inode.error();
  ErrnoOr<Inode> directory = volume_->Open(parent);
  if (!directory.ok()) return directory.error();
  if (value && !value->empty()) {
    ErrnoOr<std::optional<DirectoryIndex::Found>> taken = FindEntry(directory->get(), *value);
    if (!taken.ok()) return taken.error();
    if (taken->has_value() && (*taken)->file != file) return EEXIST;
  }
  TouchDirectory(directory->get());
  // The library closes both.
  ntfs_inode* raw = inode->Release();
  ntfs_inode* raw_directory = directory->Release();
  errno = 0;
  if (!value || value->empty()) return Result(ntfs_remove_ntfs_dos_name(raw, raw_directory));
  return Result(ntfs_set_ntfs_dos_name(raw, raw_directory, value->data(), value->size(), 0));
}

int NtfsTreeImpl::SetStream(ntfs_inode* inode, std::string_view name, std::optional<std::string_view> value) {
  const std::optional<std::string> utf16 = Wtf8ToUtf16Le(name);
  if (!utf16 || name.find(':') != name.npos) return EINVAL;
  if (int error = CheckName(name)) return error;
  const NodeId file = NodeOf(libmount::ReferenceOf(inode));
  ErrnoOr<std::vector<NamedStream>> streams = NamedStreams(inode);
  if (!streams.ok()) return streams.error();
  bool exists = false;
  for (const NamedStream& stream : *streams) {
    exists = exists || stream.name == *utf16;
    maps_.Remove(StreamNode(file, stream.number));
    if (stream.name != *utf16 && value && EqualFolded(Utf16LeToWtf8(stream.name), name)) return EEXIST;
  }
  std::vector<ntfschar> units(utf16->size() / 2);
  utf16->copy(reinterpret_cast<char*>(units.data()), utf16->size());
  errno = 0;
  if (!value) {
    if (ntfs_attr_remove(inode, AT_DATA, units.data(), static_cast<u32>(units.size())) != 0) return ChangeErrno();
    return 0;
  }
  if (!exists) {
    if (int error = AddStream(inode, *utf16)) return error;
  }
  ErrnoOr<Attribute> attribute = OpenAttribute(inode, AT_DATA, *utf16);
  if (!attribute.ok()) return attribute.error();
  if (ntfs_attr_truncate(attribute->get(), 0) != 0) return ChangeErrno();
  if (value->empty()) return 0;
  const s64 put = ntfs_attr_pwrite(attribute->get(), 0, static_cast<s64>(value->size()), value->data());
  if (put < 0) return ChangeErrno();
  return put == static_cast<s64>(value->size()) ? 0 : EIO;
}

int NtfsTreeImpl::SetNtfsXattr(Inode& inode, std::string_view name, std::optional<std::string_view> value) {
  ntfs_inode* raw = inode.get();
  SECURITY_CONTEXT context = {};
  context.vol = volume_->raw();
  errno = 0;
  if (name == "reparse_data") {
    link_texts_.erase(NodeOf(libmount::ReferenceOf(raw)));
    return value ? SetReparsePoint(raw, *value) : Result(ntfs_remove_ntfs_reparse_data(raw));
  }
  if (name == "dos_name") return SetShortName(inode, value);
  if (name == "object_id") {
    if (!value) return Result(ntfs_remove_ntfs_object_id(raw));
    return Result(ntfs_set_ntfs_object_id(raw, value->data(), value->size(), 0));
  }
  if (name == "ea") {
    if (!value) return Result(ntfs_remove_ntfs_ea(raw));
    return Result(ntfs_set_ntfs_ea(raw, value->data(), value->size(), 0));
  }
  if (!value) return EOPNOTSUPP;  // the others are always there
  if (name == "acl") return Result(ntfs_set_ntfs_acl(&context, raw, value->data(), value->size(), 0));
  const bool big_endian = TakeBigEndian(name);
  if (name == "crtime" || name == "times") return SetTimes(raw, *value, name == "crtime" ? 1 : 4, big_endian);
  if (name == "attrib") {
    const auto attributes = LoadNumber<uint32_t>(*value, big_endian);
    return Result(ntfs_set_ntfs_attrib(raw, reinterpret_cast<const char*>(&attributes), sizeof(attributes), 0));
  }
  return EOPNOTSUPP;
}

// What can be told before anything is changed.
int NtfsTreeImpl::CheckXattr(ntfs_inode* inode, const FileFacts& facts, std::string_view name,
                             std::optional<std::string_view> value, int flags) const {
  bool exists = false;
  if (name.starts_with(kNtfsXattrPrefix)) {
    name.remove_prefix(kNtfsXattrPrefix.size());
    exists = NtfsXattr(inode, facts, name).ok();
    if (value && name == "reparse_data") {
      if (facts.wof) return EPERM;
      if (int error = CheckReparsePoint(inode, *value)) return error;
    }
    if (value && name == "acl" && !IsSecurityDescriptor(*value)) return EINVAL;
    if (value && (name == "attrib" || name == "attrib_be") && value->size() != sizeof(uint32_t)) return EINVAL;
    if (value && name == "object_id" && value->size() != 16 && value->size() != 64) return EINVAL;
  } else if (name.starts_with(kUserXattrPrefix)) {
    const std::optional<std::string> wanted = Wtf8ToUtf16Le(name.substr(kUserXattrPrefix.size()));
    ErrnoOr<std::vector<NamedStream>> streams = ShownStreams(inode, facts);
    if (!streams.ok()) return streams.error();
    for (const NamedStream& stream : *streams) exists = exists || (wanted && stream.name == *wanted);
    if (facts.wof && name.substr(kUserXattrPrefix.size()) == kWofStreamName) return EPERM;
  } else {
    return value ? EOPNOTSUPP : ENODATA;
  }
  if (value && exists && (flags & XATTR_CREATE) != 0) return EEXIST;
  if (!exists && (!value || (flags & XATTR_REPLACE) != 0)) return ENODATA;
  return 0;
}

int NtfsTreeImpl::ChangeXattr(const Request& request, Operation operation, NodeId node, std::string_view name,
                              std::optional<std::string_view> value, int flags) {
  if (read_only()) return EROFS;
  if (StreamNumberOf(node) != 0) return value ? EOPNOTSUPP : ENODATA;
  return Change(request, operation,
                [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
                  ErrnoOr<Inode> inode = OpenFile(node);
                  if (!inode.ok()) return Errno(inode.error());
                  if (int error = CheckXattr(inode->get(), FactsOf(inode->get()), name, value, flags)) {
                    return Errno(error);
                  }
                  changing = true;
                  const int error = name.starts_with(kUserXattrPrefix)
                                        ? SetStream(inode->get(), name.substr(kUserXattrPrefix.size()), value)
                                        : SetNtfsXattr(*inode, name.substr(kNtfsXattrPrefix.size()), value);
                  if (error != 0) return Errno(error);
                  if (!*inode) return uint64_t{0};  // the library has closed it
                  ntfs_inode_update_times(inode->get(), NTFS_UPDATE_CTIME);
                  NInoFileNameSetDirty(inode->get());
                  ntfs_inode_mark_dirty(inode->get());
                  if (int close_error = inode->Close()) return Errno(close_error);
                  return uint64_t{0};
                })
      .error();
}

int NtfsTreeImpl::SetXattr(const Request& request, NodeId node, std::string_view name, std::string_view value,
                           int flags) {
  if (value.size() > XATTR_SIZE_MAX) return E2BIG;
  return ChangeXattr(request, Operation::kSetXattr, node, name, value, flags);
}

int NtfsTreeImpl::RemoveXattr(const Request& request, NodeId node, std::string_view name) {
  return ChangeXattr(request, Operation::kRemoveXattr, node, name, std::nullopt, 0);
}

}  // namespace libmount
