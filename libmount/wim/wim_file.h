// SPDX-License-Identifier: GPL-3.0-or-later
//
// WimFile: an opened WIM (.wim, .esd, or a split set of .swm), and the way to its images.
//
// Everything is read with pread from descriptors that the caller opened; nothing is opened by path here. Reading is
// our own code (see README.md for why): header, blob table, XML, integrity table and metadata resource are parsed
// with every size and offset checked against the file; wimlib supplies the codecs.
//
// Format: "Windows Imaging File Format (WIM)", Microsoft, and wimlib's header comments.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_WIM_WIM_FILE_H_
#define LIBMOUNT_WIM_WIM_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/base_image.h"
#include "libmount/tree/file_tree.h"
#include "libmount/tree/image_info.h"

namespace libmount {

// Opens a file beneath the image's own directory by name (no slash in it), as the caller of the mount would.
// Used for the further parts of a split set.
using SiblingOpener = std::function<absl::StatusOr<UniqueFd>(std::string_view name)>;

// How a tree presents what a WIM does not say.
struct WimTreeOptions {
  uid_t uid = 0;  // owner of files without UNIX data
  gid_t gid = 0;
  // Told of damage; may be null. Must outlive the tree.
  TreeObserver* observer = nullptr;
  // Bytes of decoded chunks kept; see SetCacheBudget.
  size_t cache_budget = size_t{16} << 20;
  // Threads that decode ahead and split large reads, besides the callers' own. 0: one per CPU.
  int decoder_threads = 0;
};

// A tree over one image of a WIM.
class WimTree : public FileTree {
 public:
  // The chunk cache's budget in bytes. Shrinking frees at once. Thread-safe.
  virtual void SetCacheBudget(size_t bytes) = 0;

  struct Stats {
    size_t cache_bytes = 0;  // held in the chunk cache now
    uint64_t chunks_decoded = 0;
    uint64_t bytes_decoded = 0;  // uncompressed
    uint64_t cache_hits = 0;
    uint64_t damaged_blobs = 0;
  };
  virtual Stats GetStats() const = 0;

  // For changing and committing (of trees made by a WimFile). All thread-safe; what is returned lives as long as the
  // tree.

  // The image as it was when the tree was opened, for good: commits do not change it.
  virtual const BaseImage* base_image() const { return nullptr; }
  // The blobs of the file: those it had then, and those it has since the last ReloadBlobs.
  virtual const BlobStore* blob_store() const { return nullptr; }
  // Entries and streams that are in the image and not in this tree: a commit would lose them.
  virtual uint64_t dropped_entries() const { return 0; }

  // A commit of our own, by this mount or another one of the same file, is announced: between these two the tree does
  // not look whether its file was changed; then it takes the file as it is for what it should be. Calls nest.
  virtual void SuspendChangeDetection() {}
  virtual void RenewChangeDetection() {}
  // kImageChanged: by somebody else, since the tree was opened or change detection renewed.
  virtual absl::Status CheckImageUnchanged() const { return absl::OkStatus(); }
  // After a commit: makes what it stored readable through blob_store().
  virtual absl::Status ReloadBlobs(OperationMonitor& monitor) { return absl::OkStatus(); }
};

class WimFile {
 public:
  // `name` is the file's name without directory, used in messages and to derive the names of split parts.
  // kBadImageFormat when it is not a WIM; kPartMissing; kImageChanged; kCancelled.
  static absl::StatusOr<std::unique_ptr<WimFile>> Open(UniqueFd fd, std::string name, const SiblingOpener& open_sibling,
                                                       OperationMonitor& monitor);

  virtual ~WimFile() = default;

  // The images, in order of index (from 1).
  virtual const std::vector<ImageInfo>& images() const = 0;

  virtual bool is_split() const = 0;
  virtual bool is_solid() const = 0;  // at least one solid resource
  virtual bool is_pipable() const = 0;
  virtual bool is_marked_read_only() const = 0;          // header flag READONLY
  virtual bool is_marked_write_in_progress() const = 0;  // header flag WRITE_IN_PROGRESS
  virtual bool has_integrity_table() const = 0;

  // The index of the image with that name, compared as DISM does. kInvalidImageName: none, or more than one.
  virtual absl::StatusOr<uint32_t> FindImage(std::string_view name) const = 0;

  // Compares the file with its integrity table (of each part). OK when there is none. kIntegrityCheckFailed names
  // the first range of bytes that differs. Reports progress in bytes, phase kCheckingIntegrity.
  virtual absl::Status CheckIntegrity(OperationMonitor& monitor) const = 0;

  // Reads the metadata of an image. The tree keeps what it needs of the WimFile alive.
  // kInvalidImageIndex; kBadImageFormat.
  virtual absl::StatusOr<std::unique_ptr<WimTree>> OpenTree(uint32_t index, const WimTreeOptions& options,
                                                            OperationMonitor& monitor) const = 0;

  // A tree whose node ids outlive commits: SaveMetadata writes the metadata of an image, as it is, to the start of an
  // empty file and syncs it; OpenTreeFromMetadata makes the tree of that time of it, with blobs looked up in this file
  // as it is now. kBadImageFormat: damaged, kOutOfResources.
  virtual absl::Status SaveMetadata(uint32_t index, int fd, OperationMonitor& monitor) const = 0;
  virtual absl::StatusOr<std::unique_ptr<WimTree>> OpenTreeFromMetadata(int fd, const WimTreeOptions& options,
                                                                        OperationMonitor& monitor) const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_FILE_H_
