// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/wim/metadata_writer.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"

namespace libmount {
namespace {

constexpr size_t kDentrySize = 102;
constexpr size_t kSubdirectoryAt = 0x10;
constexpr size_t kHashAt = 0x40;
constexpr size_t kHardLinkGroupAt = 0x58;
constexpr size_t kStreamCountAt = 0x60;
constexpr size_t kShortNameSizeAt = 0x62;
constexpr size_t kNameSizeAt = 0x64;
constexpr uint64_t kEndOfDirectory = 8;
constexpr size_t kMaxStreams = 0xffff;
constexpr size_t kMaxStreamNameSize = 0xfffe;
constexpr uint32_t kNoSecurity = 0xffffffff;

constexpr uint64_t Align8(uint64_t value) { return (value + 7) & ~uint64_t{7}; }

void Pad8(std::string& bytes) { bytes.resize(Align8(bytes.size())); }

template <typename T>
void Store(T value, char* at) {
  memcpy(at, &value, sizeof value);
}

// With the zero that follows a name, if there is one.
constexpr uint64_t NameSpace(uint64_t size) { return size == 0 ? 0 : size + 2; }

// wimlib's idea of a directory that has a list, even an empty one.
bool IsPlainDirectory(uint32_t attributes) {
  return (attributes & (kAttributeDirectory | kAttributeReparsePoint)) == kAttributeDirectory;
}

}  // namespace

BlobReferences CountReferences(const ImageMetadata& image, const BlobTable& blobs) {
  std::vector<uint64_t> counts(blobs.size());
  auto add = [&](uint32_t blob, uint64_t count) {
    if (blob < counts.size()) counts[blob] += count;
  };
  for (const MetadataInode& inode : image.inodes) {
    const bool directory = image.IsDirectory(inode);
    const uint64_t names = directory ? 1 : inode.link_count;
    if (!directory) add(inode.content, names);
    const MetadataExtra* extra = image.Extra(inode);
    if (extra == nullptr) continue;
    add(extra->reparse_blob, names);
    for (uint32_t i = 0; i < extra->stream_count; ++i) add(image.streams[extra->first_stream + i].blob, names);
  }
  BlobReferences references;
  for (uint32_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) references.emplace(blobs.hash(i), counts[i]);
  }
  return references;
}

std::string WithUnixData(std::string_view tagged_items, const UnixFileData& data) {
  std::string item;
  for (uint32_t value : {data.uid, data.gid, data.mode, data.device}) AppendLe(value, item);
  std::string result(tagged_items);
  const std::string_view old = FindTaggedItem(tagged_items, kTagUnixData, item.size());
  if (!old.empty()) {
    result.replace(static_cast<size_t>(old.data() - tagged_items.data()), item.size(), item);
    return result;
  }
  Pad8(result);
  AppendLe(kTagUnixData, result);
  AppendLe(static_cast<uint32_t>(item.size()), result);
  return result + item;
}

MetadataWriter::MetadataWriter(const ImageMetadata& base, std::string name) : name_(std::move(name)) {
  for (TextRange range : base.security) {
    security_.emplace_back(base.Text(range));
    security_ids_.try_emplace(security_.back(), static_cast<uint32_t>(security_.size() - 1));
  }
}

absl::Status MetadataWriter::Bad(std::string_view what) const {
  return MakeError(Reason::kUnspecified, absl::StrFormat("%s: the tree cannot be committed: %s", name_, what));
}

uint32_t MetadataWriter::SecurityIdOf(const std::string& descriptor) {
  if (descriptor.empty()) return kNoSecurity;
  auto [place, inserted] = security_ids_.try_emplace(descriptor, static_cast<uint32_t>(security_.size()));
  if (inserted) security_.push_back(descriptor);
  return place->second;
}

