// SPDX-License-Identifier: GPL-3.0-or-later
//
// OpenedImage: what a worker does with its image file, whatever its format: a WIM (OpenedWim) or a disk (OpenedDisk).
//
// Order: the file is open when the object exists; then OpenTree, then (read-write mounts) OpenStaging, then it is
// served, and committed any number of times.
//
// Thread safety: the methods that take a monitor, from one thread at a time; the others from any at any time.

#ifndef DAEMON_WORKER_OPENED_IMAGE_H_
#define DAEMON_WORKER_OPENED_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/file_tree.h"
#include "libmount/tree/image_info.h"
#include "libmount/tree/writable_tree.h"
#include "libmount/wim/wim_file.h"

namespace dismd {

// How another file takes the image's place; see Siblings. All work from one thread at a time.
struct ImageReplacement {
  // Empty, in the image's directory.
  std::function<absl::StatusOr<libmount::UniqueFd>(libmount::OperationMonitor& monitor)> create_temporary;
  // An error says that the image is as it was, but for kPathTimedOut and kShuttingDown: then it is not known.
  std::function<absl::Status(const libmount::UniqueFd& file)> replace_image;
  std::function<void()> drop_temporary;
};

// The file, as the broker opened it.
struct ImageSource {
  libmount::UniqueFd fd;
  std::string name;                      // without directory
  libmount::SiblingOpener open_sibling;  // a path beneath the file's directory; works while the image is being opened
  uint32_t partition = 0;                // of a disk; 0: whichever is meant
  ImageReplacement replacement;          // works as long as the image is open
};

struct StagingSource {
  libmount::UniqueFd directory;
  bool unix_data = false;
  bool resumed = false;  // takes the place of a process that died
};

class OpenedImage {
 public:
  struct TreeOptions : libmount::WimTreeOptions {
    // There are edits, which OpenStaging lays over it: the image need not make sense without them.
    bool has_edits = false;
  };
  using TreeStats = libmount::WimTree::Stats;

  virtual ~OpenedImage() = default;

  // The images in the file, in order of index (from 1).
  virtual const std::vector<libmount::ImageInfo>& images() const = 0;
  virtual absl::StatusOr<uint32_t> FindImage(std::string_view name) const = 0;
  // What speaks for and against mounting it, but for index, name and type.
  virtual void Describe(internal::ImageOpened* opened) const = 0;
  // All that the file tells of itself.
  virtual void ReadInfo(internal::ImageInfoRead* info) const = 0;
  virtual absl::Status CheckIntegrity(libmount::OperationMonitor& monitor) = 0;

  virtual absl::Status OpenTree(uint32_t index, const TreeOptions& options, libmount::OperationMonitor& monitor) = 0;
  // Edits that are there are taken over. kImageChanged: they were made to another state of the image.
  virtual absl::Status OpenStaging(StagingSource staging, libmount::OperationMonitor& monitor) = 0;
  // A commit of a process before this one that cannot be undone any more is brought to its end. REQUIRES: OpenStaging
  // succeeded. After a failure it is done by the next Commit.
  virtual absl::Status FinishCommit(libmount::OperationMonitor& monitor) = 0;
  // REQUIRES: OpenStaging succeeded. A failure leaves file, mount and edits as they were.
  virtual absl::StatusOr<internal::Committed> Commit(const internal::Commit& request,
                                                     libmount::OperationMonitor& monitor) = 0;

  // What is served: null before OpenTree. They live as long as the object.
  virtual libmount::FileTree* tree() = 0;
  virtual libmount::WritableTree* writable_tree() = 0;  // null before OpenStaging

  // Null-safe before OpenTree and OpenStaging: nothing, zeros.
  virtual void SetCacheBudget(size_t bytes) = 0;
  virtual TreeStats GetTreeStats() const = 0;
  virtual bool is_solid() const = 0;
  virtual uint32_t image_index() const = 0;  // that is mounted; an appending commit changes it
  virtual internal::StagingState GetStagingState() const = 0;
  virtual internal::Committed LastCommit() const = 0;
  // Commits by another mount of the file: between these two the file changes. They nest.
  virtual void SuspendChangeDetection() = 0;
  virtual void RenewChangeDetection() = 0;
};

// kBadImageFormat, kPartMissing, kImageChanged, kCancelled and others.
using ImageOpener = std::function<absl::StatusOr<std::unique_ptr<OpenedImage>>(ImageSource source,
                                                                               libmount::OperationMonitor& monitor)>;

}  // namespace dismd

#endif  // DAEMON_WORKER_OPENED_IMAGE_H_
