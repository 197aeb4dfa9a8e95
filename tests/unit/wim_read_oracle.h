// SPDX-License-Identifier: GPL-3.0-or-later
//
// What wimlib says lies in a WIM: resources, blobs with their hashes, and files in directory order.

#ifndef TESTS_UNIT_WIM_READ_ORACLE_H_
#define TESTS_UNIT_WIM_READ_ORACLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "libmount/wim/blob_verifier.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

struct WimContent {
  std::vector<ResourceLocation> resources;
  std::vector<BlobFacts> blobs;  // without metadata
  std::vector<uint32_t> files;   // blob of each file of image 1, in directory order
};

// Lists `path`, a WIM in one part, and opens it as part 1 of `source`. Ends the process when wimlib cannot open it.
WimContent ListWim(const std::string& path, WimSource& source);

}  // namespace libmount

#endif  // TESTS_UNIT_WIM_READ_ORACLE_H_
