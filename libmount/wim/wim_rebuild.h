// SPDX-License-Identifier: GPL-3.0-or-later
//
// RebuildWim: writes a whole WIM anew into another file: every image as it is (but for the one that is committed), and
// only the data that images name. What is compressed is copied as it is, or decoded and compressed in another way.
//
//   from  | header | resources, some of them dead, tables, dead tables, more resources, ... |
//   to    | header | resources | metadata of each image | blob table | XML | integrity table |
//
// Nothing is written to `from`. Making `to` take its place is the caller's business.

#ifndef LIBMOUNT_WIM_WIM_REBUILD_H_
#define LIBMOUNT_WIM_WIM_REBUILD_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/tree/image_contents.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_commit.h"

namespace libmount {

struct WimRebuildOptions {
  bool append = false;              // `contents` become a new image instead of replacing `index`
  bool unchanged = false;           // `contents` are just what image `index` is: it stays as it lies in the file
  bool generate_integrity = false;  // a table is written in any case where the file has one
  // All data are compressed so, in chunks of the usual size (of the file's own, where it is compressed so already).
  std::optional<Compression> recompress;
  int threads = 0;  // that compress; 0: one per CPU
};

// `to` is an empty file, open for reading and writing; it is synced at the end. `contents`: what image `index` is to
// be; null: as it is. Reports kRebuilding, in bytes of the file (of what is compressed anew: uncompressed ones).
//
// As CommitImage, but that after any error `to` is to be thrown away. kBadImageFormat also where data that an image
// names cannot be read, or (with `recompress`) is not what its SHA-1 says: nothing is lost silently.
absl::StatusOr<WimCommitResult> RebuildWim(int from, int to, const std::string& name, uint32_t index,
                                           const ImageContents* contents, const WimRebuildOptions& options,
                                           OperationMonitor& monitor);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_REBUILD_H_
