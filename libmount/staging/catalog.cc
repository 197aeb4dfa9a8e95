// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/catalog.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

namespace libmount {
namespace {

// Requests remembered: more than the kernel has under way at once.
constexpr size_t kMaxRequests = 1024;

bool IsNew(NodeId id) { return id >= kFirstNewNode && id < kEndOfNewNodes; }

}  // namespace

uint64_t SecurityTable::NumberOf(const std::shared_ptr<const std::string>& security, EditWriter& edits) const {
  if (auto found = numbers_.find(security.get()); found != numbers_.end()) return found->second;
  edits.Op(Edit::kSecurity).Number(all_.size()).Text(*security);
  return all_.size();
}

void SecurityTable::Add(const std::shared_ptr<const std::string>& security) {
  numbers_.emplace(security.get(), all_.size());
  all_.push_back(security);
}

const Node* Catalog::Find(NodeId file) const {
  auto found = nodes_.find(file);
  return found == nodes_.end() ? nullptr : found->second.get();
}

bool Catalog::Exists(NodeId file) const {
  if (nodes_.contains(file)) return true;
  return !IsNew(file) && !gone_.contains(file) && base_->FileOfNode(file).first == file &&
         base_tree_->GetAttributes(file).ok();
}

const Directory* Catalog::FindDirectory(NodeId directory) const {
  auto found = directories_.find(directory);
  return found == directories_.end() ? nullptr : found->second.get();
}

std::pair<NodeId, NodeId> Catalog::Resolve(NodeId id) const {
  if (IsNew(id)) {
    auto found = stream_files_.find(id);
    return found == stream_files_.end() ? std::pair(id, NodeId{0}) : std::pair(found->second, id);
  }
  const NodeId file = base_->FileOfNode(id).first;
  return {file, file == id ? 0 : id};
}

std::shared_ptr<const std::string> Catalog::Intern(std::string_view security) {
  if (security.empty()) return nullptr;
  auto found = security_.find(security);
  if (found != security_.end()) return found->second;
  auto interned = std::make_shared<const std::string>(security);
  security_.emplace(*interned, interned);
  return interned;
}

Node* Catalog::Change(NodeId file) {
  auto found = nodes_.find(file);
  if (found != nodes_.end()) {
    std::shared_ptr<Node>& node = found->second;
    if (node->epoch < epoch_) {
      node = std::make_shared<Node>(*node);
      node->epoch = epoch_;
    }
    return node.get();
  }
  if (!Exists(file)) return nullptr;
  ErrnoOr<FileRecord> record = base_->GetFileRecord(file);
  ErrnoOr<NodeAttributes> attributes = base_tree_->GetAttributes(file);
  if (!record.ok() || !attributes.ok()) return nullptr;

  auto node = std::make_shared<Node>();
  node->epoch = epoch_;
  node->link_count = attributes->link_count;
  node->attributes = record->attributes;
  node->creation_time = record->creation_time;
  node->access_time = record->access_time;
  node->write_time = record->write_time;
  node->change_time = record->write_time;
  node->security = Intern(record->security_descriptor);
  node->reparse_tag = record->reparse_tag;
  node->reparse_reserved = record->reparse_reserved;
  node->reparse_flags = record->reparse_flags;
  node->unknown_field = record->unknown_field;
  node->reparse_hash = record->reparse_hash;
  node->reparse_size = record->reparse_size;
  node->unix_data = record->unix_data;
  node->tagged_items = std::move(record->tagged_items);
  for (size_t i = 0; i < record->streams.size(); ++i) {
    StreamRecord& from = record->streams[i];
    Stream& stream = node->streams.emplace_back();
    stream.id = from.name.empty() ? 0 : base_->StreamNode(file, i);
    stream.name = std::move(from.name);
    stream.size = stream.blob_size = stream.blob_used = from.size;
    stream.hash = from.hash;
  }
  if (node->is_directory()) {
    ErrnoOr<NodeId> parent = base_tree_->Parent(file);
    if (!parent.ok()) return nullptr;
    node->parent = *parent;
  }
  return nodes_.emplace(file, std::move(node)).first->second.get();
}

Directory* Catalog::ChangeDirectory(NodeId id) {
  auto found = directories_.find(id);
  if (found != directories_.end()) {
    std::shared_ptr<Directory>& directory = found->second;
    if (directory->epoch < epoch_) {
      directory = std::make_shared<Directory>(*directory);
      directory->epoch = epoch_;
    }
    return directory.get();
  }
  if (IsNew(id) || gone_.contains(id) || base_->FileOfNode(id).first != id) return nullptr;
  if (const Node* node = Find(id); node != nullptr && !node->is_directory()) return nullptr;
  auto directory = std::make_shared<Directory>();
  directory->epoch = epoch_;
  const int error = base_->VisitEntries(id, [&](const BaseImage::Entry& entry) {
    directory->Add(entry.cookie, {std::string(entry.name), std::string(entry.short_name), entry.node});
    return true;
  });
  if (error != 0) return nullptr;
  return directories_.emplace(id, std::move(directory)).first->second.get();
}

const Directory* Catalog::Entries(NodeId directory) {
  const Directory* found = FindDirectory(directory);
  return found != nullptr ? found : ChangeDirectory(directory);
}

Stream* Catalog::ChangeStream(NodeId file, NodeId stream) {
  Node* node = Change(file);
  return node == nullptr ? nullptr : node->FindStream(stream);
}

Catalog::Name Catalog::FindName(NodeId file) const {
  const Node* const node = Find(file);
  bool several = false;
  if (node != nullptr) {
    several = !node->is_directory() && node->link_count > 1;
  } else if (ErrnoOr<NodeAttributes> base = base_tree_->GetAttributes(file); base.ok()) {
    several = !S_ISDIR(base->mode) && base->link_count > 1;
  }
  auto look_in = [&](NodeId directory) {
    Name name;
    // False: it is found.
    auto look_at = [&](uint64_t cookie, NodeId named, std::string_view short_name) {
      if (named != file) return true;
      if (name.directory == 0 || !short_name.empty()) name = {directory, cookie, std::string(short_name)};
      return several && short_name.empty();
    };
    if (const Directory* entries = FindDirectory(directory)) {
      for (const auto& [cookie, item] : entries->items()) {
        if (!look_at(cookie, item.node, item.short_name)) break;
      }
    } else if (directory != 0 && directory < kFirstNewNode && !gone_.contains(directory)) {
      base_->VisitEntries(directory, [&](const BaseImage::Entry& entry) {
        return look_at(entry.cookie, entry.node, entry.short_name);
      });
    }
    return name;
  };
  if (node != nullptr) {
    if (Name name = look_in(node->parent); name.directory != 0) return name;
  }
  if (file <= base_->LastNode()) {
    std::call_once(parents_once_, [this] { FindParents(); });
    if (Name name = look_in(parents_[file]); name.directory != 0) return name;
  }
  for (const auto& [id, entries] : directories_) {
    if (Name name = look_in(id); name.directory != 0) return name;
  }
  return {};
}

// Once for a tree: 10 ms for 100,000 files.
void Catalog::FindParents() const {
  parents_.resize(base_->LastNode() + 1);
  std::vector<bool> has_short_name(parents_.size());
  for (NodeId parent = 1; parent < parents_.size(); ++parent) {
    base_->VisitEntries(parent, [&](const BaseImage::Entry& entry) {
      if (entry.node >= parents_.size()) return true;
      const bool better = !entry.short_name.empty() && !has_short_name[entry.node];
      if (parents_[entry.node] == 0 || better) parents_[entry.node] = parent;
      if (better) has_short_name[entry.node] = true;
      return true;
    });
  }
}

void Catalog::Remember(uint64_t request, const Outcome& outcome) {
  if (request == 0) return;
  if (!outcomes_.insert_or_assign(request, outcome).second) return;
  request_order_.push_back(request);
  if (request_order_.size() <= kMaxRequests) return;
  outcomes_.erase(request_order_.front());
  request_order_.pop_front();
}

const Catalog::Outcome* Catalog::FindOutcome(uint64_t request) const {
  auto found = outcomes_.find(request);
  return request == 0 || found == outcomes_.end() ? nullptr : &found->second;
}

void Catalog::ForgetRequests() {
  outcomes_.clear();
  request_order_.clear();
}

std::vector<ArenaRange> Catalog::UsedRanges() const {
  std::vector<ArenaRange> used;
  for (const auto& [id, node] : nodes_) {
    for (const Stream& stream : node->streams) {
      for (const auto& [offset, extent] : stream.extents.extents()) {
        if (extent.is_data()) used.push_back({extent.arena, extent.length});
      }
    }
  }
  return used;
}

bool Catalog::ExtentsAreDisjoint() const {
  std::vector<ArenaRange> used = UsedRanges();
  std::sort(used.begin(), used.end(), [](const ArenaRange& a, const ArenaRange& b) { return a.offset < b.offset; });
  for (size_t i = 1; i < used.size(); ++i) {
    if (used[i - 1].offset + used[i - 1].length > used[i].offset) return false;
  }
  return true;
}

bool Catalog::IsConsistent() const {
  // Each directory is in one place, and says which: so that they form no loop, and a walk ends.
  absl::flat_hash_set<NodeId> placed;
  for (const auto& [id, entries] : directories_) {
    for (const auto& [cookie, item] : entries->items()) {
      if (!Exists(item.node)) return false;
      const Node* node = Find(item.node);
      if (node != nullptr && !node->is_directory()) continue;
      if (node == nullptr) {
        ErrnoOr<NodeId> parent = base_tree_->Parent(item.node);
        if (!parent.ok()) continue;  // a file
        if (*parent != id) return false;
      } else if (node->parent != id) {
        return false;
      }
      if (item.node == kRootNode || !placed.insert(item.node).second) return false;
    }
  }
  for (const auto& [id, node] : nodes_) {
    if (!node->is_directory() || id == kRootNode) continue;
    if (IsNew(id)) {
      if (!directories_.contains(id) || (node->parent != 0 && !placed.contains(id))) return false;
      continue;
    }
    ErrnoOr<NodeId> base_parent = base_tree_->Parent(id);
    const bool moved = !base_parent.ok() || node->parent != *base_parent;
    if (moved && base_parent.ok() && !directories_.contains(*base_parent) && Exists(*base_parent)) return false;
    if (node->parent != 0 && (moved || directories_.contains(node->parent)) && !placed.contains(id)) return false;
  }
  // Upwards everything leads to the root, or to a directory that has no name any more.
  absl::flat_hash_set<NodeId> good = {kRootNode};
  for (const auto& [id, node] : nodes_) {
    if (!node->is_directory()) continue;
    absl::flat_hash_set<NodeId> way;
    NodeId at = id;
    while (at != 0 && !good.contains(at)) {
      if (!way.insert(at).second) return false;
      const Node* step = Find(at);
      if (step == nullptr) break;  // the base's: leads to the root, or to a changed one that is looked at by itself
      at = step->parent;
    }
    good.insert(way.begin(), way.end());
  }
  return ExtentsAreDisjoint();
}

}  // namespace libmount
