// SPDX-License-Identifier: GPL-3.0-or-later
//
// MetadataWriter: gathers a tree and writes it as a metadata resource (image_metadata.h has the layout), in the order
// in which wimlib and Windows write: the root, then the list of each directory, a directory before what is in it.
//
// Two steps, since an entry names its list by its offset: the walk (AddDirectory, AddEntry) keeps of each file the
// bytes of its dentry, in one string; Finish lays them out. About 200 bytes for each file are kept meanwhile.
//
// Thread safety: none; one owner.

#ifndef LIBMOUNT_WIM_METADATA_WRITER_H_
#define LIBMOUNT_WIM_METADATA_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/tree/image_contents.h"
#include "libmount/wim/image_metadata.h"

namespace libmount {

// What the XML data says of an image, counted as wimlib and Windows do.
struct ImageCounts {
  uint64_t directories = 0;      // the root is one of them
  uint64_t files = 0;            // names that are no directories
  uint64_t total_bytes = 0;      // of all streams, once for each name
  uint64_t hard_link_bytes = 0;  // the part of it that is of second and further names
};

// How often each blob is named by an image: once for each stream of each name.
using BlobReferences = absl::flat_hash_map<BlobHash, uint64_t>;

// Those of an image as it is.
BlobReferences CountReferences(const ImageMetadata& image, const BlobTable& blobs);

class MetadataWriter {
 public:
  // `base`: where the image comes from; its security descriptors keep their numbers. `name` is the file's, for errors.
  MetadataWriter(const ImageMetadata& base, std::string name);

  // Gives each stream and the reparse data of `file` its hash. Called once for each node, in the order of the walk.
  using StoreData = absl::FunctionRef<absl::Status(NodeId node, ImageContents::File& file)>;

  // Walks the tree from the root.
  absl::Status AddTree(const ImageContents& contents, StoreData store_data);

  // The resource. kOutOfResources: larger than can be read.
  absl::StatusOr<std::string> Finish();

  const ImageCounts& counts() const { return counts_; }
  const BlobReferences& references() const { return references_; }

 private:
  struct Node {
    uint64_t fixed = 0;         // in bytes_: the dentry's fixed part, tagged items, streams
    uint32_t tagged_size = 0;   // padded
    uint32_t streams_size = 0;  // padded
    uint32_t names = 0;
    uint32_t directory = kNone;  // index into directories_
    uint64_t data_size = 0;      // of all its streams
  };
  struct Entry {
    uint32_t node = 0;
    uint64_t name = 0;  // in bytes_: UTF-16LE; the short name follows
    uint16_t name_size = 0;
    uint16_t short_name_size = 0;
  };
  struct Directory {
    NodeId node = 0;
    uint32_t depth = 0;
    uint64_t first_entry = 0;
    uint64_t entry_count = 0;
    uint64_t offset = 0;  // of its list
  };

  absl::StatusOr<uint32_t> AddNode(NodeId id, const ImageContents& contents, StoreData store_data);
  absl::Status AppendDentry(const ImageContents::File& file, Node& node);
  absl::Status AppendStreams(const FileRecord& record, Node& node);
  void AppendStream(std::string_view name_utf16, const BlobHash& hash);
  absl::Status AddEntry(const ImageContents::Entry& entry, const ImageContents& contents, StoreData store_data);
  uint32_t SecurityIdOf(const std::string& descriptor);
  void Count(const Entry& entry);
  absl::Status Bad(std::string_view what) const;

  std::string SecurityData() const;
  uint64_t DentrySize(const Entry& entry) const;
  void WriteDentry(const Entry& entry, std::string& out);

  const std::string name_;
  std::vector<std::string> security_;
  absl::flat_hash_map<std::string, uint32_t> security_ids_;
  std::string bytes_;
  std::vector<Node> nodes_;
  std::vector<Entry> entries_;  // the root's first
  std::vector<Directory> directories_;
  std::vector<BlobHash> hashes_;                            // of all nodes, see AddNode
  std::vector<std::pair<uint64_t, uint32_t>> node_hashes_;  // of each node: first and count in hashes_
  absl::flat_hash_map<NodeId, uint32_t> node_of_;
  std::vector<uint64_t> groups_;  // hard-link group of each node; 0: none yet
  uint64_t last_group_ = 0;
  ImageCounts counts_;
  BlobReferences references_;
};

// `tagged_items` with the UNIX data item set to `data`; all else stays byte for byte.
std::string WithUnixData(std::string_view tagged_items, const UnixFileData& data);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_METADATA_WRITER_H_
