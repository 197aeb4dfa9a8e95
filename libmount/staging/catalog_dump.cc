// SPDX-License-Identifier: GPL-3.0-or-later
//
// Catalog: written whole into a new log, and read from one.

#include <algorithm>
#include <utility>

#include "libmount/staging/arena.h"
#include "libmount/staging/catalog.h"
#include "libmount/staging/edit_log.h"

namespace libmount {
namespace {

// Records of a new log are ended at this size; one edit more is far from EditLog::kMaxEdits.
constexpr size_t kDumpRecordSize = 256 << 10;

constexpr uint32_t kDumpedMeta = kMetaCreationTime | kMetaAccessTime | kMetaWriteTime | kMetaChangeTime |
                                 kMetaSecurity | kMetaTaggedItems | kMetaDentry;

}  // namespace

void AppendMeta(NodeId id, const Node& node, uint32_t mask, const SecurityTable& security, EditWriter& edits) {
  uint64_t security_number = 0;
  if ((mask & kMetaSecurity) != 0 && node.security != nullptr) {
    security_number = security.NumberOf(node.security, edits) + 1;
  }
  edits.Op(Edit::kMeta).Number(id).Number(mask);
  if (mask & kMetaAttributes) edits.Number(node.attributes);
  if (mask & kMetaCreationTime) edits.Number(node.creation_time);
  if (mask & kMetaAccessTime) edits.Number(node.access_time);
  if (mask & kMetaWriteTime) edits.Number(node.write_time);
  if (mask & kMetaChangeTime) edits.Number(node.change_time);
  if (mask & kMetaSecurity) edits.Number(security_number);
  if (mask & kMetaUnixData) {
    const UnixFileData data = node.unix_data.value_or(UnixFileData());
    edits.Number(data.uid).Number(data.gid).Number(data.mode).Number(data.device);
  }
  if (mask & kMetaReparse) edits.Number(node.reparse_tag).Number(node.reparse_reserved).Text(node.reparse_data);
  if (mask & kMetaTaggedItems) edits.Text(node.tagged_items);
  if (mask & kMetaLinkText) edits.Text(node.link_text.value_or(std::string()));
  if (mask & kMetaDentry) edits.Number(node.reparse_flags).Number(node.unknown_field);
}

SecurityTable Catalog::Dump(absl::FunctionRef<void(std::string_view edits)> visitor) const {
  SecurityTable table;
  EditWriter edits;
  auto end_edit = [&](size_t limit) {
    if (edits.bytes().size() < limit || edits.empty()) return;
    visitor(edits.bytes());
    edits.clear();
  };
  edits.Op(Edit::kCounters).Number(next_node_).Number(last_change_).Number(committed_change_);
  for (uint64_t request : request_order_) {
    const Outcome& outcome = outcomes_.find(request)->second;
    edits.Op(Edit::kRequest).Number(request).Number(outcome.operation).Number(outcome.result);
  }
  for (NodeId id : gone_) {
    edits.Op(Edit::kGone).Number(id);
    end_edit(kDumpRecordSize);
  }
  for (const auto& [id, changed] : changed_) {
    edits.Op(Edit::kChanged).Number(id).Number(changed.last).Number(changed.made);
    end_edit(kDumpRecordSize);
  }
  for (const auto& [id, node] : nodes_) {
    edits.Op(Edit::kNode).Number(id).Number(node->parent).Number(node->link_count).Number(node->attributes);
    edits.Number(node->reparse_tag).Number(node->reparse_reserved).Number(node->reparse_size).Hash(node->reparse_hash);
    for (const Stream& stream : node->streams) {
      edits.Op(Edit::kStream).Number(id).Number(stream.id).Text(stream.name).Number(stream.size);
      edits.Hash(stream.hash).Number(stream.blob_size).Number(stream.blob_used);
      for (const auto& [offset, extent] : stream.extents.extents()) {
        edits.Op(extent.is_data() ? Edit::kData : Edit::kZeros).Number(id).Number(stream.id);
        edits.Number(offset).Number(extent.length);
        if (extent.is_data()) edits.Number(extent.arena);
        end_edit(kDumpRecordSize);
      }
    }
    uint32_t mask = kDumpedMeta;
    if (node->unix_data) mask |= kMetaUnixData;
    if (node->reparse_staged) mask |= kMetaReparse;
    if (node->link_text) mask |= kMetaLinkText;
    AppendMeta(id, *node, mask, table, edits);
    if (node->security != nullptr) table.AddIfNew(node->security);
    end_edit(kDumpRecordSize);
  }
  for (const auto& [id, directory] : directories_) {
    edits.Op(Edit::kDirectory).Number(id).Number(directory->next_cookie());
    for (const auto& [cookie, item] : directory->items()) {
      edits.Op(Edit::kEntry).Number(id).Number(cookie).Number(item.node).Text(item.name).Text(item.short_name);
      end_edit(kDumpRecordSize);
    }
  }
  end_edit(0);
  return table;
}

bool Catalog::ApplyDumped(Edit edit, EditReader& reader) {
  switch (edit) {
    case Edit::kCounters:
      next_node_ = reader.Number();
      last_change_ = reader.Number();
      committed_change_ = reader.Number();
      return next_node_ >= kFirstNewNode && next_node_ < kEndOfNewNodes;
    case Edit::kRequest: {
      const uint64_t request = reader.Number();
      const uint32_t operation = reader.Number32();
      Remember(request, {operation, reader.Number()});
      return true;
    }
    case Edit::kGone: {
      const NodeId id = reader.Number();
      if (id == kRootNode || id >= kFirstNewNode) return false;
      gone_.insert(id);
      return true;
    }
    case Edit::kChanged: {
      const NodeId id = reader.Number();
      const uint64_t last = reader.Number();
      changed_[id] = {last, reader.Number()};
      return last <= last_change_;
    }
    case Edit::kNode: return ApplyDumpedNode(reader);
    case Edit::kStream: return ApplyDumpedStream(reader);
    case Edit::kDirectory: {
      const NodeId id = reader.Number();
      const uint64_t next_cookie = reader.Number();
      if (next_cookie == 0 || next_cookie >= UINT64_MAX / 2 || directories_.contains(id)) return false;
      auto entries = std::make_shared<Directory>();
      entries->epoch = epoch_;
      entries->set_next_cookie(next_cookie);
      directories_.emplace(id, std::move(entries));
      return true;
    }
    case Edit::kEntry: {
      auto directory = directories_.find(reader.Number());
      const uint64_t cookie = reader.Number();
      DirectoryItem item;
      item.node = reader.Number();
      item.name = reader.Text();
      item.short_name = reader.Text();
      if (!reader.ok() || directory == directories_.end() || directory->second->At(cookie) != nullptr) return false;
      if (cookie == 0 || cookie >= directory->second->next_cookie() || item.name.empty()) return false;
      directory->second->Add(cookie, std::move(item));
      return true;
    }
    default: return false;
  }
}

bool Catalog::ApplyDumpedNode(EditReader& reader) {
  const NodeId id = reader.Number();
  auto node = std::make_shared<Node>();
  node->epoch = epoch_;
  node->parent = reader.Number();
  node->link_count = reader.Number32();
  node->attributes = reader.Number32();
  node->reparse_tag = reader.Number32();
  node->reparse_reserved = static_cast<uint16_t>(reader.Number());
  node->reparse_size = reader.Number();
  node->reparse_hash = reader.Hash();
  if (!reader.ok() || gone_.contains(id) || nodes_.contains(id)) return false;
  if (id >= kFirstNewNode ? id >= next_node_ : !Exists(id)) return false;
  if (id != kRootNode && (node->is_directory() ? node->parent == 0 : node->link_count == 0)) orphans_.insert(id);
  nodes_.emplace(id, std::move(node));
  return true;
}

bool Catalog::ApplyDumpedStream(EditReader& reader) {
  const NodeId file = reader.Number();
  auto found = nodes_.find(file);
  Stream stream;
  stream.id = reader.Number();
  stream.name = reader.Text();
  stream.size = reader.Number();
  stream.hash = reader.Hash();
  stream.blob_size = reader.Number();
  stream.blob_used = reader.Number();
  if (!reader.ok() || found == nodes_.end() || found->second->FindStream(stream.id) != nullptr) return false;
  if (stream.size > kMaxFileSize && stream.size != stream.blob_size) return false;
  if (stream.blob_used > stream.blob_size || stream.blob_used > stream.size) return false;
  if (stream.name.empty() != (stream.id == 0)) return false;
  if (stream.id >= kFirstNewNode && stream.id < kEndOfNewNodes) {
    if (stream.id >= next_node_ || !stream_files_.emplace(stream.id, file).second) return false;
  } else if (stream.id != 0 && base_->FileOfNode(stream.id).first != file) {
    return false;
  }
  found->second->streams.push_back(std::move(stream));
  return true;
}

}  // namespace libmount
