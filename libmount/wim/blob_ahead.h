// SPDX-License-Identifier: GPL-3.0-or-later
//
// BlobAhead: reads of blobs, with what a sequential reader wants next decoded meanwhile on the other cores.
//
// The kernel has one READ of a file under way while the reader takes what the one before brought; to decode a READ's
// chunks only when it comes leaves cores idle. So a blob that is read from its start in order becomes a stream, and
// pieces of it beyond what was read are decoded and hashed by threads of ours:
//
//   READ ──► piece decoded?     copy it into the reply
//        ──► being decoded?     wait, then copy
//        ──► planned only?      decode it here and now
//        ──► not a stream       BlobVerifier::Read, as if this class did not exist
//
// A blob read to its end says that the reader likes whole files. After kTrustedFiles of them the rest of a file is
// decoded ahead from its first READ on, and the beginning of the files that follow it in the directory, so that also
// files of a few hundred kilobytes keep all cores busy. Files decoded in vain end that trust.
//
// With more requests under way than there are cores nothing is decoded ahead: it would cost and gain nothing.
//
// A piece is given up when all of it was served (the kernel's page cache has it), or when its stream has not been used
// for longer than kMaxStreams others.
//
// Only blobs of compressed resources that are not solid: there a piece is whole chunks.
//
// Thread safety: thread-safe.

#ifndef LIBMOUNT_WIM_BLOB_AHEAD_H_
#define LIBMOUNT_WIM_BLOB_AHEAD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libmount/wim/blob_verifier.h"

namespace libmount {

class BlobAhead {
 public:
  // A file, by a number that only NextFile understands, and its data.
  struct File {
    uint64_t id = 0;
    uint32_t blob = 0;
  };
  // What is to be known of a blob for reading it ahead.
  struct Shape {
    uint64_t size = 0;
    uint32_t chunk_size = 0;  // 0: this blob is not to be read ahead
  };
  using ShapeOf = std::function<Shape(uint32_t blob)>;
  // The file that a reader of whole files will probably read after `id`.
  using NextFile = std::function<std::optional<File>(uint64_t id)>;
  // Tells the disk that the compressed data of a blob will be wanted.
  using Prefetch = std::function<void(uint32_t blob)>;

  struct Options {
    size_t cache_budget = 0;
    int threads = 0;  // 0: one per CPU
    ShapeOf shape_of;
    NextFile next_file;
    Prefetch prefetch;
  };

  // Files that are read in one request gain nothing.
  static constexpr uint64_t kMinFile = 64 << 10;

  // `verifier` must outlive the object. The functions are called from any thread.
  BlobAhead(BlobVerifier* verifier, Options options);
  // Waits for the pieces being decoded, at most kPiece each.
  ~BlobAhead();
  BlobAhead(const BlobAhead&) = delete;
  BlobAhead& operator=(const BlobAhead&) = delete;

  // Fills `out` with the blob's bytes from `offset`.
  // REQUIRES: the range lies within the blob. Errors: as of BlobVerifier::Read.
  absl::Status Read(const File& file, uint64_t offset, absl::Span<char> out);

  // What Read uses of a budget of decoded chunks: the rest is ResourceReader's.
  static size_t ShareOf(size_t cache_budget);
  // Shrinking frees at once.
  void SetCacheBudget(size_t bytes);

  struct Stats {
    size_t bytes = 0;
    uint64_t pieces = 0;   // decoded ahead
    uint64_t in_vain = 0;  // of them, given up before they were served
  };
  Stats GetStats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_AHEAD_H_