absl::Status MetadataWriter::AddTree(const ImageContents& contents, StoreData store_data) {
  Entry root;
  absl::StatusOr<uint32_t> root_node = AddNode(kRootNode, contents, store_data);
  if (!root_node.ok()) return root_node.status();
  root.node = *root_node;
  if (nodes_[root.node].directory == kNone) return Bad("its root is not a directory");
  nodes_[root.node].names = 1;
  entries_.push_back(root);
  Count(root);

  std::vector<uint32_t> pending;  // a stack of nodes: directories whose list is not read
  std::vector<uint32_t> found;
  pending.push_back(root.node);
  while (!pending.empty()) {
    const uint32_t node = pending.back();
    pending.pop_back();
    const uint32_t depth = directories_[nodes_[node].directory].depth;
    if (depth > kMaxDirectoryDepth) return Bad("its directories lie too deep");
    const NodeId id = directories_[nodes_[node].directory].node;
    const uint64_t first = entries_.size();
    absl::Status status;
    contents.VisitEntries(id, [&](const ImageContents::Entry& entry) {
      if (status.ok()) status = AddEntry(entry, contents, store_data);
    });
    if (!status.ok()) return status;
    directories_[nodes_[node].directory].first_entry = first;
    directories_[nodes_[node].directory].entry_count = entries_.size() - first;
    found.clear();
    for (uint64_t i = first; i < entries_.size(); ++i) {
      const Node& child = nodes_[entries_[i].node];
      if (child.directory == kNone) continue;
      directories_[child.directory].depth = depth + 1;
      found.push_back(entries_[i].node);
    }
    pending.insert(pending.end(), found.rbegin(), found.rend());
  }
  return absl::OkStatus();
}

absl::Status MetadataWriter::AddEntry(const ImageContents::Entry& entry, const ImageContents& contents,
                                      StoreData store_data) {
  const std::optional<std::string> name = Wtf8ToUtf16Le(entry.name);
  const std::optional<std::string> short_name = Wtf8ToUtf16Le(entry.short_name);
  if (!name || !short_name || name->empty() || name->size() > 2 * kMaxNameUnits ||
      short_name->size() > 2 * kMaxNameUnits) {
    return Bad(absl::StrFormat("the name \"%s\" is not one of Windows", entry.name));
  }
  absl::StatusOr<uint32_t> node = AddNode(entry.node, contents, store_data);
  if (!node.ok()) return node.status();
  if (++nodes_[*node].names > 1 && nodes_[*node].directory != kNone) {
    return Bad(absl::StrFormat("the directory \"%s\" has more than one name", entry.name));
  }
  Entry added;
  added.node = *node;
  added.name = bytes_.size();
  added.name_size = static_cast<uint16_t>(name->size());
  added.short_name_size = static_cast<uint16_t>(short_name->size());
  bytes_ += *name;
  bytes_ += *short_name;
  entries_.push_back(added);
  Count(added);
  return absl::OkStatus();
}

void MetadataWriter::Count(const Entry& entry) {
  const Node& node = nodes_[entry.node];
  const uint32_t attributes = LoadLe32(bytes_.data() + node.fixed + 8);
  ++(IsPlainDirectory(attributes) ? counts_.directories : counts_.files);
  counts_.total_bytes += node.data_size;
  if (node.names > 1) counts_.hard_link_bytes += node.data_size;
  const auto [first, count] = node_hashes_[entry.node];
  for (uint64_t i = first; i < first + count; ++i) ++references_[hashes_[i]];
}

absl::StatusOr<uint32_t> MetadataWriter::AddNode(NodeId id, const ImageContents& contents, StoreData store_data) {
  auto [place, inserted] = node_of_.try_emplace(id, static_cast<uint32_t>(nodes_.size()));
  if (!inserted) return place->second;
  const uint32_t index = place->second;
  ImageContents::File file = contents.GetFile(id);
  if (absl::Status status = store_data(id, file); !status.ok()) return status;
  if (file.is_directory) file.record.attributes |= kAttributeDirectory;

  Node node;
  const uint64_t first_hash = hashes_.size();
  auto add_hash = [&](const BlobHash& hash, uint64_t size) {
    if (hash == BlobHash{}) return;
    hashes_.push_back(hash);
    node.data_size += size;
  };
  for (const StreamRecord& stream : file.record.streams) add_hash(stream.hash, stream.size);
  if (file.record.attributes & kAttributeReparsePoint) add_hash(file.record.reparse_hash, file.record.reparse_size);
  node_hashes_.emplace_back(first_hash, static_cast<uint32_t>(hashes_.size() - first_hash));

  if (file.is_directory) {
    node.directory = static_cast<uint32_t>(directories_.size());
    directories_.push_back({id});
  }
  if (absl::Status status = AppendDentry(file, node); !status.ok()) return status;
  nodes_.push_back(node);
  groups_.push_back(0);
  return index;
}

