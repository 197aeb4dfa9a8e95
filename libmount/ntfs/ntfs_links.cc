// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: where links lead. The rules are those of a WIM (wim/image_links.cc): a target is made absolute within the
// volume, its names get the case that the volume has, and it is told relative to the directory that holds the link: it
// never leads out of the mount. One outside the volume is shown as one dangling name.

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {
namespace {

constexpr size_t kMaxTargetSize = 4095;  // what the kernel takes
constexpr size_t kReparseHeaderSize = 8;
constexpr size_t kMaxDepth = 4096;  // of directories: more can only be a circle

}  // namespace

ErrnoOr<std::string> NtfsTreeImpl::ReparsePointOf(ntfs_inode* inode) const {
  ErrnoOr<Attribute> attribute = OpenAttribute(inode, AT_REPARSE_POINT, {});
  if (!attribute.ok()) return Errno(attribute.error() == ENOENT ? ENODATA : attribute.error());
  const auto size = static_cast<uint64_t>((*attribute)->data_size);
  if (size < kReparseHeaderSize || size > kMaxReparseData + kReparseHeaderSize) return Errno(EIO);
  std::string point(size, '\0');
  errno = 0;
  if (ntfs_attr_pread(attribute->get(), 0, static_cast<s64>(size), point.data()) != static_cast<s64>(size)) {
    return Errno(LibraryErrno() == ENOMEM ? ENOMEM : EIO);
  }
  return point;
}

ErrnoOr<std::string> NtfsTreeImpl::ReadLink(NodeId link) const {
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<Inode> inode = OpenFile(link);
  if (!inode.ok()) return Errno(inode.error());
  if (StreamNumberOf(link) != 0 || !S_ISLNK(FactsOf(inode->get()).mode)) return Errno(EINVAL);
  return TargetOf(inode->get());
}

ErrnoOr<std::vector<std::string>> NtfsTreeImpl::DirectoriesOf(ntfs_inode* inode) const {
  std::vector<std::string> names;
  ErrnoOr<OwnedFileName> name = FirstName(inode);
  while (name.ok() && RecordOf(name->directory) != kRootRecord) {
    if (names.size() >= kMaxDepth || !IsUserFile(name->directory)) return Errno(EIO);
    ErrnoOr<Inode> directory = volume_->Open(name->directory);
    if (!directory.ok()) return Errno(directory.error() == ENOMEM ? ENOMEM : EIO);
    name = FirstName(directory->get());
    if (name.ok()) names.push_back(Utf16LeToWtf8(name->name));
  }
  if (!name.ok()) return Errno(name.error() == ENOMEM ? ENOMEM : EIO);
  std::reverse(names.begin(), names.end());
  return names;
}

ErrnoOr<std::string> NtfsTreeImpl::TargetOf(ntfs_inode* inode) const {
  auto known = link_texts_.find(NodeOf(libmount::ReferenceOf(inode)));
  if (known != link_texts_.end()) return known->second;
  ErrnoOr<std::string> point = ReparsePointOf(inode);
  if (!point.ok()) return Errno(point.error() == ENOMEM ? ENOMEM : EIO);
  const size_t data_size = std::min<size_t>(LoadLe16(point->data() + 4), point->size() - kReparseHeaderSize);
  const std::optional<LinkTarget> target =
      DecodeLink(LoadLe32(point->data()), std::string_view(*point).substr(kReparseHeaderSize, data_size));
  if (!target) return Errno(EIO);
  if (target->kind == LinkTarget::Kind::kForeign) {
    if (target->text.size() > kMaxTargetSize) return Errno(ENAMETOOLONG);
    return target->text;
  }
  ErrnoOr<std::vector<std::string>> base = DirectoriesOf(inode);
  if (!base.ok()) return Errno(base.error());

  std::vector<std::string> path;
  if (target->kind == LinkTarget::Kind::kRelative) path = *base;
  for (const std::string& component : target->components) {
    if (component == ".") continue;
    if (component != "..") {
      path.push_back(component);
    } else if (!path.empty()) {
      path.pop_back();
    }
  }
  CorrectCase(path);
  std::string result = RelativePath(*base, path);
  if (result.size() > kMaxTargetSize) return Errno(ENAMETOOLONG);
  return result;
}

void NtfsTreeImpl::CorrectCase(std::vector<std::string>& components) const {
  ErrnoOr<Inode> directory = OpenFile(kRootNode);
  for (std::string& component : components) {
    if (!directory.ok()) return;
    ErrnoOr<std::optional<DirectoryIndex::Found>> found = FindEntry(directory->get(), component);
    if (!found.ok() || !found->has_value()) return;
    // A short name stays what it is: the way leads there all the same.
    if ((*found)->name_space != FILE_NAME_DOS) component = Utf16LeToWtf8((*found)->name);
    directory = volume_->Open((*found)->file);
  }
}

std::string NtfsTreeImpl::PathOf(NodeId node) const {
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok() || node == kRootNode) return {};
  ErrnoOr<std::vector<std::string>> directories = DirectoriesOf(inode->get());
  ErrnoOr<OwnedFileName> name = FirstName(inode->get());
  if (!directories.ok() || !name.ok()) return {};
  std::string path;
  for (const std::string& directory : *directories) path += "/" + directory;
  path += "/" + Utf16LeToWtf8(name->name);
  if (StreamNumberOf(node) == 0) return path;
  ErrnoOr<NamedStream> stream = StreamOf(inode->get(), node);
  return stream.ok() ? path + ":" + Utf16LeToWtf8(stream->name) : path;
}

}  // namespace libmount
