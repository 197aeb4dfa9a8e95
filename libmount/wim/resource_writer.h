// SPDX-License-Identifier: GPL-3.0-or-later
//
// ResourceWriter: appends resources to a WIM, compressed on several threads.
//
//   Add: read a chunk, hash it ──► queue ──► threads compress ──► in order: Append
//
// The calling thread reads, hashes and writes; a chunk of one resource is compressed while another's is read, so that
// many small files keep all threads as busy as a large one. At most kMaxPipelineBytes (or two chunks) are in memory.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_RESOURCE_WRITER_H_
#define LIBMOUNT_WIM_RESOURCE_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/wim/file_appender.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/sha1.h"
#include "libmount/wim/wim_header.h"

namespace libmount {

class ResourceWriter {
 public:
  // Fills `out` from `offset` of the data. Called on the thread of Add and Finish only, in order of offset; once more
  // from the start where the data does not shrink.
  using ReadData = std::function<absl::Status(uint64_t offset, absl::Span<char> out)>;
  // Told of each chunk that is stored. An error (kCancelled) ends Add or Finish with it.
  using OnProgress = std::function<absl::Status(uint64_t bytes)>;

  struct Format {
    Compression compression = Compression::kNone;
    uint32_t chunk_size = 0;
    int threads = 0;  // 0: one per CPU
  };

  // `out` must outlive it, and nobody else append to it until Finish. kOutOfResources.
  static absl::StatusOr<std::unique_ptr<ResourceWriter>> Create(FileAppender* out, const Format& format,
                                                                OnProgress on_progress);
  virtual ~ResourceWriter() = default;

  // Reads all of the data, of `size` bytes, and begins to store it. Returns the SHA-1; `place` is filled by then or
  // later, at the latest by Finish, and must live until then. REQUIRES: size > 0. After an error: nothing but the
  // destructor.
  virtual absl::StatusOr<Sha1Digest> Add(uint64_t size, ReadData read, ResourceHeader* place) = 0;
  // Until all is appended.
  virtual absl::Status Finish() = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_WIM_RESOURCE_WRITER_H_
