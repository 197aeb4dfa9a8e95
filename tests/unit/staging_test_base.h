// SPDX-License-Identifier: GPL-3.0-or-later
//
// TestImage: a small image in memory, in the three views that staging takes: FileTree, BaseImage and BlobStore. Filled
// by hand, then constant. (The real one, a WIM's, is tried in staging_wim_test.cc.)

#ifndef TESTS_UNIT_STAGING_TEST_BASE_H_
#define TESTS_UNIT_STAGING_TEST_BASE_H_

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/base/utf16.h"
#include "libmount/tree/base_image.h"
#include "libmount/tree/file_mode.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

class TestImage : public FileTree, public BaseImage, public BlobStore {
 public:
  using FileTree::EntryVisitor;

  TestImage() { NewNode(kAttributeDirectory); }

  NodeId AddDirectory(NodeId parent, std::string name) {
    const NodeId id = NewNode(kAttributeDirectory);
    At(id).parent = parent;
    AddName(parent, std::move(name), id);
    ++At(parent).links;
    return id;
  }
  NodeId AddFile(NodeId parent, std::string name, std::string content) {
    const NodeId id = NewNode(kAttributeArchive);
    At(id).streams.emplace_back("", AddBlob(content));
    AddName(parent, std::move(name), id);
    return id;
  }
  void AddName(NodeId parent, std::string name, NodeId node, std::string short_name = "") {
    At(parent).entries.push_back({std::move(name), std::move(short_name), node});
    if ((At(node).record.attributes & kAttributeDirectory) == 0) ++At(node).links;
  }
  NodeId AddStream(NodeId file, std::string name, const std::string& content) {
    At(file).streams.emplace_back(std::move(name), AddBlob(content));
    return StreamNode(file, At(file).streams.size() - 1);
  }
  FileRecord& record(NodeId node) { return At(node).record; }

  // As a commit would have made it: a blob by its hash.
  BlobHash AddBlob(const std::string& content) {
    BlobHash hash = {};
    if (content.empty()) return hash;
    const uint64_t number = blobs_.size() + 1;
    memcpy(hash.data(), &number, sizeof number);
    hash[19] = 1;
    blobs_[hash] = content;
    return hash;
  }

  // --- BaseImage
  ErrnoOr<FileRecord> GetFileRecord(NodeId node) const override {
    if (!Exists(node)) return Errno(ENOENT);
    FileRecord record = At(node).record;
    for (const auto& [name, hash] : At(node).streams) record.streams.push_back({name, SizeOf(hash), hash});
    return record;
  }
  int VisitEntries(NodeId directory, BaseImage::EntryVisitor visitor) const override {
    if (!Exists(directory)) return ENOENT;
    if (!IsDirectory(directory)) return ENOTDIR;
    uint64_t cookie = 0;
    for (const Name& name : At(directory).entries) {
      if (!visitor({name.name, name.short_name, name.node, ++cookie})) break;
    }
    return 0;
  }
  NodeId StreamNode(NodeId file, size_t stream) const override { return file | NodeId{stream} << kShift; }
  std::pair<NodeId, size_t> FileOfNode(NodeId node) const override {
    const NodeId file = node & ((NodeId{1} << kShift) - 1);
    const size_t stream = node >> kShift;
    if (stream == 0 || !Exists(file) || stream >= At(file).streams.size()) return {node, 0};
    return {file, stream};
  }
  NodeId LastNode() const override { return nodes_.size(); }
  bool has_unix_data() const override { return At(kRootNode).record.unix_data.has_value(); }
  uint64_t total_size() const override { return 1 << 20; }

  // --- BlobStore
  int ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const override {
    auto found = blobs_.find(hash);
    if (found == blobs_.end() || offset + out.size() > found->second.size()) return EIO;
    memcpy(out.data(), found->second.data() + offset, out.size());
    return 0;
  }

