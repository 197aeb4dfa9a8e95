// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageBase: the BaseImage over one parsed image of a WIM. Node ids are ImageTree's.
//
// Thread safety: immutable.

#ifndef LIBMOUNT_WIM_IMAGE_BASE_H_
#define LIBMOUNT_WIM_IMAGE_BASE_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "libmount/tree/base_image.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/image_metadata.h"

namespace libmount {

// A node id is the number of the inode (from 1), and for a named stream also the stream's (from 1) from this bit on.
inline constexpr int kNodeStreamShift = 40;

// The size shown of data that no blob table lists (a delta WIM has the rest in another file): with 0 the kernel would
// ask for nothing, and a reader would take the file for an empty one instead of getting an error.
inline constexpr uint64_t kUnknownBlobSize = 1;

class ImageBase final : public BaseImage {
 public:
  // Both must outlive it.
  ImageBase(const ImageMetadata* image, const BlobTable* blobs) : image_(image), blobs_(blobs) {}

  ErrnoOr<FileRecord> GetFileRecord(NodeId node) const override;
  int VisitEntries(NodeId directory, EntryVisitor visitor) const override;
  NodeId StreamNode(NodeId file, size_t stream) const override;
  std::pair<NodeId, size_t> FileOfNode(NodeId node) const override;
  NodeId LastNode() const override { return image_->inodes.size(); }
  bool has_unix_data() const override;
  uint64_t total_size() const override;

 private:
  // Null: no file of that id.
  const MetadataInode* FindInode(NodeId node) const;
  // Whether FileRecord::streams begins with the unnamed stream: of all but directories and links to directories.
  bool HasUnnamedStream(const MetadataInode& inode) const;
  uint64_t BlobSize(uint32_t blob) const;
  BlobHash HashOf(uint32_t blob) const;

  const ImageMetadata* image_;
  const BlobTable* blobs_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_IMAGE_BASE_H_
