// SPDX-License-Identifier: GPL-3.0-or-later
//
// CommitImage: writes a tree into a WIM in place of one of its images, or as a new one behind them.
//
// Everything new is appended (resources, metadata resource, blob table, XML, integrity table) and synced; then one
// write of the 208-byte header makes it the file's content. Before that write the file is the old one with a tail,
// which is cut off where the commit fails or is cancelled; after it, the new one. README.md draws it.

#ifndef LIBMOUNT_WIM_WIM_COMMIT_H_
#define LIBMOUNT_WIM_WIM_COMMIT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/tree/image_contents.h"

namespace libmount {

struct WimCommitOptions {
  bool append = false;              // a new image instead of replacing `index`
  bool generate_integrity = false;  // a table is written in any case where the file has one
  int threads = 0;                  // that compress; 0: one per CPU
};

struct WimCommitResult {
  uint32_t image_index = 0;  // where the tree is now
  std::vector<StoredFile> stored;
};

// `fd` is open for reading and writing, `name` is for messages. The caller holds the lock (flock, LOCK_EX) of the file,
// and has made sure that it is what it was when mounted. kImageReadOnly (pipable, READONLY flag), kSplitImage,
// kSolidImage, kImageInUse (WRITE_IN_PROGRESS), kInvalidImageIndex, kBadImageFormat, kCancelled (the file is as before,
// byte for byte), kOutOfResources (disk full; likewise).
absl::StatusOr<WimCommitResult> CommitImage(int fd, const std::string& name, uint32_t index,
                                            const ImageContents& contents, const WimCommitOptions& options,
                                            OperationMonitor& monitor);

// Cuts off what a commit that was killed before its header write has left behind `old_size`, the file's size when it
// began. Does nothing where the header already names something behind it: then the commit was done.
absl::Status RemoveUncommittedTail(int fd, const std::string& name, uint64_t old_size);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_COMMIT_H_
