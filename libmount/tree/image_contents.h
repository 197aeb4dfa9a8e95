// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageContents: a whole tree at one moment, for writing it into an image: StagedTree makes one, a commit reads it.
//
// Thread safety: all methods may be called from any number of threads at once. What it shows does not change.

#ifndef LIBMOUNT_TREE_IMAGE_CONTENTS_H_
#define LIBMOUNT_TREE_IMAGE_CONTENTS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libmount/tree/base_image.h"

namespace libmount {

class ImageContents {
 public:
  struct Entry {
    std::string_view name;        // WTF-8
    std::string_view short_name;  // WTF-8; empty: none
    NodeId node;                  // names of one node are hard links
  };
  using EntryVisitor = absl::FunctionRef<void(const Entry&)>;

  // Streams whose data is in the image file already have their hash in `record.streams`; `staged[i]` tells which have
  // not, and must be read (ReadStaged), hashed and stored.
  struct File {
    FileRecord record;
    std::vector<bool> staged;     // as long as record.streams
    bool staged_reparse = false;  // `reparse_data` is to be stored
    std::string reparse_data;
    bool is_directory = false;  // has entries (a link to a directory has none)
  };

  virtual ~ImageContents() = default;

  virtual File GetFile(NodeId node) const = 0;  // REQUIRES: reached from the root
  // In the order in which they are to be stored: that of the image, new ones last.
  virtual void VisitEntries(NodeId directory, EntryVisitor visitor) const = 0;
  // Fills `out` from a staged stream. REQUIRES: within its size. An error names the file.
  virtual absl::Status ReadStaged(NodeId file, size_t stream, uint64_t offset, absl::Span<char> out) const = 0;
  // Data that no entry names and that are in use all the same: of files that were removed while they were open. A
  // file that is written anew must have them.
  virtual void VisitHeldBlobs(absl::FunctionRef<void(const BlobHash&)> visitor) const {}
  // Of all staged streams, for progress.
  virtual uint64_t staged_bytes() const = 0;
};

// What became of the staged data of an ImageContents: of each file with staged streams or reparse data.
struct StoredFile {
  NodeId node = 0;
  std::vector<BlobHash> stream_hashes;  // as File::record.streams
  BlobHash reparse_hash = {};
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_IMAGE_CONTENTS_H_
