// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: reading data.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {
namespace {

// Damaged files that are remembered as reported.
constexpr size_t kMaxReported = 65536;

}  // namespace

ErrnoOr<std::shared_ptr<const DataMap>> NtfsTreeImpl::MakeMap(ntfs_inode* inode, NodeId node) const {
  std::string name;
  std::optional<uint32_t> wof;
  if (StreamNumberOf(node) != 0) {
    ErrnoOr<NamedStream> stream = StreamOf(inode, node);
    if (!stream.ok()) return Errno(stream.error());
    name = std::move(stream->name);
  } else {
    const FileFacts facts = FactsOf(inode);
    if (S_ISDIR(facts.mode)) return Errno(EISDIR);
    if (!S_ISREG(facts.mode)) return Errno(EINVAL);
    wof = facts.wof;
  }
  ErrnoOr<Attribute> attribute = OpenAttribute(inode, AT_DATA, name);
  // A file without data is an empty one.
  if (!attribute.ok() && attribute.error() == ENOENT && name.empty()) return std::make_shared<const DataMap>();
  if (!attribute.ok()) return Errno(attribute.error());
  if (!wof) return DataMap::Of(attribute->get());

  const auto size = static_cast<uint64_t>((*attribute)->data_size);
  ErrnoOr<Attribute> compressed = OpenAttribute(inode, AT_DATA, *Wtf8ToUtf16Le(kWofStreamName));
  if (!compressed.ok()) return Errno(compressed.error() == ENOMEM ? ENOMEM : EIO);
  ErrnoOr<std::shared_ptr<const DataMap>> map = DataMap::Of(compressed->get());
  if (!map.ok()) return map;
  const bool readable = (*map)->kind() == DataMap::Kind::kRuns || (*map)->kind() == DataMap::Kind::kResident;
  if (!readable) return Errno(EIO);
  if (size == 0) return std::make_shared<const DataMap>();
  return DataMap::OfWof(size, {*wof, *std::move(map)});
}

ErrnoOr<std::shared_ptr<const DataMap>> NtfsTreeImpl::MapOf(NodeId node) const {
  if (std::shared_ptr<const DataMap> known = maps_.Find(node)) return known;
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  ErrnoOr<std::shared_ptr<const DataMap>> map = MakeMap(inode->get(), node);
  if (map.ok()) maps_.Insert(node, *map);
  return map;
}

ErrnoOr<size_t> NtfsTreeImpl::ReadThroughLibrary(NodeId node, uint64_t offset, absl::Span<char> out) const {
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return Errno(inode.error());
  std::string name;
  if (StreamNumberOf(node) != 0) {
    ErrnoOr<NamedStream> stream = StreamOf(inode->get(), node);
    if (!stream.ok()) return Errno(stream.error());
    name = std::move(stream->name);
  }
  ErrnoOr<Attribute> attribute = OpenAttribute(inode->get(), AT_DATA, name);
  if (!attribute.ok()) return Errno(attribute.error());
  size_t done = 0;
  while (done < out.size()) {
    errno = 0;
    const s64 got = ntfs_attr_pread(attribute->get(), static_cast<s64>(offset + done),
                                    static_cast<s64>(out.size() - done), out.data() + done);
    if (got < 0) return Errno(LibraryErrno() == ENOMEM ? ENOMEM : EIO);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

ErrnoOr<size_t> NtfsTreeImpl::Read(NodeId node, uint64_t offset, absl::Span<char> out) const {
  if (read_only()) return ReadData(node, offset, out);
  absl::ReaderMutexLock lock(&data_mutex_);
  return ReadData(node, offset, out);
}

ErrnoOr<size_t> NtfsTreeImpl::ReadData(NodeId node, uint64_t offset, absl::Span<char> out) const {
  ErrnoOr<std::shared_ptr<const DataMap>> found = MapOf(node);
  if (!found.ok()) {
    const int error = found.error();
    return error == EIO || error == EFBIG ? Damaged(node, EIO, "the list of its clusters is damaged") : Errno(error);
  }
  const DataMap& map = **found;
  if (offset >= map.size() || out.empty()) return size_t{0};
  out = out.first(std::min<uint64_t>(out.size(), map.size() - offset));
  int error = 0;
  switch (map.kind()) {
    case DataMap::Kind::kLibrary: {
      ErrnoOr<size_t> got = ReadThroughLibrary(node, offset, out);
      // A file that ends before its size says is damaged.
      error = !got.ok() ? got.error() : *got < out.size() ? EIO : 0;
      break;
    }
    case DataMap::Kind::kWof: error = wof_.Read(volume_->device(), map, offset, out); break;
    default: error = map.Read(volume_->device(), offset, out); break;
  }
  if (error == EIO) return Damaged(node, EIO, "its data cannot be read or decompressed");
  if (error != 0) return Errno(error);
  return out.size();
}

ErrnoOr<uint64_t> NtfsTreeImpl::Seek(NodeId node, uint64_t offset, int whence) const {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return Errno(EINVAL);
  ErrnoOr<std::shared_ptr<const DataMap>> map = MapOf(node);
  if (!map.ok()) return Errno(map.error());
  if (offset >= (*map)->size()) return Errno(ENXIO);
  const uint64_t at = whence == SEEK_DATA ? (*map)->NextData(offset) : (*map)->NextHole(offset);
  if (whence == SEEK_DATA && at >= (*map)->size()) return Errno(ENXIO);
  return at;
}

Errno NtfsTreeImpl::Damaged(NodeId node, int error, std::string_view what) const {
  {
    absl::MutexLock lock(&damage_mutex_);
    if (damaged_.size() >= kMaxReported || !damaged_.insert(node).second) return Errno(error);
  }
  if (options_.observer == nullptr) return Errno(error);
  std::string path;
  {
    absl::MutexLock lock(&library_mutex());
    path = PathOf(node);
  }
  options_.observer->OnDamage(path, what);
  return Errno(error);
}

}  // namespace libmount
