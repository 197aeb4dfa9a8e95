// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobTable: where the data of each SHA-1 lies, for all parts of a WIM.
//
// On disk, an array of 50-byte entries:
//
//   [ resource header 24 ][ u16 part ][ u32 reference count ][ SHA-1 20 ]
//
// Entries flagged as metadata are the images, in order; one with a reference count of 0 is none (found in boot images
// of old Windows kits), nor is one of no bytes. A run of entries flagged as solid describes solid resources (those
// whose size is 2^32: a magic number) and the blobs in them: a blob's offset counts through the resources of its run,
// laid end to end.
//
// In memory, blobs are sorted by SHA-1, those of plain resources first, so that the order is the index:
//
//   index       0 ... plain-1                          plain ... size-1
//   hashes_     sorted                                 sorted
//   location    resources_[index], the whole of it     solid_blobs_[index - plain]
//
// A hash is found through buckets_: hashes are evenly spread, so their first bits tell where to look, to within a few.
// All this costs 53 bytes for a plain blob and 49 for one in a solid resource; a table of Windows has 100,000 of them.
//
// Thread safety: immutable once indexed.

#ifndef LIBMOUNT_WIM_BLOB_TABLE_H_
#define LIBMOUNT_WIM_BLOB_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/sha1.h"
#include "libmount/wim/wim_header.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

// The index of a blob; a blob of no bytes is in no table.
inline constexpr uint32_t kNoBlob = 0xffffffff;

class BlobTable {
 public:
  // An image's metadata resource.
  struct Metadata {
    ResourceLocation location;
    Sha1Digest hash = {};
  };

  BlobTable();
  ~BlobTable();
  BlobTable(BlobTable&&) noexcept;
  BlobTable& operator=(BlobTable&&) noexcept;

  // Reads the tables of all parts; `headers[i]` is that of part i + 1. kBadImageFormat, kImageChanged, kCancelled.
  // `source` and `headers` must stay until Index has returned. Until then only metadata() and has_solid_resources()
  // may be asked: a mount needs these at once, and the rest when the metadata has been decoded.
  static absl::StatusOr<BlobTable> Read(const WimSource& source, const std::vector<WimHeader>& headers,
                                        OperationMonitor& monitor);
  // Once, after Read. Checks and sorts the entries; cannot fail.
  void Index();
  // Both, for whoever has nothing to do meanwhile.
  static absl::StatusOr<BlobTable> Load(const WimSource& source, const std::vector<WimHeader>& headers,
                                        OperationMonitor& monitor);

  // The index of the blob with that SHA-1, or kNoBlob.
  uint32_t Find(const Sha1Digest& hash) const;
  // Two hints that Find will be called: by far the most of its time is waiting for memory. The second some time after
  // the first.
  void PrefetchBucket(const Sha1Digest& hash) const;
  void PrefetchHashes(const Sha1Digest& hash) const;

  uint32_t size() const { return static_cast<uint32_t>(hashes_.size()); }
  // REQUIRES: index < size(), for this and the next two.
  const Sha1Digest& hash(uint32_t index) const { return hashes_[index]; }
  uint64_t blob_size(uint32_t index) const { return location(index).size; }
  BlobLocation location(uint32_t index) const;

  // False where the table itself says something impossible, such as a place beyond the end of the file. Such a blob
  // keeps its size, and cannot be read.
  bool readable(uint32_t index) const { return resources_[location(index).resource].part != 0; }

  // What ResourceReader reads by index. (A resource that cannot be read has the part number 0.)
  const std::vector<ResourceLocation>& resources() const { return resources_; }
  // In order of the images, from index 1.
  const std::vector<Metadata>& metadata() const { return metadata_; }
  bool has_solid_resources() const { return has_solid_resources_; }
  // Visits the blobs of a solid resource that begin within [begin, end) of its data, in order of offset.
  void VisitSolidBlobs(uint32_t resource, uint64_t begin, uint64_t end,
                       absl::FunctionRef<void(uint64_t offset, uint64_t size)> visitor) const;

 private:
  class Loader;

  // Where the hashes of each bucket (of equal first bits) begin, in a sorted part of hashes_.
  struct Buckets {
    int shift = 63;
    std::vector<uint32_t> starts;
  };

  // The place of its first hash in hashes_, or null where there are no buckets.
  static const uint32_t* BucketOf(const Buckets& buckets, const Sha1Digest& hash);
  void OrderSolidBlobs();
  void IndexHashes(size_t first, size_t last, Buckets& buckets) const;
  uint32_t FindIn(const Buckets& buckets, const Sha1Digest& hash) const;

  uint32_t plain_count_ = 0;
  bool has_solid_resources_ = false;
  std::vector<Sha1Digest> hashes_;
  Buckets plain_buckets_;
  Buckets solid_buckets_;
  std::vector<ResourceLocation> resources_;
  std::vector<BlobLocation> solid_blobs_;
  std::vector<uint32_t> solid_order_;  // solid_blobs_ by resource and offset
  std::vector<Metadata> metadata_;
  std::unique_ptr<Loader> loader_;  // between Read and Index
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_TABLE_H_
