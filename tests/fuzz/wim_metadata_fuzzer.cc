// SPDX-License-Identifier: GPL-3.0-or-later
//
// A metadata resource: parsed, then walked in every way that a mounted tree would walk it.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "libmount/base/log.h"
#include "libmount/wim/image_metadata.h"

namespace libmount {
namespace {

void Check(bool condition) {
  if (!condition) abort();
}

void Walk(const ImageMetadata& image) {
  for (const MetadataDirectory& directory : image.directories) {
    for (uint32_t i = 0; i < directory.entry_count; ++i) {
      const uint32_t index = directory.first_entry + i;
      const MetadataEntry& entry = image.entries[index];
      Check(&image.directories[entry.directory] == &directory);
      Check(image.FindExact(directory, image.Name(entry)) == index);
      Check(image.FindFolded(directory, image.Name(entry)) != kNone);
      if (entry.short_name_size > 0) Check(image.FindShortName(directory, image.ShortName(entry)) != kNone);
      const MetadataInode& inode = image.inodes[entry.inode];
      Check(inode.link_count > 0 && image.entries[inode.first_entry].inode == entry.inode);
      if (image.IsDirectory(inode)) Check(image.directories[inode.content].inode == entry.inode);
      if (inode.security != kNone) image.Text(image.security[inode.security]);
    }
  }
  for (const MetadataExtra& extra : image.extras) {
    for (uint32_t tag : {kTagObjectId, kTagExtendedAttributes, kTagUnixData, kTagLinuxXattrsOld}) {
      FindTaggedItem(image.Text(extra.tagged_items), tag, 1);
    }
    for (uint32_t i = 0; i < extra.stream_count; ++i) image.Text(image.streams[extra.first_stream + i].name);
  }
  if (image.entries.size() > 1) image.PathOf(static_cast<uint32_t>(image.entries.size()) - 1);
}

}  // namespace
}  // namespace libmount

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  libmount::InitLogging("fuzzer", libmount::Severity::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace libmount;  // NOLINT(google-build-using-namespace)
  NullMonitor monitor;
  const absl::Span<const char> resource(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<ImageMetadata> image = ParseMetadata(resource, BlobTable(), "fuzz.wim", monitor);
  if (image.ok()) Walk(*image);
  return 0;
}
