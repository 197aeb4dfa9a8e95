// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageTree: the WimTree over one parsed image.
//
// A node id is the number of the inode in the metadata (from 1; the root is 1), and for a named stream also the number
// of the stream within the file (from 1) from bit kStreamShift on: a pure function of the image.
//
// Implemented in image_tree.cc (attributes, look-up, reading), image_links.cc and image_xattrs.cc.

#ifndef LIBMOUNT_WIM_IMAGE_TREE_H_
#define LIBMOUNT_WIM_IMAGE_TREE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libmount/tree/reparse.h"
#include "libmount/tree/windows.h"
#include "libmount/wim/blob_ahead.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/blob_verifier.h"
#include "libmount/wim/image_base.h"
#include "libmount/wim/resource_reader.h"
#include "libmount/wim/wim_blob_store.h"
#include "libmount/wim/wim_file.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

// What a WimFile and the trees opened from it share.
struct WimContents {
  WimSource source;
  std::vector<WimHeader> headers;  // one for each part
  BlobTable blobs;
};

class ImageTree final : public WimTree {
 public:
  ImageTree(std::shared_ptr<const WimContents> wim, ImageMetadata image, const WimTreeOptions& options);

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override;
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override;
  ErrnoOr<NodeId> Parent(NodeId directory) const override;
  int ReadDirectory(NodeId directory, uint64_t cookie, EntryVisitor visitor) const override;
  ErrnoOr<std::string> ReadLink(NodeId link) const override;
  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override;
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override;
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override;
  void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const override;
  struct statvfs FileSystemStats() const override;
  void SetCacheBudget(size_t bytes) override;
  Stats GetStats() const override;
  const BaseImage* base_image() const override { return &base_; }
  const BlobStore* blob_store() const override { return &blob_store_; }
  uint64_t dropped_entries() const override { return image_.dropped_entries; }
  void SuspendChangeDetection() override { wim_->source.SuspendWatch(); }
  void RenewChangeDetection() override { wim_->source.RenewWatch(); }
  absl::Status CheckImageUnchanged() const override { return wim_->source.CheckUnchanged(); }
  absl::Status ReloadBlobs(OperationMonitor& monitor) override { return blob_store_.Reload(monitor); }

 private:
  static constexpr int kStreamShift = kNodeStreamShift;

  // A node id, taken apart. `stream` is null for the file itself.
  struct Node {
    const MetadataInode* inode = nullptr;
    const MetadataStream* stream = nullptr;
  };

  std::optional<Node> FindNode(NodeId id) const;
  // Null: no directory.
  const MetadataDirectory* FindDirectory(NodeId id) const;
  static NodeId IdOf(uint32_t inode) { return NodeId{inode} + 1; }
  uint32_t IndexOf(const MetadataInode& inode) const { return static_cast<uint32_t>(&inode - image_.inodes.data()); }

  NodeAttributes AttributesOf(const MetadataInode& inode) const;
  NodeAttributes AttributesOf(const Node& node, NodeId id) const;
  uint32_t ModeOf(const MetadataInode& inode) const;
  uint32_t BlobOf(const Node& node) const;
  uint64_t BlobSize(uint32_t blob) const;
  // Of all files. Added up when first asked for: it reads all over the blob table, and a mount does not wait for it.
  uint64_t TotalSize() const;

  struct FoundEntry {
    uint32_t entry = kNone;
    bool exact = false;
  };
  FoundEntry FindEntry(const MetadataDirectory& directory, std::string_view name) const;
  std::optional<LookupResult> LookupStream(const MetadataDirectory& directory, std::string_view name) const;

  // Reads a range that lies within the blob. 0, EIO or ENOMEM.
  int ReadBlob(uint32_t blob, uint64_t offset, absl::Span<char> out) const;
  // The same of a file's content, for which the way it is read is followed.
  int ReadFile(NodeId file, uint32_t blob, uint64_t offset, absl::Span<char> out) const;
  bool IsTriable(uint32_t blob) const;
  int ErrnoOf(const absl::Status& status) const;
  BlobAhead::Options AheadOptions();
  BlobAhead::Shape ShapeOf(uint32_t blob) const;
  // The next large file of its directory with the same suffix: who reads whole files often reads all of a kind.
  std::optional<BlobAhead::File> NextFile(NodeId file) const;
  void ReportDamage(uint32_t blob, std::string_view what) const;
  // A file that has this blob as its data, a stream or reparse data.
  std::string PathOfBlob(uint32_t blob) const;

  // image_links.cc
  uint64_t LinkSize(const MetadataInode& inode) const;
  ErrnoOr<std::string> TargetOf(const MetadataInode& inode) const;
  std::string ResolveInImage(const MetadataInode& inode, const LinkTarget& target) const;
  // Replaces each component by the name that the image has for it, as far as directories lead.
  void CorrectCase(std::vector<std::string>& components) const;
  ErrnoOr<std::string> ReparseDataOf(const MetadataInode& inode) const;

  // image_xattrs.cc
  ErrnoOr<std::string> NtfsXattr(const MetadataInode& inode, std::string_view name) const;
  ErrnoOr<std::string> StreamXattr(const MetadataInode& inode, std::string_view name) const;

  const std::shared_ptr<const WimContents> wim_;
  const ImageMetadata image_;
  const WimTreeOptions options_;

  // Lengths of link targets found so far, by index of the extra; 0: not known. stat asks for each link's.
  mutable std::vector<std::atomic<uint16_t>> link_sizes_;
  mutable std::atomic<bool> change_reported_ = false;
  mutable absl::Mutex mutex_;
  // Blobs that cannot even be tried, and have been reported.
  mutable std::optional<uint64_t> total_size_ ABSL_GUARDED_BY(mutex_);  // see TotalSize
  mutable absl::flat_hash_set<uint32_t> unreadable_reported_ ABSL_GUARDED_BY(mutex_);

  const ImageBase base_;
  WimBlobStore blob_store_;
  mutable ResourceReader reader_;
  // Last: their threads call back into the rest until they are destroyed.
  mutable BlobVerifier verifier_;
  mutable BlobAhead ahead_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_IMAGE_TREE_H_
