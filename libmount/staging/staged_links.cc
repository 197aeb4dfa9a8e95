// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: symbolic links, and how Windows stores them.

#include <cerrno>

#include "libmount/staging/staged_tree_impl.h"
#include "libmount/tree/reparse.h"

namespace libmount {
// Links of the image are as the base shows them; those made here as they were given. A link that became one by its
// reparse data is shown as it says: an absolute one leads from the root of the reader, not of the image, until the
// image is mounted anew.
ErrnoOr<std::string> StagedTreeImpl::ReadLink(NodeId id) const {
  absl::ReaderMutexLock lock(&mutex_);
  ErrnoOr<Target> target = Find(id);
  if (!target.ok()) return Errno(target.error());
  if (target->stream_id != 0) return Errno(EINVAL);
  if (target->node == nullptr) return base_tree_->ReadLink(id);
  const Node& node = *target->node;
  if (!node.is_link()) return Errno(EINVAL);
  if (node.link_text) return *node.link_text;
  if (!node.reparse_staged && id < kFirstNewNode) {
    ErrnoOr<std::string> text = base_tree_->ReadLink(id);
    if (text.ok() || text.error() != EINVAL) return text;
  }
  ErrnoOr<std::string> data = ReparseDataOf(node);
  if (!data.ok()) return data;
  std::optional<std::string> text = LinkText(node.reparse_tag, *data);
  if (!text) return Errno(EIO);
  return *std::move(text);
}

}  // namespace libmount
