// SPDX-License-Identifier: GPL-3.0-or-later
//
// A metadata resource kept outside its image, since a commit replaces it there and node ids follow from it:
//
//   [ "DISMDMD1" ][ SHA-1 of the rest, 20 ][ u32 0 ][ the resource, not compressed ]
//
// Thread safety: functions without state.

#ifndef LIBMOUNT_WIM_SAVED_METADATA_H_
#define LIBMOUNT_WIM_SAVED_METADATA_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/wim/chunk_buffer.h"

namespace libmount {

// Writes to the start of an empty file, and syncs it. kOutOfResources.
absl::Status WriteSavedMetadata(absl::Span<const char> resource, int fd);

// The resource. kBadImageFormat: not what was written; kOutOfResources.
absl::StatusOr<ChunkBuffer> ReadSavedMetadata(int fd);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_SAVED_METADATA_H_
