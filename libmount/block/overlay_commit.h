// SPDX-License-Identifier: GPL-3.0-or-later
//
// Committing an overlay: what it has is written into the image that it lies over, and let go.
//
// It can be done while the disk is in use: what is written to the overlay meanwhile is not part of it and stays there.
// Until the overlay has noted that it begins (the point of no return), the image is as it was byte by byte, and a
// cancelled or failed commit changes nothing. From then on the overlay says commit_pending() until a commit has come
// to its end: also after a crash, a power loss or a full disk. Seen through the overlay the disk is whole all the
// while; the image file is a valid container all the while, and the volume in it is whole again with the end. A commit
// that is pending is finished by making another one.
//
// README.md draws the order of the writes.
//
// Thread safety: one commit of an overlay at a time.

#ifndef LIBMOUNT_BLOCK_OVERLAY_COMMIT_H_
#define LIBMOUNT_BLOCK_OVERLAY_COMMIT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/block/container_file.h"
#include "libmount/block/disk_image.h"
#include "libmount/block/overlay.h"

namespace libmount {

// For OverlayOptions::base_identity: `fd` is the image's own file. Another one after any program has written into that
// file; not so where it was copied or restored with its times.
absl::StatusOr<std::string> DiskIdentity(const DiskImage& image, int fd);

// Commits all that the overlay has when it is called. `overlay` lies over image.device(); `file` is the image's own
// file, open for reading and writing. Reports bytes under Phase::kCommitting; a cancellation counts until the point of
// no return.
//
// kImageChanged: another program changed the image since it was opened; kDiskFull: before the first write where it
// could be known then, else commit_pending; kCancelled; kOutOfResources: the staging directory failed;
// kFailedPrecondition: another commit is under way.
absl::Status CommitOverlay(OverlayDevice& overlay, DiskImage& image, std::unique_ptr<ContainerFile> file,
                           OperationMonitor& monitor);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_OVERLAY_COMMIT_H_
