// SPDX-License-Identifier: GPL-3.0-or-later
//
// DirectoryIndex: the entries of a directory, read from its B+ tree by code of our own: the library's follows the
// links of a damaged tree in circles, and its checks of entries are few.
//
//   $INDEX_ROOT        [ root header ][ node header ][ entries ]
//   $INDEX_ALLOCATION  [ "INDX" record: header, node header, entries ] ...
//   entry              [ u64 file ][ u16 length ][ u16 key length ][ u16 flags ][ u16 ][ FILE_NAME ][ u64 child ]
//
// Thread safety: none; under the volume's lock.

#ifndef LIBMOUNT_NTFS_DIRECTORY_INDEX_H_
#define LIBMOUNT_NTFS_DIRECTORY_INDEX_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "libmount/base/errno_or.h"
#include "libmount/ntfs/attributes.h"
#include "libmount/ntfs/library.h"
#include "libmount/ntfs/node_id.h"

namespace libmount {

class DirectoryIndex {
 public:
  struct Entry {
    FileReference file = 0;
    std::string_view name;  // UTF-16LE
    uint8_t name_space = 0;
    uint32_t attributes = 0;  // as they were when the entry was written
    bool is_short() const { return name_space == FILE_NAME_DOS; }
  };
  struct Found {
    FileReference file = 0;
    bool exact = false;  // neither by another case, nor by a short name
    std::string name;    // as it is stored
    uint8_t name_space = 0;
  };
  // Return false to end.
  using EntryVisitor = absl::FunctionRef<bool(const Entry&)>;

  // ENOTDIR; EIO: damaged; ENOMEM. `directory` must stay open as long as the index is used.
  static ErrnoOr<DirectoryIndex> Open(ntfs_inode* directory);

  // The exact name, else one that differs in case only. nullopt: none. Errors: EIO, ENOMEM.
  ErrnoOr<std::optional<Found>> Find(std::string_view name);

  // All entries, in no order. What is damaged is left out. 0 or ENOMEM.
  int VisitAll(EntryVisitor visitor);

 private:
  enum class Case { kExact, kFolded };
  struct Node {
    std::string_view entries;  // behind the node header
  };
  // An entry of a node, with its child; nullopt behind the last, or where it is damaged.
  struct RawEntry {
    std::optional<Entry> entry;  // none in the last one
    std::optional<uint64_t> child;
  };

  DirectoryIndex(ntfs_inode* directory, std::string root, uint32_t record_size)
      : directory_(directory), root_(std::move(root)), record_size_(record_size) {}

  int OpenAllocation();
  // Reads the record at this place in the index allocation into record_. EIO, ENOMEM.
  ErrnoOr<Node> ReadRecord(uint64_t offset);
  static ErrnoOr<Node> ParseNode(std::string_view bytes, size_t header_at);
  static std::optional<RawEntry> TakeEntry(std::string_view& entries);
  // Negative, 0 or positive.
  int Compare(std::string_view a, std::string_view b, Case how) const;
  ErrnoOr<std::optional<Found>> Search(std::string_view name, Case how);

  ntfs_inode* const directory_;
  const std::string root_;
  const uint32_t record_size_;
  Attribute allocation_;
  std::string record_;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_DIRECTORY_INDEX_H_
