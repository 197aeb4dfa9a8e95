// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagingModel: what a StagedTree should be, as simply as it can be said; and random changes, made to both.

#ifndef TESTS_UNIT_STAGING_MODEL_H_
#define TESTS_UNIT_STAGING_MODEL_H_

#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "libmount/base/utf16.h"
#include "tests/unit/staging_test_util.h"

namespace libmount {

struct ModelNode {
  bool is_directory = false;
  std::string content;
  int links = 0;
  std::map<std::string, NodeId> names;
};

class StagingModel {
 public:
  // Takes what the tree has.
  explicit StagingModel(const FileTree& tree) { Take(tree, kRootNode); }

  // Makes one random change to the tree; where that succeeds, to itself. Checks what it answers. True: it was changed.
  bool Step(StagedTree& tree, std::mt19937& random, uint64_t request_id) {
    request_.id = request_id;
    ++step_;
    auto pick = [&](int n) { return static_cast<int>(random() % n); };
    const NodeId directory = Directory(random);
    const std::string name = Name(random);
    switch (pick(12)) {
      case 0:
      case 1: return Make(tree, directory, name, false);
      case 2: return Make(tree, directory, name, true);
      case 3:
      case 4:
      case 5: return Write(tree, random);
      case 6: return Resize(tree, random);
      case 7: return Unlink(tree, directory, name);
      case 8: return RemoveDirectory(tree, directory, name);
      case 9: return Rename(tree, directory, name, Directory(random), Name(random));
      case 10: return Link(tree, File(random), directory, name);
      default: return Punch(tree, random);
    }
  }

  // What differs from the tree; empty: nothing. The content of `unsure` files is not looked at.
  std::string Compare(const FileTree& tree, const std::set<NodeId>& unsure = {}) const {
    std::set<NodeId> seen = unsure;
    return CompareDirectory(tree, kRootNode, seen);
  }

  // Files whose content was changed since this was last called.
  std::set<NodeId> TakeTouched() { return std::exchange(touched_, {}); }
  const std::set<NodeId>& touched() const { return touched_; }

 private:
  static constexpr const char* kNames[] = {"a", "b", "C", "c", "dir", "Dir", "some.txt", "\xc3\xa4", "\xc3\x84"};

  void Take(const FileTree& tree, NodeId id) {
    ModelNode& node = nodes_[id];
    node.is_directory = S_ISDIR(tree.GetAttributes(id)->mode);
    if (!node.is_directory) {
      node.content = Content(tree, id);
      return;
    }
    std::vector<std::pair<std::string, NodeId>> entries;
    tree.ReadDirectory(id, 0, [&](const DirectoryEntry& entry) {
      entries.emplace_back(entry.name, entry.attributes.node);
      return true;
    });
    for (const auto& [name, child] : entries) {
      nodes_[id].names[name] = child;
      Take(tree, child);
      ++nodes_[child].links;
    }
  }

  NodeId Some(std::mt19937& random, bool directory) const {
    std::vector<NodeId> all;
    for (const auto& [id, node] : nodes_) {
      if (node.is_directory == directory) all.push_back(id);
    }
    return all.empty() ? 0 : all[random() % all.size()];
  }
  NodeId Directory(std::mt19937& random) const { return Some(random, true); }
  NodeId File(std::mt19937& random) const { return Some(random, false); }
  static std::string Name(std::mt19937& random) { return kNames[random() % std::size(kNames)]; }

  // By the name as it is, or in other case.
  std::map<std::string, NodeId>::iterator Find(NodeId directory, const std::string& name) {
    auto& names = nodes_[directory].names;
    if (auto found = names.find(name); found != names.end()) return found;
    return std::find_if(names.begin(), names.end(), [&](auto& entry) { return EqualFolded(entry.first, name); });
  }
  void Drop(NodeId id) {
    if (nodes_[id].is_directory || --nodes_[id].links == 0) nodes_.erase(id);
  }
  bool IsWithin(NodeId directory, NodeId ancestor) const {
    if (directory == ancestor) return true;
    for (const auto& [name, child] : nodes_.at(ancestor).names) {
      if (nodes_.at(child).is_directory && IsWithin(directory, child)) return true;
    }
    return false;
  }
  // Whether it was made; unless space or disk failed, as the model says.
  static bool Done(int error, int expected) {
    if (error == ENOSPC || error == EIO) return false;
    EXPECT_EQ(error, expected);
    return error == 0;
  }

