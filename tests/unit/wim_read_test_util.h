// SPDX-License-Identifier: GPL-3.0-or-later
//
// Makes resources as they lie in a WIM, of data that compresses about as files do.

#ifndef TESTS_UNIT_WIM_READ_TEST_UTIL_H_
#define TESTS_UNIT_WIM_READ_TEST_UTIL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "libmount/base/unique_fd.h"
#include "libmount/wim/resource.h"
#include "libmount/wim/wim_source.h"

namespace libmount {

// Words, runs and noise from a seed; about half the size when compressed, some chunks not compressible at all.
std::vector<char> MakeData(size_t size, uint32_t seed);

// A file of resources, written in memory and then read through a WimSource.
class ResourceFile {
 public:
  struct Options {
    bool solid = false;
    bool pipable = false;
  };

  // Each appends a resource and returns its index in locations(). Chunks that do not shrink are stored raw.
  uint32_t AddCompressed(const std::vector<char>& data, Compression compression, uint32_t chunk_size, Options options);
  uint32_t AddCompressed(const std::vector<char>& data, Compression compression, uint32_t chunk_size) {
    return AddCompressed(data, compression, chunk_size, Options());
  }
  uint32_t AddRaw(const std::vector<char>& data);

  std::string& bytes() { return bytes_; }
  std::vector<ResourceLocation>& locations() { return locations_; }

  // The bytes as an anonymous file, of which `source` becomes the only part. The descriptor returned can change it.
  UniqueFd Open(WimSource& source) const;

 private:
  std::string bytes_ = std::string(208, 'h');  // where a WIM has its header
  std::vector<ResourceLocation> locations_;
};

}  // namespace libmount

#endif  // TESTS_UNIT_WIM_READ_TEST_UTIL_H_
