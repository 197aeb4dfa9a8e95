// SPDX-License-Identifier: GPL-3.0-or-later
//
// What an image says of itself, as it travels to the front.

#ifndef DAEMON_WORKER_IMAGE_INFO_MESSAGE_H_
#define DAEMON_WORKER_IMAGE_INFO_MESSAGE_H_

#include <string>
#include <string_view>

#include "dismd/internal/control.pb.h"
#include "libmount/tree/image_info.h"

namespace dismd {

// A number of dismd.v1.ImageType.
int ImageTypeNumber(libmount::ImageType type);

// Text that is not UTF-8 (an unpaired surrogate of the image's XML) has its offending bytes replaced by U+FFFD, since a
// protobuf string must be UTF-8.
internal::ImageInfo ToMessage(const libmount::ImageInfo& info);

// The replacing that ToMessage does.
std::string ToValidUtf8(std::string_view text);

}  // namespace dismd

#endif  // DAEMON_WORKER_IMAGE_INFO_MESSAGE_H_
