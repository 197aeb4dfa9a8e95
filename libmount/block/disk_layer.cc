// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/disk_layer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace libmount {

int DiskLayer::Map(uint64_t offset, uint64_t limit, DiskExtent* extent) const {
  if (int error = MapInBlock(offset, limit, extent); error != 0) return error;
  while (extent->size < limit) {
    DiskExtent next;
    if (int error = MapInBlock(offset + extent->size, limit - extent->size, &next); error != 0) return error;
    if (next.source != extent->source) break;
    if (next.source == DiskExtent::Source::kFile && next.file_offset != extent->file_offset + extent->size) break;
    extent->size += next.size;
  }
  return 0;
}

int DiskLayer::Read(uint64_t offset, absl::Span<char> out) const {
  if (offset > size() || out.size() > size() - offset) return EINVAL;
  // Also where all of it is zeros or the parent's: a file that was replaced is not to be believed.
  if (file_->changed()) return EIO;
  while (!out.empty()) {
    DiskExtent extent;
    if (int error = Map(offset, out.size(), &extent); error != 0) return error;
    const absl::Span<char> piece = out.first(extent.size);
    int error = 0;
    switch (extent.source) {
      case DiskExtent::Source::kFile: error = file_->Read(extent.file_offset, piece); break;
      case DiskExtent::Source::kZeros: memset(piece.data(), 0, piece.size()); break;
      case DiskExtent::Source::kParent: error = ReadParent(offset, piece); break;
    }
    if (error != 0) return error;
    out.remove_prefix(extent.size);
    offset += extent.size;
  }
  return 0;
}

int DiskLayer::ReadParent(uint64_t offset, absl::Span<char> out) const {
  const uint64_t parent_size = parent_ == nullptr ? 0 : parent_->size();
  const size_t there = offset >= parent_size ? 0 : std::min<uint64_t>(out.size(), parent_size - offset);
  memset(out.data() + there, 0, out.size() - there);
  return there == 0 ? 0 : parent_->Read(offset, out.first(there));
}

}  // namespace libmount
