// SPDX-License-Identifier: GPL-3.0-or-later
//
// Catalog: edits. What a log says is taken for hostile: an edit that makes no sense ends the replay.

#include <algorithm>
#include <utility>

#include "libmount/staging/arena.h"
#include "libmount/staging/catalog.h"

namespace libmount {
namespace {

// What no directory can show.
bool IsShowable(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

bool IsInFile(uint64_t offset, uint64_t length) { return offset <= kMaxFileSize && length <= kMaxFileSize - offset; }

}  // namespace

bool Catalog::Apply(std::string_view edits, uint64_t number) {
  counts_ = number != last_change_;
  last_change_ = number;
  EditReader reader(edits);
  while (!reader.AtEnd()) {
    const Edit edit = reader.Op();
    if (!ApplyOne(edit, reader) || !reader.ok()) return false;
  }
  return reader.ok();
}

void Catalog::NoteChanged(NodeId file) {
  if (counts_) changed_[file].last = last_change_;
}

void Catalog::NoteCommitted() {
  absl::erase_if(changed_, [this](const auto& entry) { return entry.second.last <= committed_change_; });
  for (auto& [file, changed] : changed_) {
    if (changed.made <= committed_change_) changed.made = 0;
  }
}

bool Catalog::ApplyOne(Edit edit, EditReader& reader) {
  switch (edit) {
    case Edit::kNewNode: return ApplyNewNode(reader);
    case Edit::kMeta: return ApplyMeta(reader);
    case Edit::kAddName: return ApplyAddName(reader);
    case Edit::kRemoveName: return ApplyRemoveName(reader);
    case Edit::kShortName: {
      Directory* directory = ChangeDirectory(reader.Number());
      const uint64_t cookie = reader.Number();
      const std::string_view name = reader.Text();
      if (directory == nullptr || directory->At(cookie) == nullptr || (!name.empty() && !IsShowable(name)))
        return false;
      NoteChanged(directory->At(cookie)->node);
      directory->SetShortName(cookie, name);
      return true;
    }
    case Edit::kNewStream:
    case Edit::kDropStream:
    case Edit::kData:
    case Edit::kZero:
    case Edit::kZeros:
    case Edit::kSize:
    case Edit::kMoved:
    case Edit::kStored: return ApplyStream(edit, reader);
    case Edit::kReparseStored: {
      Node* node = Change(reader.Number());
      const BlobHash hash = reader.Hash();
      if (node == nullptr || !node->reparse_staged) return false;
      node->reparse_staged = false;
      node->reparse_hash = hash;
      node->reparse_size = node->reparse_data.size();
      node->reparse_data.clear();
      return true;
    }
    case Edit::kDropNode: return ApplyDropNode(reader.Number());
    case Edit::kSecurity: {
      const uint64_t number = reader.Number();
      const std::string_view bytes = reader.Text();
      if (number != logged_security_.size() || bytes.empty()) return false;
      logged_security_.Add(Intern(bytes));
      return true;
    }
    case Edit::kCommitted:
      committed_change_ = reader.Number();
      NoteCommitted();
      return committed_change_ <= last_change_;
    default: return ApplyDumped(edit, reader);
  }
}

bool Catalog::TakeId(NodeId id) {
  if (id < kFirstNewNode || id >= kEndOfNewNodes || nodes_.contains(id) || stream_files_.contains(id)) return false;
  next_node_ = std::max(next_node_, id + 1);
  return true;
}

bool Catalog::ApplyNewNode(EditReader& reader) {
  const NodeId id = reader.Number();
  const uint64_t is_directory = reader.Number();
  if (!reader.ok() || !TakeId(id)) return false;
  auto node = std::make_shared<Node>();
  node->epoch = epoch_;
  if (is_directory != 0) {
    node->attributes = kAttributeDirectory;
    node->link_count = 2;
    auto entries = std::make_shared<Directory>();
    entries->epoch = epoch_;
    directories_.emplace(id, std::move(entries));
  } else {
    node->streams.emplace_back();
  }
  nodes_.emplace(id, std::move(node));
  orphans_.insert(id);
  NoteChanged(id);
  if (counts_) changed_[id].made = last_change_;
  return true;
}

void Catalog::SetReparse(Node& node, uint32_t tag, uint16_t reserved, std::string_view data) {
  node.reparse_tag = tag;
  node.reparse_reserved = reserved;
  node.reparse_flags = 0;
  node.reparse_data = data;
  node.reparse_staged = tag != 0;
  node.reparse_hash = {};
  node.reparse_size = data.size();
  node.reparse_version = last_change_;
  node.link_text.reset();
}

bool Catalog::ApplyMeta(EditReader& reader) {
  const NodeId id = reader.Number();
  const uint32_t mask = reader.Number32();
  Node* node = Change(id);
  if (node == nullptr) return false;
  NoteChanged(id);
  const bool was_directory = node->is_directory();
  if (mask & kMetaAttributes) node->attributes = reader.Number32();
  if (mask & kMetaCreationTime) node->creation_time = reader.Number();
  if (mask & kMetaAccessTime) node->access_time = reader.Number();
  if (mask & kMetaWriteTime) node->write_time = reader.Number();
  if (mask & kMetaChangeTime) node->change_time = reader.Number();
  if (mask & kMetaSecurity) {
    const uint64_t number = reader.Number();
    if (number > logged_security_.size()) return false;
    node->security = number == 0 ? nullptr : logged_security_.at(number - 1);
  }
  if (mask & kMetaUnixData) {
    UnixFileData data;
    data.uid = reader.Number32();
    data.gid = reader.Number32();
    data.mode = reader.Number32();
    data.device = reader.Number32();
    node->unix_data = data;
  }
  if (mask & kMetaReparse) {
    const uint32_t tag = reader.Number32();
    const auto reserved = static_cast<uint16_t>(reader.Number());
    SetReparse(*node, tag, reserved, reader.Text());
  }
  if (mask & kMetaTaggedItems) node->tagged_items = reader.Text();
  if (mask & kMetaLinkText) node->link_text = std::string(reader.Text());
  if (mask & kMetaDentry) {
    node->reparse_flags = static_cast<uint16_t>(reader.Number());
    node->unknown_field = reader.Number32();
  }
  if (node->is_directory() == was_directory) return true;
  // A directory became a link, or the other way round. Only an empty one can.
  if (id == kRootNode) return false;
  if (was_directory) {
    const Directory* entries = Entries(id);
    if (entries != nullptr && !entries->items().empty()) return false;
    directories_.erase(id);
    node->link_count = node->parent != 0 ? 1 : 0;
  } else {
    if (node->link_count != 1) return false;
    node->link_count = 2;
    auto entries = std::make_shared<Directory>();
    entries->epoch = epoch_;
    directories_[id] = std::move(entries);
    node->parent = FindName(id).directory;
    node = Change(id);
  }
  if (Node* parent = node->parent == 0 ? nullptr : Change(node->parent)) parent->link_count += was_directory ? -1 : 1;
  return true;
}

bool Catalog::CanHold(NodeId directory) const {
  if (directory == kRootNode) return true;
  const Node* node = Find(directory);
  if (node != nullptr) return node->is_directory() && node->parent != 0;
  return Exists(directory);
}

bool Catalog::ApplyAddName(EditReader& reader) {
  const NodeId directory = reader.Number();
  const uint64_t cookie = reader.Number();
  const NodeId id = reader.Number();
  const std::string_view name = reader.Text();
  const std::string_view short_name = reader.Text();
  if (!reader.ok() || !IsShowable(name) || (!short_name.empty() && !IsShowable(short_name))) return false;
  if (id == kRootNode || cookie == 0 || cookie >= UINT64_MAX / 2 || !CanHold(directory)) return false;
  Directory* entries = ChangeDirectory(directory);
  if (entries == nullptr || entries->At(cookie) != nullptr) return false;
  Node* node = Change(id);
  if (node == nullptr) return false;
  if (node->is_directory()) {
    if (node->parent != 0) return false;
    Node* parent = Change(directory);
    if (parent == nullptr || !parent->is_directory()) return false;
    ++parent->link_count;
    node->parent = directory;
  } else if (++node->link_count == 1) {
    node->parent = directory;  // further names change nothing: its short name is shown, which belongs to the first
  }
  entries->Add(cookie, {std::string(name), std::string(short_name), id});
  orphans_.erase(id);
  NoteChanged(id);
  return true;
}

bool Catalog::ApplyRemoveName(EditReader& reader) {
  const NodeId directory = reader.Number();
  const uint64_t cookie = reader.Number();
  Directory* entries = ChangeDirectory(directory);
  const DirectoryItem* item = entries == nullptr ? nullptr : entries->At(cookie);
  if (item == nullptr) return false;
  const NodeId id = item->node;
  Node* node = Change(id);
  if (node == nullptr) return false;
  NoteChanged(id);
  entries->Remove(cookie);
  if (node->is_directory()) {
    Node* parent = Change(directory);
    if (parent == nullptr) return false;
    --parent->link_count;
    node->parent = 0;
    orphans_.insert(id);
    return true;
  }
  if (node->link_count == 0) return false;
  --node->link_count;
  if (node->parent == directory) node->parent = 0;
  if (node->link_count == 0) orphans_.insert(id);
  return true;
}

void Catalog::ReleaseStream(Stream& stream) {
  std::vector<ArenaRange> freed;
  staged_bytes_ -= stream.extents.data_bytes();
  stream.extents.Remove(0, UINT64_MAX, freed);
  for (const ArenaRange& range : freed) freed_.push_back(WholeBlocks(range));
}

bool Catalog::ApplyStream(Edit edit, EditReader& reader) {
  const NodeId file = reader.Number();
  const NodeId id = reader.Number();
  Node* node = Change(file);
  if (node == nullptr) return false;
  NoteChanged(file);
  if (edit == Edit::kNewStream) {
    const std::string_view name = reader.Text();
    if (name.empty() || !TakeId(id)) return false;
    Stream& stream = node->streams.emplace_back();
    stream.id = id;
    stream.name = name;
    stream.version = last_change_;
    stream_files_.emplace(id, file);
    return true;
  }
  Stream* stream = node->FindStream(id);
  if (stream == nullptr) return false;
  if (edit == Edit::kDropStream) {
    if (id == 0) return false;
    ReleaseStream(*stream);
    node->streams.erase(node->streams.begin() + (stream - node->streams.data()));
    return true;
  }
  staged_bytes_ -= stream->extents.data_bytes();
  const bool good = ApplyStreamData(edit, *stream, reader);
  staged_bytes_ += stream->extents.data_bytes();
  return good;
}

bool Catalog::ApplyStreamData(Edit edit, Stream& stream, EditReader& reader) {
  if (edit == Edit::kStored) {
    const BlobHash hash = reader.Hash();
    staged_bytes_ += stream.extents.data_bytes();
    ReleaseStream(stream);
    stream.hash = hash;
    stream.blob_size = stream.blob_used = stream.size;
    return true;
  }
  if (edit == Edit::kMoved) {
    const BlobHash hash = reader.Hash();
    const uint64_t size = reader.Number();
    if (!reader.ok() || stream.blob_used > size) return false;
    stream.hash = hash;
    stream.blob_size = size;
    return true;
  }
  stream.version = last_change_;
  if (edit == Edit::kSize) {
    const uint64_t size = reader.Number();
    if (size > kMaxFileSize) return false;
    if (size == 0) {
      staged_bytes_ += stream.extents.data_bytes();
      ReleaseStream(stream);
    } else if (size < stream.size) {
      stream.extents.Remove(size, UINT64_MAX - size, freed_);
    }
    stream.blob_used = std::min(stream.blob_used, size);
    stream.size = size;
    return true;
  }
  const uint64_t offset = reader.Number();
  const uint64_t length = reader.Number();
  if (!reader.ok() || !IsInFile(offset, length)) return false;
  const uint64_t end = offset + length;
  if (edit == Edit::kData) {
    const uint64_t arena = reader.Number();
    if (arena > Arena::kMaxSize || length == 0) return false;
    stream.extents.Put(offset, {length, arena, epoch_}, freed_);
    stream.size = std::max(stream.size, end);
    return true;
  }
  if (edit == Edit::kZeros) {
    stream.extents.Put(offset, {length, Extent::kZeros, epoch_}, freed_);
    return true;
  }
  // kZero: forget what is staged there, and hide what the base has.
  stream.extents.Remove(offset, length, freed_);
  if (offset >= stream.blob_used) return true;
  if (end >= stream.blob_used) {
    stream.blob_used = offset;
  } else {
    stream.extents.Put(offset, {length, Extent::kZeros, epoch_}, freed_);
  }
  return true;
}

bool Catalog::ApplyDropNode(NodeId file) {
  auto orphan = orphans_.find(file);
  if (orphan == orphans_.end()) return false;
  Node* node = Change(file);
  if (node == nullptr) return false;
  for (Stream& stream : node->streams) {
    ReleaseStream(stream);
    if (stream.id != 0) stream_files_.erase(stream.id);
  }
  orphans_.erase(orphan);
  nodes_.erase(file);
  directories_.erase(file);
  if (file < kFirstNewNode) gone_.insert(file);
  // One that no commit has had was never there.
  if (auto changed = changed_.find(file); changed != changed_.end() && changed->second.made != 0)
    changed_.erase(changed);
  return true;
}

}  // namespace libmount
