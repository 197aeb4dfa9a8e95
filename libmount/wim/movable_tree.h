// SPDX-License-Identifier: GPL-3.0-or-later
//
// MovableTree: a WimTree whose file can be exchanged for one that was written anew (wim_rebuild.h), while it is read.
//
// It passes everything on to the tree of the file as it is now. Calls that run when that changes end on the old one,
// which goes, with its descriptor and so the old file's space, when the last of them has returned.
//
// Thread safety: as WimTree; MoveTo may be called at any time.

#ifndef LIBMOUNT_WIM_MOVABLE_TREE_H_
#define LIBMOUNT_WIM_MOVABLE_TREE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libmount/tree/base_image.h"
#include "libmount/wim/wim_file.h"

namespace libmount {

class MovableTree final : public WimTree, private BaseImage, private BlobStore {
 public:
  // `tree` has a base image and a blob store.
  explicit MovableTree(std::unique_ptr<WimTree> tree) : now_(std::move(tree)) {}

  // `tree` is of the same metadata: it has the same node ids.
  void MoveTo(std::unique_ptr<WimTree> tree) ABSL_LOCKS_EXCLUDED(mutex_);

  ErrnoOr<NodeAttributes> GetAttributes(NodeId node) const override { return now()->GetAttributes(node); }
  ErrnoOr<LookupResult> Lookup(NodeId directory, std::string_view name) const override {
    return now()->Lookup(directory, name);
  }
  ErrnoOr<NodeId> Parent(NodeId directory) const override { return now()->Parent(directory); }
  int ReadDirectory(NodeId directory, uint64_t cookie, FileTree::EntryVisitor visitor) const override {
    return now()->ReadDirectory(directory, cookie, visitor);
  }
  ErrnoOr<std::string> ReadLink(NodeId link) const override { return now()->ReadLink(link); }
  ErrnoOr<size_t> Read(NodeId file, uint64_t offset, absl::Span<char> out) const override {
    return now()->Read(file, offset, out);
  }
  ErrnoOr<std::vector<std::string>> ListXattrs(NodeId node) const override { return now()->ListXattrs(node); }
  ErrnoOr<std::string> GetXattr(NodeId node, std::string_view name) const override {
    return now()->GetXattr(node, name);
  }
  void VisitReadAheadCandidates(NodeId file, uint64_t max_size, CandidateVisitor visitor) const override {
    now()->VisitReadAheadCandidates(file, max_size, visitor);
  }
  struct statvfs FileSystemStats() const override {
    return now()->FileSystemStats();
  }

  void SetCacheBudget(size_t bytes) override ABSL_LOCKS_EXCLUDED(mutex_);
  Stats GetStats() const override { return now()->GetStats(); }
  const BaseImage* base_image() const override { return this; }
  const BlobStore* blob_store() const override { return this; }
  uint64_t dropped_entries() const override { return now()->dropped_entries(); }
  void SuspendChangeDetection() override ABSL_LOCKS_EXCLUDED(mutex_);
  void RenewChangeDetection() override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckImageUnchanged() const override { return now()->CheckImageUnchanged(); }
  absl::Status ReloadBlobs(OperationMonitor& monitor) override { return now()->ReloadBlobs(monitor); }

 private:
  // BaseImage
  ErrnoOr<FileRecord> GetFileRecord(NodeId node) const override { return base()->GetFileRecord(node); }
  int VisitEntries(NodeId directory, BaseImage::EntryVisitor visitor) const override {
    const std::shared_ptr<WimTree> tree = now();
    return tree->base_image()->VisitEntries(directory, visitor);
  }
  NodeId StreamNode(NodeId file, size_t stream) const override { return base()->StreamNode(file, stream); }
  std::pair<NodeId, size_t> FileOfNode(NodeId node) const override { return base()->FileOfNode(node); }
  NodeId LastNode() const override { return base()->LastNode(); }
  bool has_unix_data() const override { return base()->has_unix_data(); }
  uint64_t total_size() const override { return base()->total_size(); }
  // BlobStore
  int ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const override {
    const std::shared_ptr<WimTree> tree = now();
    return tree->blob_store()->ReadBlob(hash, offset, out);
  }

  std::shared_ptr<WimTree> now() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::ReaderMutexLock lock(&mutex_);
    return now_;
  }
  // Shares the tree's life.
  std::shared_ptr<const BaseImage> base() const {
    std::shared_ptr<WimTree> tree = now();
    const BaseImage* base = tree->base_image();
    return {std::move(tree), base};
  }

  mutable absl::Mutex mutex_;
  std::shared_ptr<WimTree> now_ ABSL_GUARDED_BY(mutex_);
  int suspended_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t cache_budget_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: as the tree was opened
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_MOVABLE_TREE_H_
