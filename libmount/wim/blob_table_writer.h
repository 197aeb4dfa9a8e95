// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobTableWriter: changes a blob table as it lies in the file (blob_table.h has the layout). Entries stay where they
// are, those that are not known too; blobs that nobody names any more stay with a count of 0; new ones come last.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_BLOB_TABLE_WRITER_H_
#define LIBMOUNT_WIM_BLOB_TABLE_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/wim/sha1.h"
#include "libmount/wim/wim_header.h"

namespace libmount {

class BlobTableWriter {
 public:
  // `table` is the former one; `image_count` the header's.
  BlobTableWriter(std::string table, uint32_t image_count);

  size_t image_count() const { return images_.size(); }

  // A new blob, or a new place for one that has an entry.
  void SetBlob(const ResourceHeader& resource, const Sha1Digest& hash);
  // Adds to a blob's count, which stays between 0 and the largest that there is. Unknown ones are ignored: their data
  // is in another file.
  void AddReferences(const Sha1Digest& hash, int64_t change);

  // The count of a blob; 0 also where it has no entry.
  uint32_t references(const Sha1Digest& hash) const;

  // REQUIRES: 1 <= index <= image_count().
  void SetMetadata(uint32_t index, const ResourceHeader& resource, const Sha1Digest& hash);
  void AppendMetadata(const ResourceHeader& resource, const Sha1Digest& hash);

  const std::string& table() const { return table_; }

 private:
  void AppendEntry(const ResourceHeader& resource, uint32_t count, const Sha1Digest& hash);

  std::string table_;
  std::vector<size_t> images_;                       // offset of each image's entry
  absl::flat_hash_map<Sha1Digest, size_t> entries_;  // offset of each blob's first entry
};

// The 24 bytes of a resource header.
std::string EncodeResourceHeader(const ResourceHeader& resource);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_TABLE_WRITER_H_
