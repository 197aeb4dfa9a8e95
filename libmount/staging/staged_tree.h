// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedTree: an image and the changes made to it, which live in a staging directory until they are committed.
//
// Opened on an empty directory it begins with no changes; on one that another process has left (killed, or ended by
// Close), it goes on with what that one had acknowledged, under the same node ids. README.md tells what lies in the
// directory and what survives what.
//
// Thread safety: as WritableTree; the methods below too, unless said otherwise.

#ifndef LIBMOUNT_STAGING_STAGED_TREE_H_
#define LIBMOUNT_STAGING_STAGED_TREE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/base_image.h"
#include "libmount/tree/image_contents.h"
#include "libmount/tree/writable_tree.h"

namespace libmount {

class StagingFiles;  // how staging reaches its directory; tests put one that loses what was not synced

struct StagedTreeOptions {
  uid_t uid = 0;  // owner of files without UNIX data
  gid_t gid = 0;
  // Keep mode, owner and devices of new and changed files as UNIX data (always done where the image has them).
  bool unix_data = false;
  // Of the image, at most 64 bytes: a directory with another is kBadImageFormat.
  std::string identity;
  // This process takes the place of one that died, and serves the same kernel mount: the kernel's request numbers go
  // on, and whatever was there may be open. False for a new mount: numbers of former ones are forgotten, and files
  // without names are gone.
  bool resumed = false;
};

class StagedTree : public WritableTree {
 public:
  using WritableTree::Open;  // of a node
  // `base_tree` and `base` are two views of the same image, `blobs` its data; all must outlive the tree. Only one
  // process at a time may have a directory open (a lock is held: kImageInUse). kBadImageFormat: what lies in the
  // directory is not of this image, or damaged beyond a torn end; kOutOfResources.
  static absl::StatusOr<std::unique_ptr<StagedTree>> Open(UniqueFd directory, const FileTree* base_tree,
                                                          const BaseImage* base, const BlobStore* blobs,
                                                          const StagedTreeOptions& options);
  static absl::StatusOr<std::unique_ptr<StagedTree>> OpenOn(std::unique_ptr<StagingFiles> files,
                                                            const FileTree* base_tree, const BaseImage* base,
                                                            const BlobStore* blobs, const StagedTreeOptions& options);

  // Whether there is anything that a commit would write.
  virtual bool has_changes() const = 0;

  // A commit: Snapshot() shows the tree as it is now; changes go on meanwhile and are not part of it. When the image
  // file has it, FinishCommit() lets the staged data go that was stored (what was changed since the snapshot stays
  // staged); AbandonCommit() goes on as if nothing had been. One at a time: a second Snapshot is kFailedPrecondition.
  virtual absl::StatusOr<std::unique_ptr<ImageContents>> Snapshot() = 0;
  virtual absl::Status FinishCommit(const std::vector<StoredFile>& stored) = 0;
  virtual void AbandonCommit() = 0;

  // For a commit that writes the image file anew: that one has only blobs that the image names then (and those that the
  // snapshot holds). A stream that is an old blob with changes over it shows, where it shows the blob, the same bytes
  // as the blob that the snapshot of it became.
  struct MovedBlob {
    NodeId file = 0;
    NodeId stream = 0;  // 0: the unnamed one
    BlobHash from = {};
    BlobHash to = {};
    uint64_t size = 0;  // of `to`
  };
  // Those of the snapshot. For whoever goes on should this process die before FinishCommit.
  virtual std::vector<MovedBlob> MovedBlobs(const std::vector<StoredFile>& stored) const = 0;
  // Makes the staging directory tell of all changed files without asking the image for what they were. REQUIRED before
  // the file is replaced. kOutOfResources.
  virtual absl::Status PrepareMove() = 0;
  // In the process that goes on: the image file is the new one.
  virtual absl::Status TakeMovedBlobs(const std::vector<MovedBlob>& moved) = 0;

  struct Stats {
    uint64_t staged_bytes = 0;  // of data that live in staging
    uint64_t log_bytes = 0;
    uint64_t changed_nodes = 0;  // files and directories, since the last commit
  };
  virtual Stats GetStats() const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_STAGED_TREE_H_
