// SPDX-License-Identifier: GPL-3.0-or-later
//
// The run of a GetImageInfo: a short-lived worker reads what the image file says of its images.

#ifndef DAEMON_FRONT_IMAGE_INFO_H_
#define DAEMON_FRONT_IMAGE_INFO_H_

#include <string>

#include "absl/status/statusor.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/mount_operation.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

// Waits; nothing is left when it returns.
absl::StatusOr<v1::GetImageInfoResponse> ReadImageInfo(const Tools& tools, const Caller& caller,
                                                       const std::string& image_path, CancelToken& cancel);

}  // namespace dismd

#endif  // DAEMON_FRONT_IMAGE_INFO_H_