  // --- FileTree
  ErrnoOr<NodeAttributes> GetAttributes(NodeId id) const override {
    const auto [file, stream] = FileOfNode(id);
    if (!Exists(file)) return Errno(ENOENT);
    const Node& node = At(file);
    NodeAttributes attributes;
    attributes.node = id;
    const bool reparse = (node.record.attributes & kAttributeReparsePoint) != 0;
    attributes.mode = FileMode(node.record.attributes, reparse ? node.record.reparse_tag : 0,
                               node.record.unix_data ? std::optional(node.record.unix_data->mode) : std::nullopt);
    attributes.link_count = node.links;
    attributes.modification_time = attributes.change_time = ToTimespec(node.record.write_time);
    attributes.access_time = ToTimespec(node.record.access_time);
    if (stream != 0) attributes.mode = S_IFREG | (attributes.mode & 0666), attributes.link_count = 1;
    if (stream < node.streams.size()) attributes.size = SizeOf(node.streams[stream].second);
    return attributes;
  }
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override {
    if (!Exists(directory)) return Errno(ENOENT);
    if (!IsDirectory(directory)) return Errno(ENOTDIR);
    if (const Name* exact = Find(directory, name, [](auto& n, auto w) { return n.name == w; })) {
      return LookupResult{*GetAttributes(exact->node), true};
    }
    for (auto matches :
         {+[](const Name&n, std::string_view w) { return EqualFolded(n.name, w); },
          +[](const Name&n, std::string_view w) { return !n.short_name.empty() && EqualFolded(n.short_name, w); }}) {
      if (const Name* found = Find(directory, name, matches)) return LookupResult{*GetAttributes(found->node), false};
    }
    return Errno(ENOENT);
  }
  ErrnoOr<NodeId> Parent(NodeId directory) const override {
    if (!Exists(directory)) return Errno(ENOENT);
    if (!IsDirectory(directory)) return Errno(ENOTDIR);
    return At(directory).parent;
  }
  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override {
    if (!Exists(directory)) return ENOENT;
    if (!IsDirectory(directory)) return ENOTDIR;
    const auto& entries = At(directory).entries;
    if (cookie > entries.size()) return EINVAL;
    for (uint64_t i = cookie; i < entries.size(); ++i) {
      const NodeAttributes attributes = *GetAttributes(entries[i].node);
      if (!visitor({entries[i].name, attributes, i + 1})) break;
    }
    return 0;
  }
  ErrnoOr<std::string> ReadLink(NodeId) const override { return Errno(EINVAL); }
  ErrnoOr<size_t> Read(NodeId id, uint64_t offset, absl::Span<char> out) const override {
    const auto [file, stream] = FileOfNode(id);
    if (!Exists(file)) return Errno(ENOENT);
    if (stream == 0 && IsDirectory(file)) return Errno(EISDIR);
    const BlobHash& hash = At(file).streams[stream].second;
    const uint64_t size = SizeOf(hash);
    if (offset >= size) return size_t{0};
    out = out.first(std::min<uint64_t>(out.size(), size - offset));
    if (int error = ReadBlob(hash, offset, out)) return Errno(error);
    return out.size();
  }
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId) const override { return std::vector<std::string>(); }
  ErrnoOr<std::string> GetXattr(NodeId, std::string_view) const override { return Errno(ENODATA); }
  void VisitReadAheadCandidates(NodeId, uint64_t, CandidateVisitor) const override {}
  struct statvfs FileSystemStats() const override {
    return {};
  }

 private:
  static constexpr int kShift = 40;
  struct Name {
    std::string name;
    std::string short_name;
    NodeId node;
  };
  struct Node {
    FileRecord record;
    NodeId parent = kRootNode;
    uint32_t links = 0;
    std::vector<Name> entries;
    std::vector<std::pair<std::string, BlobHash>> streams;
  };

  bool Exists(NodeId id) const { return id >= 1 && id <= nodes_.size(); }
  bool IsDirectory(NodeId id) const { return (At(id).record.attributes & kAttributeDirectory) != 0; }
  Node& At(NodeId id) { return nodes_[id - 1]; }
  const Node& At(NodeId id) const { return nodes_[id - 1]; }
  uint64_t SizeOf(const BlobHash& hash) const {
    auto found = blobs_.find(hash);
    return found == blobs_.end() ? 0 : found->second.size();
  }
  template <typename Predicate>
  const Name* Find(NodeId directory, std::string_view wanted, Predicate matches) const {
    for (const Name& name : At(directory).entries) {
      if (matches(name, wanted)) return &name;
    }
    return nullptr;
  }
  NodeId NewNode(uint32_t attributes) {
    Node& node = nodes_.emplace_back();
    node.record.attributes = attributes;
    node.record.creation_time = node.record.write_time = node.record.access_time = 130'000'000'000'000'000;
    if (attributes & kAttributeDirectory) node.links = 2;
    return nodes_.size();
  }

  std::vector<Node> nodes_;
  std::map<BlobHash, std::string> blobs_;
};

}  // namespace libmount

#endif  // TESTS_UNIT_STAGING_TEST_BASE_H_
