// SPDX-License-Identifier: GPL-3.0-or-later
//
// NewBlobs: stores the staged data of files in a WIM, each content once.
//
// A content that the file has already is not stored again. Small data is hashed before it is stored; larger data only
// where something of the same size is there that it might equal, for which it is read twice.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_NEW_BLOBS_H_
#define LIBMOUNT_WIM_NEW_BLOBS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/tree/image_contents.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/resource_writer.h"

namespace libmount {

class NewBlobs {
 public:
  struct Blob {
    ResourceHeader place;  // once the writer has finished
    BlobHash hash = {};
  };

  // All must outlive it, `contents` until the writer has finished.
  NewBlobs(const BlobTable* blobs, ResourceWriter* writer, const ImageContents* contents);

  // Stores what of `file` is staged and sets its hashes; where there is any, adds it to `stored`. `on_progress` is told
  // of bytes that need not be stored.
  absl::Status Store(NodeId node, ImageContents::File& file, std::vector<StoredFile>& stored,
                     const ResourceWriter::OnProgress& on_progress);

  const std::deque<Blob>& blobs() const { return blobs_; }

 private:
  absl::StatusOr<BlobHash> StoreData(uint64_t size, const ResourceWriter::ReadData& read,
                                     const ResourceWriter::OnProgress& on_progress);
  absl::StatusOr<BlobHash> StoreSmall(std::string data, const ResourceWriter::OnProgress& on_progress);
  absl::StatusOr<BlobHash> AddBlob(uint64_t size, ResourceWriter::ReadData read);
  bool IsStored(const BlobHash& hash) const;

  const BlobTable* const old_blobs_;
  ResourceWriter* const writer_;
  const ImageContents* const contents_;
  std::deque<Blob> blobs_;  // which do not move: the writer fills them in
  absl::flat_hash_set<BlobHash> hashes_;
  absl::flat_hash_set<uint64_t> sizes_;  // of all blobs, old and new
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_NEW_BLOBS_H_
