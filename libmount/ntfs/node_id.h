// SPDX-License-Identifier: GPL-3.0-or-later
//
// Node ids of an NTFS volume: a pure function of what is on it.
//
//   bits 0-31   number of the file's MFT record
//   bits 32-47  that record's sequence number, which changes when the record is given to another file
//   bits 48-63  0: the file itself; else one of its named streams (see StreamNumbers in streams.h)
//
// The root, which is MFT record 5, is kRootNode. Records below kFirstUserRecord, the volume's own, are no nodes. NTFS
// has no more than 2^32 files.
//
// Thread safety: all functions are pure.

#ifndef LIBMOUNT_NTFS_NODE_ID_H_
#define LIBMOUNT_NTFS_NODE_ID_H_

#include <cstdint>
#include <optional>

#include "libmount/tree/file_tree.h"

namespace libmount {

inline constexpr uint64_t kRootRecord = 5;
inline constexpr uint64_t kFirstUserRecord = 16;

// A reference to a file as it lies in NTFS: record number in the lower 48 bits, sequence number above.
using FileReference = uint64_t;

constexpr uint64_t RecordOf(FileReference reference) { return reference & 0xffff'ffff'ffff; }
constexpr uint16_t SequenceOf(FileReference reference) { return static_cast<uint16_t>(reference >> 48); }
constexpr FileReference MakeReference(uint64_t record, uint16_t sequence) { return record | uint64_t{sequence} << 48; }

// Whether the file is one that a user sees.
constexpr bool IsUserFile(FileReference reference) {
  const uint64_t record = RecordOf(reference);
  return record == kRootRecord || (record >= kFirstUserRecord && record <= UINT32_MAX);
}

// REQUIRES: IsUserFile(reference).
constexpr NodeId NodeOf(FileReference reference) {
  if (RecordOf(reference) == kRootRecord) return kRootNode;
  return RecordOf(reference) | NodeId{SequenceOf(reference)} << 32;
}

constexpr NodeId StreamNode(NodeId file, uint16_t stream) { return file | NodeId{stream} << 48; }
constexpr NodeId FileNodeOf(NodeId node) { return node & 0xffff'ffff'ffff; }
constexpr uint16_t StreamNumberOf(NodeId node) { return static_cast<uint16_t>(node >> 48); }

// Of the file that the node is, or is a stream of. The root's has the sequence number 0: any.
constexpr std::optional<FileReference> ReferenceOf(NodeId node) {
  const NodeId file = FileNodeOf(node);
  if (file == kRootNode) return MakeReference(kRootRecord, 0);
  const uint64_t record = file & UINT32_MAX;
  if (record < kFirstUserRecord) return std::nullopt;
  return MakeReference(record, static_cast<uint16_t>(file >> 32));
}

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_NODE_ID_H_
