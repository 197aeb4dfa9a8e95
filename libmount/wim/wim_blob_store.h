// SPDX-License-Identifier: GPL-3.0-or-later
//
// WimBlobStore: blobs by their hash, those that the image had when it was opened and those that commits added since.
//
// What was there at first is read through the tree (its cache, its checks). For the rest there is a second reader over
// the blob table as it is now, which Reload() replaces after each commit; a read that is under way keeps the one it
// has.
//
// Thread safety: all methods may be called from any number of threads at once.

#ifndef LIBMOUNT_WIM_WIM_BLOB_STORE_H_
#define LIBMOUNT_WIM_WIM_BLOB_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "libmount/base/monitor.h"
#include "libmount/tree/base_image.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

class WimBlobStore final : public BlobStore {
 public:
  // Reads a blob of the table that the tree was opened with. 0, EIO or ENOMEM.
  using ReadOld = std::function<int(uint32_t blob, uint64_t offset, absl::Span<char> out)>;
  // `source` and `blobs` are those of the tree, and must outlive the store.
  WimBlobStore(const WimSource* source, const BlobTable* blobs, TreeObserver* observer, ReadOld read_old);
  ~WimBlobStore() override;

  int ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const override;

  // Reads the blob table of the first part anew.
  absl::Status Reload(OperationMonitor& monitor) ABSL_LOCKS_EXCLUDED(mutex_);
  // Frees what only makes reading faster.
  void Trim() ABSL_LOCKS_EXCLUDED(mutex_);
  // The size of a blob that was added since; false where there is none.
  bool FindAdded(const BlobHash& hash, uint64_t& size) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Added;  // a state of the file after a commit

  std::shared_ptr<Added> added() const ABSL_LOCKS_EXCLUDED(mutex_);

  const WimSource* const source_;
  const BlobTable* const blobs_;
  TreeObserver* const observer_;
  const ReadOld read_old_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<Added> added_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_BLOB_STORE_H_