  bool Make(StagedTree& tree, NodeId directory, const std::string& name, bool is_directory) {
    const int expected = Find(directory, name) == nodes_[directory].names.end() ? 0 : EEXIST;
    ErrnoOr<NodeAttributes> made = is_directory ? tree.MakeDirectory(request_, directory, name, 0755)
                                                : tree.MakeNode(request_, directory, name, S_IFREG | 0644, 0);
    if (!Done(made.error(), expected)) return false;
    EXPECT_EQ(nodes_.count(made->node), 0u) << "an id used twice";
    nodes_[directory].names[name] = made->node;
    nodes_[made->node].is_directory = is_directory;
    nodes_[made->node].links = 1;
    return true;
  }

  bool Write(StagedTree& tree, std::mt19937& random) {
    const NodeId file = File(random);
    if (file == 0) return false;
    const uint64_t offset = random() % 3 == 0 ? nodes_[file].content.size() : random() % 40'000;
    const std::string data(1 + random() % (random() % 2 ? 20'000 : 50), static_cast<char>('a' + step_ % 26));
    ErrnoOr<size_t> written = tree.Write(request_, file, offset, Bytes(data));
    // A write that failed may have changed what it was to write over.
    if (!written.ok()) Touch(tree, file);
    if (!Done(written.error(), 0)) return false;
    std::string& content = nodes_[file].content;
    if (content.size() < offset + data.size()) content.resize(offset + data.size());
    content.replace(offset, data.size(), data);
    touched_.insert(file);
    return true;
  }
  void Touch(const FileTree& tree, NodeId file) {
    nodes_[file].content = Content(tree, file);
    touched_.insert(file);
  }

  bool Resize(StagedTree& tree, std::mt19937& random) {
    const NodeId file = File(random);
    if (file == 0) return false;
    AttributeChanges changes;
    changes.size = random() % 3 == 0 ? 0 : random() % 60'000;
    if (!Done(tree.SetAttributes(request_, file, changes).error(), 0)) return false;
    nodes_[file].content.resize(*changes.size);
    touched_.insert(file);
    return true;
  }

  bool Punch(StagedTree& tree, std::mt19937& random) {
    const NodeId file = File(random);
    if (file == 0) return false;
    const uint64_t offset = random() % 30'000;
    const uint64_t length = 1 + random() % 20'000;
    if (!Done(tree.Allocate(request_, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), 0))
      return false;
    std::string& content = nodes_[file].content;
    for (uint64_t i = offset; i < std::min<uint64_t>(content.size(), offset + length); ++i) content[i] = 0;
    touched_.insert(file);
    return true;
  }

  bool Unlink(StagedTree& tree, NodeId directory, const std::string& name) {
    auto found = Find(directory, name);
    int expected = 0;
    if (found == nodes_[directory].names.end()) {
      expected = ENOENT;
    } else if (nodes_[found->second].is_directory) {
      expected = EISDIR;
    }
    if (!Done(tree.Unlink(request_, directory, name), expected)) return false;
    const NodeId id = found->second;
    nodes_[directory].names.erase(found);
    Drop(id);
    return true;
  }

  bool RemoveDirectory(StagedTree& tree, NodeId directory, const std::string& name) {
    auto found = Find(directory, name);
    int expected = 0;
    if (found == nodes_[directory].names.end()) {
      expected = ENOENT;
    } else if (!nodes_[found->second].is_directory) {
      expected = ENOTDIR;
    } else if (!nodes_[found->second].names.empty()) {
      expected = ENOTEMPTY;
    }
    if (!Done(tree.RemoveDirectory(request_, directory, name), expected)) return false;
    const NodeId id = found->second;
    nodes_[directory].names.erase(found);
    Drop(id);
    return true;
  }

  int ExpectRename(NodeId from_directory, const std::string& name, NodeId to_directory, const std::string& new_name) {
    auto from = Find(from_directory, name);
    if (from == nodes_[from_directory].names.end()) return ENOENT;
    const NodeId id = from->second;
    auto to = Find(to_directory, new_name);
    const bool exists = to != nodes_[to_directory].names.end();
    if (exists && to->second == id) return 0;
    const bool is_directory = nodes_[id].is_directory;
    if (is_directory && IsWithin(to_directory, id)) return EINVAL;
    if (!exists) return 0;
    const ModelNode& target = nodes_[to->second];
    if (is_directory && !target.is_directory) return ENOTDIR;
    if (!is_directory && target.is_directory) return EISDIR;
    return target.is_directory && !target.names.empty() ? ENOTEMPTY : 0;
  }

  bool Rename(StagedTree& tree, NodeId from_directory, const std::string& name, NodeId to_directory,
              const std::string& new_name) {
    const int expected = ExpectRename(from_directory, name, to_directory, new_name);
    if (!Done(tree.Rename(request_, from_directory, name, to_directory, new_name, 0), expected)) return false;
    auto from = Find(from_directory, name);
    auto to = Find(to_directory, new_name);
    const NodeId id = from->second;
    const bool exists = to != nodes_[to_directory].names.end();
    if (exists && to->second == id && (from_directory != to_directory || from != to)) return true;  // two names of one
    if (exists && to->second != id) {
      const NodeId replaced = to->second;
      nodes_[to_directory].names.erase(to);
      Drop(replaced);
      from = Find(from_directory, name);
    }
    nodes_[from_directory].names.erase(from);
    nodes_[to_directory].names[new_name] = id;
    return true;
  }

  bool Link(StagedTree& tree, NodeId file, NodeId directory, const std::string& name) {
    if (file == 0) return false;
    const int expected = Find(directory, name) == nodes_[directory].names.end() ? 0 : EEXIST;
    if (!Done(tree.MakeLink(request_, file, directory, name).error(), expected)) return false;
    nodes_[directory].names[name] = file;
    ++nodes_[file].links;
    return true;
  }

  std::string CompareDirectory(const FileTree& tree, NodeId id, std::set<NodeId>& seen) const {
    const ModelNode& model = nodes_.at(id);
    std::map<std::string, NodeId> names;
    tree.ReadDirectory(id, 0, [&](const DirectoryEntry& entry) {
      names[std::string(entry.name)] = entry.attributes.node;
      return true;
    });
    if (names != model.names) return "names of directory " + std::to_string(id);
    for (const auto& [name, child] : names) {
      const ModelNode& node = nodes_.at(child);
      ErrnoOr<NodeAttributes> attributes = tree.GetAttributes(child);
      if (!attributes.ok() || S_ISDIR(attributes->mode) != node.is_directory) return "type of " + name;
      if (node.is_directory) {
        if (*tree.Parent(child) != id) return "parent of " + name;
        if (std::string differs = CompareDirectory(tree, child, seen); !differs.empty()) return differs;
        continue;
      }
      if (static_cast<int>(attributes->link_count) != node.links) return "links of " + name;
      if (attributes->size != node.content.size()) return "size of " + name;
      if (!seen.insert(child).second) continue;
      if (Content(tree, child) != node.content) return "content of " + name + ", " + std::to_string(child);
    }
    return "";
  }

  std::map<NodeId, ModelNode> nodes_;
  std::set<NodeId> touched_;
  Request request_;
  uint64_t step_ = 0;
};

}  // namespace libmount

#endif  // TESTS_UNIT_STAGING_MODEL_H_