absl::Status MetadataWriter::AppendDentry(const ImageContents::File& file, Node& node) {
  const FileRecord& record = file.record;
  node.fixed = bytes_.size();
  AppendLe(uint64_t{0}, bytes_);  // length
  AppendLe(record.attributes, bytes_);
  AppendLe(SecurityIdOf(record.security_descriptor), bytes_);
  AppendLe(uint64_t{0}, bytes_);  // place of its list
  bytes_.append(16, '\0');
  AppendLe(record.creation_time, bytes_);
  AppendLe(record.access_time, bytes_);
  AppendLe(record.write_time, bytes_);
  bytes_.append(sizeof(BlobHash), '\0');
  AppendLe(record.unknown_field, bytes_);
  const bool reparse = record.attributes & kAttributeReparsePoint;
  AppendLe(reparse ? record.reparse_tag : uint32_t{0}, bytes_);
  AppendLe(reparse ? record.reparse_reserved : uint16_t{0}, bytes_);
  AppendLe(reparse ? record.reparse_flags : uint16_t{0}, bytes_);
  bytes_.append(kDentrySize - kStreamCountAt, '\0');

  std::string tagged = record.unix_data ? WithUnixData(record.tagged_items, *record.unix_data) : record.tagged_items;
  Pad8(tagged);
  node.tagged_size = static_cast<uint32_t>(tagged.size());
  bytes_ += tagged;
  return AppendStreams(record, node);
}

// As wimlib writes them: where there are named streams or reparse data, all are stream entries (Windows PE overlooks
// the hash in the dentry then); an encrypted file has one, in the dentry.
absl::Status MetadataWriter::AppendStreams(const FileRecord& record, Node& node) {
  BlobHash unnamed = {};
  size_t named = 0;
  for (const StreamRecord& stream : record.streams) {
    if (stream.name.empty()) {
      unnamed = stream.hash;
    } else {
      ++named;
    }
  }
  const bool encrypted = record.attributes & kAttributeEncrypted;
  bool reparse = (record.attributes & kAttributeReparsePoint) && !encrypted;
  if (record.reparse_hash == BlobHash{} && unnamed == BlobHash{} && named == 0) reparse = false;
  if (encrypted || (!reparse && named == 0)) {
    memcpy(bytes_.data() + node.fixed + kHashAt, unnamed.data(), unnamed.size());
    return absl::OkStatus();
  }
  const size_t count = named + (reparse ? 2 : 1);
  if (count > kMaxStreams) return Bad("a file has too many named streams");
  Store(static_cast<uint16_t>(count), bytes_.data() + node.fixed + kStreamCountAt);

  const size_t begin = bytes_.size();
  if (reparse) AppendStream({}, record.reparse_hash);
  AppendStream({}, unnamed);
  for (const StreamRecord& stream : record.streams) {
    if (stream.name.empty()) continue;
    const std::optional<std::string> name = Wtf8ToUtf16Le(stream.name);
    if (!name || name->size() > kMaxStreamNameSize) {
      return Bad(absl::StrFormat("the stream name \"%s\" is not one of Windows", stream.name));
    }
    AppendStream(*name, stream.hash);
  }
  node.streams_size = static_cast<uint32_t>(bytes_.size() - begin);
  return absl::OkStatus();
}

void MetadataWriter::AppendStream(std::string_view name_utf16, const BlobHash& hash) {
  constexpr uint64_t kFixedSize = 38;
  const uint64_t size = Align8(kFixedSize + NameSpace(name_utf16.size()));
  const size_t begin = bytes_.size();
  AppendLe(size, bytes_);
  AppendLe(uint64_t{0}, bytes_);
  bytes_.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  AppendLe(static_cast<uint16_t>(name_utf16.size()), bytes_);
  bytes_ += name_utf16;
  bytes_.resize(begin + size);
}

// [ u32 total size ][ u32 n ][ n sizes, u64 ][ descriptor 0 ][ descriptor 1 ] ...
std::string MetadataWriter::SecurityData() const {
  std::string data;
  AppendLe(uint32_t{0}, data);
  AppendLe(static_cast<uint32_t>(security_.size()), data);
  for (const std::string& descriptor : security_) AppendLe(uint64_t{descriptor.size()}, data);
  for (const std::string& descriptor : security_) data += descriptor;
  Pad8(data);
  Store(static_cast<uint32_t>(data.size()), data.data());
  return data;
}

