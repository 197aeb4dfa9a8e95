// SPDX-License-Identifier: GPL-3.0-or-later
//
// MetadataBuilder: metadata resources as no tool would write them. WimBuilder: whole files around them.

#ifndef TESTS_UNIT_WIM_METADATA_BUILDER_H_
#define TESTS_UNIT_WIM_METADATA_BUILDER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "libmount/wim/sha1.h"

namespace libmount {

// One dentry; fields have the values of a plain empty file.
struct DentryFields {
  std::u16string name;
  std::u16string short_name;
  uint32_t attributes = 0x20;
  uint32_t security = 0xffffffff;
  uint64_t subdirectory = 0;
  uint64_t hard_link_group = 0;  // of a reparse point: tag, reserved, flags
  Sha1Digest hash = {};
  std::string tagged_items;
  struct Stream {
    std::u16string name;
    Sha1Digest hash = {};
  };
  std::vector<Stream> streams;
};

class MetadataBuilder {
 public:
  // Starts with security data, followed by nothing.
  explicit MetadataBuilder(const std::vector<std::string>& security = {});

  // Appends a dentry with its streams and returns its offset.
  uint64_t Add(const DentryFields& fields);
  // Appends the end of a list.
  void End() { bytes_.append(8, '\0'); }
  // A root whose list follows at once; then entries, then End.
  void BeginRoot();

  uint64_t offset() const { return bytes_.size(); }
  // Changes bytes already there.
  void Poke(uint64_t offset, std::string_view bytes) { bytes_.replace(offset, bytes.size(), bytes); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// An uncompressed WIM of one image.
class WimBuilder {
 public:
  // Adds a blob and returns its hash.
  Sha1Digest AddBlob(std::string_view data);
  // The file. `xml` is UTF-8.
  std::string Build(const MetadataBuilder& metadata, std::string_view xml = "<WIM><IMAGE INDEX=\"1\"/></WIM>") const;

 private:
  std::vector<std::string> blobs_;
};

// A tagged item, padded.
std::string TaggedItem(uint32_t tag, std::string_view data);

}  // namespace libmount

#endif  // TESTS_UNIT_WIM_METADATA_BUILDER_H_
