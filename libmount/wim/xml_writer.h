// SPDX-License-Identifier: GPL-3.0-or-later
//
// Changes the XML data of a WIM (wim_xml.h has the layout): what a commit has to change, and nothing else; unknown
// elements, comments and white space stay.
//
// Thread safety: functions without state.

#ifndef LIBMOUNT_WIM_XML_WRITER_H_
#define LIBMOUNT_WIM_XML_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/wim/metadata_writer.h"

namespace libmount {

struct XmlChange {
  uint32_t index = 0;  // of the image that is committed; 0: none, only file_bytes count
  uint32_t new_index =
      0;  // where it goes: `index`, or behind all others, described as that one, with a name of its own
  ImageCounts counts;
  uint64_t modification_time = 0;  // Windows time
  uint64_t file_bytes = 0;         // top-level TOTALBYTES, where there is one: where the XML data begins
};

// `utf16le` may be empty: a file without any. Returns UTF-16LE with a byte-order mark. kBadImageFormat.
absl::StatusOr<std::string> ChangeWimXml(std::string_view utf16le, const XmlChange& change, const std::string& file);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_XML_WRITER_H_
