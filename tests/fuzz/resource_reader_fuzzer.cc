// SPDX-License-Identifier: GPL-3.0-or-later
//
// A file of bytes taken for a resource: whatever its table and chunks say, reads end with data or with an error.
//
//   [ 16 bytes: how it is described ][ 16 bytes: what is read ][ the resource, from its first byte ]

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "libmount/wim/resource_reader.h"

namespace libmount {
namespace {

struct Description {
  uint64_t size;
  uint8_t compression;
  uint8_t chunk_order;  // log2 of the chunk size
  uint8_t flags;        // 1: solid, 2: pipable
  uint8_t unused[5];
};

struct Request {
  uint64_t offset;
  uint32_t size;
  uint32_t budget;
};

constexpr uint64_t kMaxRead = 1 << 20;
// Decoding one chunk must stay quick under a fuzzer.
constexpr uint8_t kMinChunkOrder = 12;
constexpr uint8_t kMaxChunkOrder = 21;

void ReadOnce(const WimSource& source, const ResourceLocation& location, const Request& request) {
  std::vector<ResourceLocation> resources = {location};
  ResourceReader::Options options;
  options.cache_budget = request.budget % kMaxRead;
  options.decoder_threads = 1;
  options.visit_blobs = [](uint32_t, uint64_t begin, uint64_t end, ResourceReader::BlobVisitor visitor) {
    for (uint64_t offset = begin; offset < end; offset += 5000) visitor(offset, 7000);
  };
  ResourceReader reader(&source, &resources, std::move(options));
  uint64_t offset = location.size == 0 ? 0 : request.offset % location.size;
  std::vector<char> out(std::min({uint64_t{request.size}, location.size - offset, kMaxRead}));
  // A second time from the cache: it must give the same.
  std::vector<char> again(out.size());
  bool first = reader.Read(0, offset, absl::MakeSpan(out)).ok();
  bool second = reader.Read(0, offset, absl::MakeSpan(again)).ok();
  if (first != second || (first && out != again)) abort();
  NullMonitor monitor;
  (void)ReadWholeResource(source, location, kMaxRead, monitor);
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace libmount;  // NOLINT(google-build-using-namespace)
  Description description;
  Request request;
  if (size < sizeof(description) + sizeof(request)) return 0;
  memcpy(&description, data, sizeof(description));
  memcpy(&request, data + sizeof(description), sizeof(request));
  data += sizeof(description) + sizeof(request);
  size -= sizeof(description) + sizeof(request);

  UniqueFd fd(memfd_create("resource", MFD_CLOEXEC));
  if (!fd.valid() || write(fd.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  WimSource source;
  if (!source.AddPart(std::move(fd), "fuzz.wim").ok()) return 0;
  ResourceLocation location;
  location.size_in_file = size;
  location.size = description.size;
  location.compression = static_cast<Compression>(description.compression % 4);
  location.solid = (description.flags & 1) != 0;
  location.pipable = (description.flags & 2) != 0;
  if (location.compression == Compression::kNone) {
    location.size = std::min(location.size, location.size_in_file);
  } else {
    uint8_t order = description.chunk_order % (kMaxChunkOrder + 1);
    location.chunk_size = 1u << std::max(order, kMinChunkOrder);
  }
  ReadOnce(source, location, request);
  return 0;
}