// Without its stream entries.
uint64_t MetadataWriter::DentrySize(const Entry& entry) const {
  return Align8(kDentrySize + NameSpace(entry.name_size) + NameSpace(entry.short_name_size)) +
         nodes_[entry.node].tagged_size;
}

void MetadataWriter::WriteDentry(const Entry& entry, std::string& out) {
  const Node& node = nodes_[entry.node];
  const size_t begin = out.size();
  out.append(bytes_, node.fixed, kDentrySize);
  out.append(bytes_, entry.name, entry.name_size);
  if (entry.name_size > 0) out.append(2, '\0');
  out.append(bytes_, entry.name + entry.name_size, entry.short_name_size);
  if (entry.short_name_size > 0) out.append(2, '\0');
  Pad8(out);
  out.append(bytes_, node.fixed + kDentrySize, node.tagged_size);

  char* at = out.data() + begin;
  Store(uint64_t{out.size() - begin}, at);
  Store(entry.short_name_size, at + kShortNameSizeAt);
  Store(entry.name_size, at + kNameSizeAt);
  const uint32_t attributes = LoadLe32(at + 8);
  if (node.directory != kNone) {
    const Directory& directory = directories_[node.directory];
    if (IsPlainDirectory(attributes) || directory.entry_count > 0) Store(directory.offset, at + kSubdirectoryAt);
  }
  if (node.names > 1 && !(attributes & kAttributeReparsePoint)) {
    uint64_t& group = groups_[entry.node];
    if (group == 0) group = ++last_group_;
    Store(group, at + kHardLinkGroupAt);
  }
  out.append(bytes_, node.fixed + kDentrySize + node.tagged_size, node.streams_size);
}

absl::StatusOr<std::string> MetadataWriter::Finish() {
  std::string out = SecurityData();
  // The order of the lists: a directory's before those in it. directories_ is in the order in which they were found, so
  // the walk is done once more.
  std::vector<uint32_t> order;
  std::vector<uint32_t> pending = {nodes_[0].directory};
  std::vector<uint32_t> found;
  while (!pending.empty()) {
    const uint32_t index = pending.back();
    pending.pop_back();
    order.push_back(index);
    const Directory& directory = directories_[index];
    found.clear();
    for (uint64_t i = directory.first_entry; i < directory.first_entry + directory.entry_count; ++i) {
      const uint32_t child = nodes_[entries_[i].node].directory;
      if (child != kNone) found.push_back(child);
    }
    pending.insert(pending.end(), found.rbegin(), found.rend());
  }
  auto full_size = [this](const Entry& entry) { return DentrySize(entry) + nodes_[entry.node].streams_size; };
  auto has_list = [this](uint32_t index) {
    const Directory& directory = directories_[index];
    const uint32_t attributes = LoadLe32(bytes_.data() + nodes_[node_of_.at(directory.node)].fixed + 8);
    return IsPlainDirectory(attributes) || directory.entry_count > 0;
  };
  uint64_t offset = out.size() + full_size(entries_[0]) + kEndOfDirectory;
  for (uint32_t index : order) {
    if (!has_list(index)) continue;
    Directory& directory = directories_[index];
    directory.offset = offset;
    for (uint64_t i = 0; i < directory.entry_count; ++i) offset += full_size(entries_[directory.first_entry + i]);
    offset += kEndOfDirectory;
  }
  if (offset > kMaxMetadataSize) {
    return MakeError(Reason::kOutOfResources,
                     absl::StrFormat("%s: the image has too many files: their directory would have %d bytes, and at "
                                     "most %d can be read",
                                     name_, offset, kMaxMetadataSize));
  }
  out.reserve(offset);
  WriteDentry(entries_[0], out);
  out.append(kEndOfDirectory, '\0');
  for (uint32_t index : order) {
    if (!has_list(index)) continue;
    const Directory& directory = directories_[index];
    for (uint64_t i = 0; i < directory.entry_count; ++i) WriteDentry(entries_[directory.first_entry + i], out);
    out.append(kEndOfDirectory, '\0');
  }
  return out;
}

}  // namespace libmount
