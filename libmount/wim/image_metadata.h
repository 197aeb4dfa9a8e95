// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageMetadata: the directory tree of one image, in arrays.
//
// On disk (the metadata resource): security descriptors, the root's dentry, and for each directory a list of dentries
// that ends with eight zero bytes; a dentry names the list of its children by its offset.
//
//   [ security data ][ root ][ 0 ][ children of root ... ][ 0 ][ children of the first subdirectory ... ][ 0 ] ...
//   dentry: [ 102 bytes ][ name ][ short name ][ tagged items ] [ stream entry ] ...     each part at a multiple of 8
//
// In memory, indices instead of pointers; 100,000 files take about 10 MB:
//
//   entries      one for each name; the children of a directory lie together, in the image's order
//   sorted       permutation of each directory's entries: by folded name, then by exact name
//   short_names  the entries that have a short name, by directory and folded short name
//   inodes       one for each file, however many names it has, in the order of their first names
//   directories  ranges of entries
//   extras       what few files have: streams, reparse point, UNIX data, tagged items
//   text         names (WTF-8), tagged items and security descriptors, end to end
//
// Inodes are numbered in the order in which a walk meets them (a directory, its entries, then each subdirectory in
// turn), which is the order in the resource for every writer known. Inode 0 is the root.
//
// Thread safety: immutable once parsed.

#ifndef LIBMOUNT_WIM_IMAGE_METADATA_H_
#define LIBMOUNT_WIM_IMAGE_METADATA_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/base/monitor.h"
#include "libmount/tree/tagged_items.h"
#include "libmount/tree/windows.h"
#include "libmount/wim/blob_table.h"

namespace libmount {

inline constexpr uint32_t kNone = 0xffffffff;

// 150 bytes are common for a file, so this is about 3.5 million of them.
inline constexpr uint64_t kMaxMetadataSize = 512 << 20;
// Directories within directories. As deep as wimlib goes.
inline constexpr uint32_t kMaxDirectoryDepth = 16384;

// A string in ImageMetadata::text.
struct TextRange {
  uint32_t offset = 0;
  uint32_t size = 0;
};

struct MetadataEntry {
  uint32_t inode = 0;
  uint32_t directory = 0;    // index into directories: the one that holds this entry
  uint32_t name_offset = 0;  // in text; the short name follows the name
  uint16_t name_size = 0;
  uint16_t short_name_size = 0;  // 0: none
};

struct MetadataInode {
  uint64_t creation_time = 0;  // Windows time: 100 ns since 1601-01-01 UTC
  uint64_t access_time = 0;
  uint64_t write_time = 0;
  uint32_t attributes = 0;
  uint32_t security = kNone;   // index into security
  uint32_t content = kNoBlob;  // a directory: index into directories; else the blob of the unnamed data stream
  uint32_t first_entry = 0;  // the first of its names that have a short one, or of all; the root: entry 0, without name
  uint32_t link_count = 0;   // names; a directory: 2 + subdirectories
  uint32_t extra = kNone;    // index into extras
};

struct MetadataDirectory {
  uint32_t inode = 0;
  uint32_t first_entry = 0;
  uint32_t entry_count = 0;
};

struct MetadataStream {
  TextRange name;
  uint32_t blob = kNoBlob;
};

struct UnixData {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t mode = 0;
  uint32_t device = 0;
};

struct MetadataExtra {
  uint32_t first_stream = 0;  // named streams
  uint32_t stream_count = 0;
  uint32_t reparse_tag = 0;
  uint16_t reparse_reserved = 0;  // a field of the reparse point's header, not of its data
  uint16_t reparse_flags = 0;     // of the dentry: 1: the target was not made relative to the image at capture
  uint32_t unknown_field = 0;     // of the dentry, at 0x54
  bool has_unix_data = false;
  uint32_t reparse_blob = kNoBlob;
  UnixData unix_data;
  TextRange tagged_items;  // as they lie in the image, unknown ones too
};

struct ImageMetadata {
  // Blob numbers from here on name hashes that no table lists: index into missing_blobs. Reading them is an error.
  static constexpr uint32_t kFirstMissingBlob = 0x80000000;

  std::vector<MetadataEntry> entries;
  std::vector<uint32_t> sorted;
  std::vector<uint32_t> short_names;
  std::vector<MetadataInode> inodes;
  std::vector<MetadataDirectory> directories;
  std::vector<MetadataExtra> extras;
  std::vector<MetadataStream> streams;
  std::vector<TextRange> security;
  std::vector<Sha1Digest> missing_blobs;
  std::string text;
  // What is in the image and not here (see ParseMetadata): a commit would lose it.
  uint64_t dropped_entries = 0;

  std::string_view Text(TextRange range) const { return std::string_view(text).substr(range.offset, range.size); }
  std::string_view Name(const MetadataEntry& entry) const { return Text({entry.name_offset, entry.name_size}); }
  std::string_view ShortName(const MetadataEntry& entry) const {
    return Text({entry.name_offset + entry.name_size, entry.short_name_size});
  }
  // Null for most files.
  const MetadataExtra* Extra(const MetadataInode& inode) const {
    return inode.extra == kNone ? nullptr : &extras[inode.extra];
  }
  uint32_t ReparseTag(const MetadataInode& inode) const {
    return inode.extra == kNone ? 0 : extras[inode.extra].reparse_tag;
  }
  bool IsLink(const MetadataInode& inode) const { return IsLinkTag(ReparseTag(inode)); }
  // Has entries: neither a file nor a link to a directory.
  bool IsDirectory(const MetadataInode& inode) const {
    return (inode.attributes & kAttributeDirectory) != 0 && !IsLink(inode);
  }

  // The entry of `directory` with that name, exactly or without case; kNone. The first in the image's order wins.
  uint32_t FindExact(const MetadataDirectory& directory, std::string_view name) const;
  uint32_t FindFolded(const MetadataDirectory& directory, std::string_view name) const;
  uint32_t FindShortName(const MetadataDirectory& directory, std::string_view name) const;

  // The path of an entry in the image, without a slash in front: "Windows/notepad.exe". The root's is empty.
  std::string PathOf(uint32_t entry) const;
  // The first of an inode's paths.
  std::string PathOf(const MetadataInode& inode) const { return PathOf(inode.first_entry); }
};

// Parses a metadata resource. Everything in it is taken for hostile: each number is checked, directories may form no
// loop, and the time is at most n log n in the resource's size. Entries that no file system can show (".", "..", names
// with a slash or a zero, names that occur twice in a directory) are left out, with a warning in the log, and counted,
// as are streams that no file can have (data of a directory, named streams of an encrypted file). kBadImageFormat,
// naming `file`; kCancelled. REQUIRES: resource.size() <= kMaxMetadataSize.
absl::StatusOr<ImageMetadata> ParseMetadata(absl::Span<const char> resource, const BlobTable& blobs,
                                            const std::string& file, OperationMonitor& monitor);

}  // namespace libmount

#endif  // LIBMOUNT_WIM_IMAGE_METADATA_H_
