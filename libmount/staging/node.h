// SPDX-License-Identifier: GPL-3.0-or-later
//
// Node and Directory: what the catalog keeps of a changed file, and of a changed directory's entries.
//
// Both are changed in place only while no snapshot has them: see Catalog::Freeze.

#ifndef LIBMOUNT_STAGING_NODE_H_
#define LIBMOUNT_STAGING_NODE_H_

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "libmount/staging/extent_map.h"
#include "libmount/tree/base_image.h"
#include "libmount/tree/file_mode.h"
#include "libmount/tree/windows.h"

namespace libmount {

// A data stream of a changed file. A byte is that of the extent there; else that of the blob, as far as that is used;
// else zero.
struct Stream {
  NodeId id = 0;     // 0: the unnamed one, which is the file's own
  std::string name;  // WTF-8
  uint64_t size = 0;
  BlobHash hash = {};
  uint64_t blob_size = 0;
  uint64_t blob_used = 0;
  uint64_t version = 0;  // number of the last change to it
  ExtentMap extents;

  // Whether the image file lacks its data, as they are now.
  bool staged() const { return size > 0 && !(extents.empty() && blob_used == size && blob_size == size); }
};

struct Node {
  uint64_t epoch = 0;
  NodeId parent = 0;  // of a directory: the one that holds it. Else one that holds a name; 0: not known, or none
  uint32_t link_count = 0;
  uint32_t attributes = 0;
  uint64_t creation_time = 0;
  uint64_t access_time = 0;
  uint64_t write_time = 0;
  uint64_t change_time = 0;
  std::shared_ptr<const std::string> security;  // null: none
  uint32_t reparse_tag = 0;
  uint16_t reparse_reserved = 0;
  uint16_t reparse_flags = 0;
  uint32_t unknown_field = 0;
  bool reparse_staged = false;  // `reparse_data` is it, and the image file has no blob of it
  BlobHash reparse_hash = {};
  uint64_t reparse_size = 0;
  uint64_t reparse_version = 0;
  std::string reparse_data;
  std::optional<std::string> link_text;  // of a symbolic link made here: its target, as it was given
  std::optional<UnixFileData> unix_data;
  std::string tagged_items;
  std::vector<Stream> streams;  // the unnamed one first, where there is one

  bool has_reparse_point() const { return (attributes & kAttributeReparsePoint) != 0; }
  bool is_link() const { return has_reparse_point() && IsLinkTag(reparse_tag); }
  bool is_directory() const { return (attributes & kAttributeDirectory) != 0 && !is_link(); }
  uint32_t mode() const {
    return FileMode(attributes, has_reparse_point() ? reparse_tag : 0,
                    unix_data ? std::optional<uint32_t>(unix_data->mode) : std::nullopt);
  }

  const Stream* FindStream(NodeId id) const {
    for (const Stream& stream : streams) {
      if (stream.id == id) return &stream;
    }
    return nullptr;
  }
  Stream* FindStream(NodeId id) { return const_cast<Stream*>(std::as_const(*this).FindStream(id)); }
};

struct DirectoryItem {
  std::string name;        // WTF-8
  std::string short_name;  // empty: none
  NodeId node = 0;
};

// The entries of a changed directory.
class Directory {
 public:
  struct Found {
    uint64_t cookie = 0;  // 0: none
    const DirectoryItem* item = nullptr;
    bool exact = false;
  };

  // By the exact name, else without case, else by short name.
  Found Find(std::string_view name) const;
  const DirectoryItem* At(uint64_t cookie) const;

  // REQUIRES: no such cookie.
  void Add(uint64_t cookie, DirectoryItem item);
  void Remove(uint64_t cookie);
  void SetShortName(uint64_t cookie, std::string_view short_name);

  const absl::btree_map<uint64_t, DirectoryItem>& items() const { return items_; }
  // For the next entry; larger than any there was.
  uint64_t next_cookie() const { return next_cookie_; }
  void set_next_cookie(uint64_t cookie) { next_cookie_ = cookie; }

  uint64_t epoch = 0;

 private:
  // Cookies by folded name. Images of Linux have names that differ only in case.
  using Index = absl::flat_hash_map<std::string, absl::InlinedVector<uint64_t, 1>>;
  static void RemoveFrom(Index& index, std::string_view name, uint64_t cookie);

  absl::btree_map<uint64_t, DirectoryItem> items_;
  Index names_;
  Index short_names_;
  uint64_t next_cookie_ = 1;
};

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_NODE_H_
