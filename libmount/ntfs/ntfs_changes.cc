// SPDX-License-Identifier: GPL-3.0-or-later
#include <cerrno>

#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {

ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeNode(const Request&, NodeId, std::string_view, uint32_t, uint32_t) {
  return Errno(EROFS);
}
ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeDirectory(const Request&, NodeId, std::string_view, uint32_t) {
  return Errno(EROFS);
}
ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeSymlink(const Request&, NodeId, std::string_view, std::string_view) {
  return Errno(EROFS);
}
ErrnoOr<NodeAttributes> NtfsTreeImpl::MakeLink(const Request&, NodeId, NodeId, std::string_view) {
  return Errno(EROFS);
}
int NtfsTreeImpl::Unlink(const Request&, NodeId, std::string_view) { return EROFS; }
int NtfsTreeImpl::RemoveDirectory(const Request&, NodeId, std::string_view) { return EROFS; }
int NtfsTreeImpl::Rename(const Request&, NodeId, std::string_view, NodeId, std::string_view, unsigned) { return EROFS; }
ErrnoOr<NodeAttributes> NtfsTreeImpl::SetAttributes(const Request&, NodeId, const AttributeChanges&) {
  return Errno(EROFS);
}
ErrnoOr<size_t> NtfsTreeImpl::Write(const Request&, NodeId, uint64_t, absl::Span<const char>) { return Errno(EROFS); }
int NtfsTreeImpl::Allocate(const Request&, NodeId, int, uint64_t, uint64_t) { return EROFS; }
int NtfsTreeImpl::SetXattr(const Request&, NodeId, std::string_view, std::string_view, int) { return EROFS; }
int NtfsTreeImpl::RemoveXattr(const Request&, NodeId, std::string_view) { return EROFS; }
int NtfsTreeImpl::Open(NodeId) { return 0; }
void NtfsTreeImpl::Release(NodeId) {}
int NtfsTreeImpl::Sync() { return 0; }

}  // namespace libmount
