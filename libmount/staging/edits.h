// SPDX-License-Identifier: GPL-3.0-or-later
//
// Edits: what a record of the log is made of. A change to the tree is a few of them, applied together: to the catalog
// in memory when it is made, and again when the log is replayed, by the same code (Catalog::Apply).
//
// Each is a byte and its fields: numbers as LEB128, texts with their length in front, hashes as they are.
//
// Thread safety: as a standard container.

#ifndef LIBMOUNT_STAGING_EDITS_H_
#define LIBMOUNT_STAGING_EDITS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "libmount/tree/base_image.h"

namespace libmount {

enum class Edit : uint8_t {
  kNewNode = 1,         // node: a file or directory without names, to be described by kMeta
  kMeta = 2,            // node, bits of Meta, what they say
  kAddName = 3,         // directory, cookie, node, name, short name
  kRemoveName = 4,      // directory, cookie
  kShortName = 5,       // directory, cookie, short name
  kNewStream = 6,       // file, stream, name
  kDropStream = 7,      // file, stream
  kData = 8,            // file, stream, offset, length, place in the arena
  kZero = 9,            // file, stream, offset, length
  kSize = 10,           // file, stream, size
  kStored = 11,         // file, stream, hash: the image file has the data now
  kReparseStored = 12,  // file, hash
  kDropNode = 13,       // node, which has no names
  kSecurity = 14,       // number, security descriptor: what kMeta refers to
  kCommitted = 15,      // number of the change up to which a commit went
  // Only in a log written anew:
  kCounters = 16,   // next node, number of the last change, that of the last committed one
  kRequest = 17,    // request, operation, outcome
  kGone = 18,       // node of the base
  kNode = 19,       // node, parent, links, attributes, reparse tag, reserved, size, hash; kMeta follows
  kDirectory = 20,  // directory, next cookie: it has just what follows as kEntry
  kEntry = 21,      // as kAddName, without consequences
  kStream = 22,     // file, stream, name, size, hash, blob size, how much of it is used; kData and kZeros follow
  kZeros = 23,      // file, stream, offset, length: an extent that hides the base
  kChanged = 25,    // node, number of its last change, of the one that made it: after the last commit (0: before)
  // In any log:
  kMoved = 24,  // file, stream, hash, size: what shows the blob shows this one, which has the same bytes there
};

// What a kMeta edit has, in this order.
enum Meta : uint32_t {
  kMetaAttributes = 1,
  kMetaCreationTime = 2,
  kMetaAccessTime = 4,
  kMetaWriteTime = 8,
  kMetaChangeTime = 16,
  kMetaSecurity = 32,      // number + 1; 0: none
  kMetaUnixData = 64,      // uid, gid, mode, device
  kMetaReparse = 128,      // tag, reserved, data; tag 0: none
  kMetaTaggedItems = 256,  // all
  kMetaLinkText = 512,     // a symbolic link's target as it was given
  kMetaDentry = 1024,      // reparse flags, unknown field
};

class EditWriter {
 public:
  EditWriter& Op(Edit edit) {
    bytes_.push_back(static_cast<char>(edit));
    return *this;
  }
  EditWriter& Number(uint64_t value) {
    while (value >= 0x80) {
      bytes_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    bytes_.push_back(static_cast<char>(value));
    return *this;
  }
  EditWriter& Text(std::string_view text) {
    Number(text.size());
    bytes_ += text;
    return *this;
  }
  EditWriter& Hash(const BlobHash& hash) {
    bytes_.append(reinterpret_cast<const char*>(hash.data()), hash.size());
    return *this;
  }

  std::string_view bytes() const { return bytes_; }
  bool empty() const { return bytes_.empty(); }
  void clear() { bytes_.clear(); }

 private:
  std::string bytes_;
};

// Takes edits apart. A field that is not there makes the reader bad, and everything after it zero or empty.
class EditReader {
 public:
  explicit EditReader(std::string_view bytes) : left_(bytes) {}

  bool AtEnd() const { return left_.empty(); }
  bool ok() const { return ok_; }

  Edit Op() { return static_cast<Edit>(Byte()); }

  uint64_t Number() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = Byte();
      value |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    Fail();
    return 0;
  }

  uint32_t Number32() {
    const uint64_t value = Number();
    if (value > UINT32_MAX) Fail();
    return static_cast<uint32_t>(value);
  }

  std::string_view Text() {
    const uint64_t size = Number();
    if (size > left_.size()) {
      Fail();
      return {};
    }
    std::string_view text = left_.substr(0, size);
    left_.remove_prefix(size);
    return text;
  }

  BlobHash Hash() {
    BlobHash hash = {};
    if (left_.size() < hash.size()) {
      Fail();
      return hash;
    }
    for (uint8_t& byte : hash) byte = Byte();
    return hash;
  }

 private:
  uint8_t Byte() {
    if (left_.empty()) {
      Fail();
      return 0;
    }
    const auto byte = static_cast<uint8_t>(left_.front());
    left_.remove_prefix(1);
    return byte;
  }
  void Fail() {
    ok_ = false;
    left_ = {};
  }

  std::string_view left_;
  bool ok_ = true;
};

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_EDITS_H_
