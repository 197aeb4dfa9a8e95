// SPDX-License-Identifier: GPL-3.0-or-later
//
// From SHA-1 to blob, for all files of an image at once.
//
// Each look-up waits for memory twice, so many are begun before the first is needed, and two threads share them: a
// third of what it takes one by one while the tree is parsed.

#ifndef LIBMOUNT_WIM_BLOB_RESOLVER_H_
#define LIBMOUNT_WIM_BLOB_RESOLVER_H_

#include "absl/types/span.h"
#include "libmount/wim/blob_table.h"
#include "libmount/wim/image_metadata.h"

namespace libmount {

// In `image` as the parser leaves it, what shall be the number of a blob (of inodes that are no directories, streams,
// and reparse points) is the offset of its hash in `resource`, or kNoBlob. Puts the numbers in their place, and the
// hashes that no table lists into missing_blobs.
// REQUIRES: the hashes at these offsets lie within `resource`.
void ResolveBlobs(absl::Span<const char> resource, const BlobTable& blobs, ImageMetadata& image);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_BLOB_RESOLVER_H_
