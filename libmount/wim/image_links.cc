// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageTree: where links lead.
//
// A target is made absolute within the image, as Windows does it ("..", never beyond the root, is taken off before any
// link is followed), its names are given the case that the image has, and then it is expressed relative to the
// directory that holds the link: so it never leads out of the mount, wherever that is.
//
// A target outside the image (another volume, a network share) is shown as one name, with the backslashes that no name
// of Windows can have: the link dangles, and readlink tells where it led.

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/little_endian.h"
#include "libmount/wim/image_tree.h"

namespace libmount {
namespace {

constexpr size_t kMaxTargetSize = 4095;  // what the kernel takes

}  // namespace

ErrnoOr<std::string> ImageTree::ReadLink(NodeId id) const {
  std::optional<Node> node = FindNode(id);
  if (!node) return Errno(ENOENT);
  if (node->stream != nullptr || !image_.IsLink(*node->inode)) return Errno(EINVAL);
  return TargetOf(*node->inode);
}

// The kernel cuts a cached target to the link's size, so it must be right.
uint64_t ImageTree::LinkSize(const MetadataInode& inode) const {
  std::atomic<uint16_t>& known = link_sizes_[inode.extra];
  if (uint16_t size = known.load(std::memory_order_relaxed)) return size;
  ErrnoOr<std::string> target = TargetOf(inode);
  if (!target.ok()) return 0;
  known.store(static_cast<uint16_t>(target->size()), std::memory_order_relaxed);
  return target->size();
}

ErrnoOr<std::string> ImageTree::ReparseDataOf(const MetadataInode& inode) const {
  const uint32_t blob = image_.extras[inode.extra].reparse_blob;
  std::string data;
  if (blob == kNoBlob) return data;
  if (BlobSize(blob) > kMaxReparseData) return Errno(EIO);
  data.resize(BlobSize(blob));
  if (int error = ReadBlob(blob, 0, absl::MakeSpan(data))) return Errno(error);
  return data;
}

ErrnoOr<std::string> ImageTree::TargetOf(const MetadataInode& inode) const {
  ErrnoOr<std::string> data = ReparseDataOf(inode);
  if (!data.ok()) return data;
  std::optional<LinkTarget> target = DecodeLink(image_.ReparseTag(inode), *data);
  if (!target) return Errno(EIO);
  std::string path = target->kind == LinkTarget::Kind::kForeign ? target->text : ResolveInImage(inode, *target);
  if (path.size() > kMaxTargetSize) return Errno(ENAMETOOLONG);
  return path;
}

std::string ImageTree::ResolveInImage(const MetadataInode& inode, const LinkTarget& target) const {
  // The names of the directories from the root to the one that holds the link.
  std::vector<std::string> base;
  uint32_t directory = image_.entries[inode.first_entry].directory;
  while (directory != 0) {
    const MetadataEntry& entry = image_.entries[image_.inodes[image_.directories[directory].inode].first_entry];
    base.emplace_back(image_.Name(entry));
    directory = entry.directory;
  }
  std::reverse(base.begin(), base.end());

  std::vector<std::string> path;
  if (target.kind == LinkTarget::Kind::kRelative) path = base;
  for (const std::string& component : target.components) {
    if (component == ".") continue;
    if (component != "..") {
      path.push_back(component);
    } else if (!path.empty()) {
      path.pop_back();
    }
  }
  CorrectCase(path);
  return RelativePath(base, path);
}

void ImageTree::CorrectCase(std::vector<std::string>& components) const {
  const MetadataDirectory* directory = &image_.directories[0];
  for (std::string& component : components) {
    const uint32_t entry = FindEntry(*directory, component).entry;
    if (entry == kNone) return;
    component = image_.Name(image_.entries[entry]);
    const MetadataInode& inode = image_.inodes[image_.entries[entry].inode];
    if (!image_.IsDirectory(inode)) return;
    directory = &image_.directories[inode.content];
  }
}

}  // namespace libmount
