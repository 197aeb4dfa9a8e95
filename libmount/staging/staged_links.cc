// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: symbolic links, and how Windows stores them.

#include <limits.h>

#include <cerrno>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/staging/staged_tree_impl.h"
#include "libmount/tree/reparse.h"

namespace libmount {
namespace {

constexpr uint32_t kSymlinkRelative = 1;
constexpr uint32_t kLxVersion = 2;
// What Windows takes for something else than a part of a name.
constexpr std::string_view kNotInWindowsPaths = "\\:*?\"<>|";

bool IsWindowsPath(std::string_view target) {
  if (target.find_first_of(kNotInWindowsPaths) != target.npos) return false;
  // Two slashes in front would be a share; elsewhere, as at the end, they would come back as one, or as none.
  return target.find("//") == target.npos && (target.size() == 1 || target.back() != '/');
}

}  // namespace

std::optional<ReparsePoint> EncodeLink(std::string_view target) {
  ReparsePoint point;
  std::optional<std::string> name = IsWindowsPath(target) ? Wtf8ToUtf16Le(target) : std::nullopt;
  if (name) {
    for (size_t i = 0; i + 1 < name->size(); i += 2) {
      if ((*name)[i] == '/' && (*name)[i + 1] == 0) (*name)[i] = '\\';
    }
    point.tag = kReparseSymlink;
    const auto size = static_cast<uint16_t>(name->size());
    // The substitute name and the print name are one. A path from the volume's root counts as relative too.
    for (uint16_t field : {uint16_t{0}, size, uint16_t{0}, size}) AppendLe(field, point.data);
    AppendLe(kSymlinkRelative, point.data);
    point.data += *name;
  } else {
    point.tag = kReparseLxSymlink;
    AppendLe(kLxVersion, point.data);
    point.data += target;
  }
  if (target.size() >= PATH_MAX || point.data.size() > kMaxReparseData) return std::nullopt;
  return point;
}

std::optional<std::string> LinkText(uint32_t tag, std::string_view data) {
  std::optional<LinkTarget> target = DecodeLink(tag, data);
  if (!target) return std::nullopt;
  if (target->kind == LinkTarget::Kind::kForeign) return target->text;
  std::string text;
  for (const std::string& component : target->components) {
    if (!text.empty()) text += '/';
    text += component;
  }
  if (target->kind == LinkTarget::Kind::kAbsolute) text.insert(0, "/");
  return text.empty() ? "." : text;
}

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
