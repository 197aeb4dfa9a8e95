// SPDX-License-Identifier: GPL-3.0-or-later
//
// BaseImage: an image as it was when it was mounted, with everything that Windows stores of a file: what StagedTree
// lays changes over, and what a commit writes again.
//
// Thread safety: all methods may be called from any number of threads at once.

#ifndef LIBMOUNT_TREE_BASE_IMAGE_H_
#define LIBMOUNT_TREE_BASE_IMAGE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/errno_or.h"
#include "libmount/tree/file_tree.h"

namespace libmount {

using BlobHash = std::array<uint8_t, 20>;  // SHA-1; all zero: no bytes

struct UnixFileData {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t mode = 0;
  uint32_t device = 0;
};

// A data stream of a file.
struct StreamRecord {
  std::string name;  // WTF-8; empty: the unnamed stream
  uint64_t size = 0;
  BlobHash hash = {};
};

// What is stored of a file besides its names.
struct FileRecord {
  uint32_t attributes = 0;     // Windows'
  uint64_t creation_time = 0;  // Windows time: 100 ns since 1601-01-01 UTC
  uint64_t access_time = 0;
  uint64_t write_time = 0;
  std::string security_descriptor;  // self-relative; empty: none
  uint32_t reparse_tag = 0;         // with kAttributeReparsePoint
  uint16_t reparse_reserved = 0;
  uint16_t reparse_flags = 0;  // of the entry, not of the reparse point: 1: its target was not changed at capture
  uint32_t unknown_field = 0;  // kept as it is
  BlobHash reparse_hash = {};  // of the reparse data (what follows the 8-byte header)
  uint64_t reparse_size = 0;
  std::optional<UnixFileData> unix_data;
  std::string tagged_items;           // as in the image, byte for byte: object id, EAs, UNIX data, unknown ones
  std::vector<StreamRecord> streams;  // the unnamed one first, where there is one; then in the image's order
};

class BaseImage {
 public:
  struct Entry {
    std::string_view name;        // WTF-8
    std::string_view short_name;  // WTF-8; empty: none
    NodeId node;
    uint64_t cookie;  // that FileTree::ReadDirectory gives for going on behind it
  };
  // Return false to end.
  using EntryVisitor = absl::FunctionRef<bool(const Entry&)>;

  virtual ~BaseImage() = default;

  virtual ErrnoOr<FileRecord> GetFileRecord(NodeId node) const = 0;  // ENOENT; not for named streams' node ids
  virtual int VisitEntries(NodeId directory, EntryVisitor visitor) const = 0;  // ENOENT, ENOTDIR; in the image's order
  // The node id of the Nth stream of FileRecord::streams (as Lookup of "file:stream" gives it).
  virtual NodeId StreamNode(NodeId file, size_t stream) const = 0;
  // Inverse: {file, stream}, where `node` is that of a named stream; {node, 0} otherwise.
  virtual std::pair<NodeId, size_t> FileOfNode(NodeId node) const = 0;
  virtual NodeId LastNode() const = 0;     // the largest id of a file
  virtual bool has_unix_data() const = 0;  // of at least the root
  // Of all files; for statfs.
  virtual uint64_t total_size() const = 0;
};

// Reads blobs by their hash, wherever the image file has them now.
class BlobStore {
 public:
  virtual ~BlobStore() = default;
  // REQUIRES: the range lies within the blob. 0, EIO (damaged, missing, or the image was changed), ENOMEM.
  virtual int ReadBlob(const BlobHash& hash, uint64_t offset, absl::Span<char> out) const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_BASE_IMAGE_H_
