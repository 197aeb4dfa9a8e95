// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/wim_read_oracle.h"

#include <fcntl.h>
#include <unistd.h>
#include <wimlib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "libmount/base/unique_fd.h"

namespace libmount {
namespace {

void Check(int error, const char* what) {
  if (error == 0) return;
  fprintf(stderr, "wimlib: %s: %d\n", what, error);
  abort();
}

struct Lister {
  WimContent content;
  wimlib_wim_info info = {};
  int fd = -1;
  std::map<uint64_t, uint32_t> solid;  // by offset in the file
  std::map<Sha1Digest, uint32_t> by_hash;
};

uint32_t Load32(int fd, uint64_t offset) {
  uint32_t value = 0;
  if (pread(fd, &value, sizeof(value), static_cast<off_t>(offset)) != sizeof(value)) abort();
  return value;
}

ResourceLocation LocationOf(const wimlib_resource_entry& entry, const Lister& lister) {
  ResourceLocation location;
  location.pipable = lister.info.pipable;
  if (entry.packed) {
    location.offset = entry.raw_resource_offset_in_wim;
    location.size_in_file = entry.raw_resource_compressed_size;
    location.size = entry.raw_resource_uncompressed_size;
    location.chunk_size = Load32(lister.fd, location.offset + 8);
    location.compression = static_cast<Compression>(Load32(lister.fd, location.offset + 12));
    location.solid = true;
    return location;
  }
  location.offset = entry.offset;
  location.size_in_file = entry.compressed_size;
  location.size = entry.uncompressed_size;
  if (entry.is_compressed) {
    location.chunk_size = lister.info.chunk_size;
    location.compression = static_cast<Compression>(lister.info.compression_type);
  }
  return location;
}

int AddBlob(const wimlib_resource_entry* entry, void* context) {
  Lister& lister = *static_cast<Lister*>(context);
  if (entry->is_metadata || entry->is_missing) return 0;
  BlobFacts blob;
  memcpy(blob.sha1.data(), entry->sha1_hash, blob.sha1.size());
  blob.location.size = entry->uncompressed_size;
  blob.location.resource = static_cast<uint32_t>(lister.content.resources.size());
  ResourceLocation location = LocationOf(*entry, lister);
  if (entry->packed) {
    blob.location.offset = entry->offset;
    blob.location.resource = lister.solid.try_emplace(location.offset, blob.location.resource).first->second;
  }
  if (blob.location.resource == lister.content.resources.size()) lister.content.resources.push_back(location);
  lister.by_hash[blob.sha1] = static_cast<uint32_t>(lister.content.blobs.size());
  lister.content.blobs.push_back(blob);
  return 0;
}

int AddFile(const wimlib_dir_entry* entry, void* context) {
  Lister& lister = *static_cast<Lister*>(context);
  Sha1Digest hash;
  memcpy(hash.data(), entry->streams[0].resource.sha1_hash, hash.size());
  auto blob = lister.by_hash.find(hash);
  if (blob != lister.by_hash.end()) lister.content.files.push_back(blob->second);
  return 0;
}

}  // namespace

WimContent ListWim(const std::string& path, WimSource& source) {
  Lister lister;
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  lister.fd = fd.get();
  WIMStruct* wim = nullptr;
  Check(wimlib_open_wim(path.c_str(), 0, &wim), "open");
  Check(wimlib_get_wim_info(wim, &lister.info), "info");
  Check(wimlib_iterate_lookup_table(wim, 0, AddBlob, &lister), "blobs");
  if (lister.info.image_count > 0) {
    Check(wimlib_iterate_dir_tree(wim, 1, "/", WIMLIB_ITERATE_DIR_TREE_FLAG_RECURSIVE, AddFile, &lister), "files");
  }
  wimlib_free(wim);
  if (!source.AddPart(std::move(fd), path).ok()) abort();
  return std::move(lister.content);
}

}  // namespace libmount
