// SPDX-License-Identifier: GPL-3.0-or-later
//
// The XML data of a WIM: what it says of each image, as ImageInfo.
//
// On disk UTF-16LE with a byte-order mark:
//
//   <WIM><TOTALBYTES>..</TOTALBYTES><IMAGE INDEX="1"><NAME>..</NAME>..<WINDOWS>..</WINDOWS></IMAGE>..</WIM>
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_WIM_WIM_XML_H_
#define LIBMOUNT_WIM_WIM_XML_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libmount/tree/image_info.h"

namespace libmount {

// Real ones have a few KiB for each image.
inline constexpr size_t kMaxXmlSize = 16 << 20;

// The images 1 ... image_count; one that the XML does not describe has only its type and index. Values that make no
// sense are left out. kBadImageFormat, naming `file`, where it is not well-formed XML, has another root than WIM, or
// has a document type (so that no entity is ever expanded).
// REQUIRES: utf16le.size() <= kMaxXmlSize.
absl::StatusOr<std::vector<ImageInfo>> ParseWimXml(std::string_view utf16le, uint32_t image_count,
                                                   const std::string& file);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_WIM_XML_H_
