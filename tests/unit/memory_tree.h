// SPDX-License-Identifier: GPL-3.0-or-later
//
// MemoryTree: a FileTree that a test fills by hand. Node ids count up from the root in the order of adding.
//
// Thread safety: filled before it is served; then as FileTree says.

#ifndef TESTS_UNIT_MEMORY_TREE_H_
#define TESTS_UNIT_MEMORY_TREE_H_

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libmount/tree/file_tree.h"

namespace libmount {

class MemoryTree : public FileTree {
 public:
  MemoryTree() { AddNode(kRootNode, S_IFDIR | 0755); }

  NodeId AddDirectory(NodeId parent, std::string name) { return Add(parent, std::move(name), S_IFDIR | 0755, ""); }
  NodeId AddFile(NodeId parent, std::string name, std::string content) {
    return Add(parent, std::move(name), S_IFREG | 0644, std::move(content));
  }
  NodeId AddLink(NodeId parent, std::string name, std::string target) {
    return Add(parent, std::move(name), S_IFLNK | 0777, std::move(target));
  }
  void SetXattr(NodeId node, std::string name, std::string value) {
    At(node).xattrs[std::move(name)] = std::move(value);
  }
  // Reads of the file give this errno.
  void SetReadError(NodeId node, int error) { At(node).read_error = error; }
  // Runs inside each Read, before it answers.
  void SetReadHook(std::function<void(NodeId)> hook) { read_hook_ = std::move(hook); }
  int reads() const { return reads_; }

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override {
    if (!Exists(node)) return Errno(ENOENT);
    return At(node).attributes;
  }

  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override {
    if (!Exists(directory)) return Errno(ENOENT);
    const Node& at = At(directory);
    if (!S_ISDIR(at.attributes.mode)) return Errno(ENOTDIR);
    for (const auto& [entry, node] : at.entries) {
      if (entry == name) return LookupResult{At(node).attributes, true};
    }
    for (const auto& [entry, node] : at.entries) {
      if (entry.size() == name.size() && strncasecmp(entry.data(), name.data(), name.size()) == 0) {
        return LookupResult{At(node).attributes, false};
      }
    }
    return Errno(ENOENT);
  }

  ErrnoOr<NodeId> Parent(NodeId directory) const override {
    if (!Exists(directory)) return Errno(ENOENT);
    if (!S_ISDIR(At(directory).attributes.mode)) return Errno(ENOTDIR);
    return At(directory).parent;
  }

  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override {
    if (!Exists(directory)) return ENOENT;
    const Node& at = At(directory);
    if (!S_ISDIR(at.attributes.mode)) return ENOTDIR;
    if (cookie > at.entries.size()) return EINVAL;
    for (uint64_t i = cookie; i < at.entries.size(); ++i) {
      const auto& [name, node] = at.entries[i];
      if (!visitor(DirectoryEntry{name, At(node).attributes, i + 1})) break;
    }
    return 0;
  }

  ErrnoOr<std::string> ReadLink(NodeId link) const override {
    if (!Exists(link)) return Errno(ENOENT);
    if (!S_ISLNK(At(link).attributes.mode)) return Errno(EINVAL);
    return At(link).content;
  }

  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override {
    ++reads_;
    if (read_hook_) read_hook_(file);
    if (!Exists(file)) return Errno(ENOENT);
    const Node& at = At(file);
    if (S_ISDIR(at.attributes.mode)) return Errno(EISDIR);
    if (at.read_error != 0) return Errno(at.read_error);
    if (offset >= at.content.size()) return size_t{0};
    size_t size = std::min<size_t>(out.size(), at.content.size() - offset);
    memcpy(out.data(), at.content.data() + offset, size);
    return size;
  }

  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override {
    if (!Exists(node)) return Errno(ENOENT);
    std::vector<std::string> names;
    for (const auto& [name, value] : At(node).xattrs) names.push_back(name);
    return names;
  }

  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override {
    if (!Exists(node)) return Errno(ENOENT);
    auto found = At(node).xattrs.find(std::string(name));
    if (found == At(node).xattrs.end()) return Errno(ENODATA);
    return found->second;
  }

  void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const override {
    if (!Exists(file)) return;
    const Node& directory = At(At(file).parent);
    bool behind = false;
    for (const auto& [name, node] : directory.entries) {
      const NodeAttributes& attributes = At(node).attributes;
      if (behind && S_ISREG(attributes.mode) && attributes.size <= max_size && !visitor(node, attributes.size)) return;
      behind |= node == file;
    }
  }

  struct statvfs FileSystemStats() const override {
    struct statvfs stats = {};
    stats.f_bsize = stats.f_frsize = 4096;
    stats.f_blocks = 1234;
    stats.f_files = nodes_.size();
    stats.f_namemax = 255;
    return stats;
  }

 private:
  struct Node {
    NodeId parent;
    NodeAttributes attributes;
    std::string content;
    int read_error = 0;
    std::vector<std::pair<std::string, NodeId>> entries;
    std::map<std::string, std::string> xattrs;
  };

  bool Exists(NodeId node) const { return node >= kRootNode && node < kRootNode + nodes_.size(); }
  Node& At(NodeId node) { return nodes_[node - kRootNode]; }
  const Node& At(NodeId node) const { return nodes_[node - kRootNode]; }

  NodeId AddNode(NodeId parent, uint32_t mode) {
    NodeId id = kRootNode + nodes_.size();
    Node& node = nodes_.emplace_back();
    node.parent = parent;
    node.attributes.node = id;
    node.attributes.mode = mode;
    node.attributes.link_count = S_ISDIR(mode) ? 2 : 1;
    node.attributes.modification_time = {1'600'000'000, 700};
    return id;
  }

  NodeId Add(NodeId parent, std::string name, uint32_t mode, std::string content) {
    NodeId id = AddNode(parent, mode);
    At(id).attributes.size = content.size();
    At(id).attributes.allocated = content.size();
    At(id).content = std::move(content);
    At(parent).entries.emplace_back(std::move(name), id);
    return id;
  }

  std::vector<Node> nodes_;
  std::function<void(NodeId)> read_hook_;
  mutable std::atomic<int> reads_{0};
};

}  // namespace libmount

#endif  // TESTS_UNIT_MEMORY_TREE_H_
