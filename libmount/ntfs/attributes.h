// SPDX-License-Identifier: GPL-3.0-or-later
//
// The attributes of an open inode: walking them, and their values, with every length checked again.
//
// Thread safety: all of it is under the volume's lock.

#ifndef LIBMOUNT_NTFS_ATTRIBUTES_H_
#define LIBMOUNT_NTFS_ATTRIBUTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "libmount/base/errno_or.h"
#include "libmount/base/little_endian.h"
#include "libmount/ntfs/library.h"
#include "libmount/ntfs/node_id.h"

namespace libmount {

struct AttributeCloser {
  void operator()(ntfs_attr* attribute) const { ntfs_attr_close(attribute); }
};
using Attribute = std::unique_ptr<ntfs_attr, AttributeCloser>;

// `name`: UTF-16LE, empty for the unnamed one. ENOENT, EIO, ENOMEM.
ErrnoOr<Attribute> OpenAttribute(ntfs_inode* inode, ATTR_TYPES type, std::string_view name);

// Visits all attributes of the type, each once (not its further pieces in other records). Return false to end. 0, EIO
// or ENOMEM.
using AttributeVisitor = absl::FunctionRef<bool(const ATTR_RECORD* record, const MFT_RECORD* holder)>;
int VisitAttributes(ntfs_inode* inode, ATTR_TYPES type, AttributeVisitor visitor);

// UTF-16LE; empty where it is unnamed, or its name does not lie within it.
std::string_view NameOf(const ATTR_RECORD* record);
uint64_t SizeOf(const ATTR_RECORD* record);
// Of a resident one; empty where it is not, or its value does not lie within it.
std::string_view ResidentValue(const ATTR_RECORD* record);

// A name of a file.
struct FileName {
  FileReference directory = 0;
  uint8_t name_space = 0;  // FILE_NAME_*
  std::string_view name;   // UTF-16LE
  bool is_short() const { return name_space == FILE_NAME_DOS; }
};
using FileNameVisitor = absl::FunctionRef<bool(const FileName&)>;
int VisitNames(ntfs_inode* inode, FileNameVisitor visitor);

// The name to show a file under where there is no other hint: the first that is not a short one.
struct OwnedFileName {
  FileReference directory = 0;
  std::string name;  // UTF-16LE
};
ErrnoOr<OwnedFileName> FirstName(ntfs_inode* inode);

// The library has enumerations for flags. Those of a damaged volume have bits that no name stands for, and may not be
// read as what they are declared.
inline uint32_t FileFlagsOf(const ntfs_inode* inode) { return LoadLe32(&inode->flags); }
inline uint16_t DataFlagsOf(const ntfs_attr* attribute) { return LoadLe16(&attribute->data_flags); }
inline uint16_t DataFlagsOf(const ATTR_RECORD* record) {
  return LoadLe16(reinterpret_cast<const char*>(record) + offsetof(ATTR_RECORD, flags));
}
inline constexpr uint16_t kDataCompressed = 0x00ff;  // in any way
inline constexpr uint16_t kDataSparse = 0x8000;

inline bool IsDirectory(const ntfs_inode* inode) {
  const uint16_t flags = LoadLe16(reinterpret_cast<const char*>(inode->mrec) + offsetof(MFT_RECORD, flags));
  return (flags & le16_to_cpu(MFT_RECORD_IS_DIRECTORY)) != 0;
}

// The times of a change of data, or of entries: write and change.
inline void TouchData(ntfs_inode* inode) {
  ntfs_inode_update_times(inode, static_cast<ntfs_time_update_flags>(NTFS_UPDATE_MCTIME));
}

inline void SetFlag(ntfs_inode* inode, FILE_ATTR_FLAGS flag, bool on) {
  const uint32_t bit = le32_to_cpu(flag);
  const uint32_t flags = on ? FileFlagsOf(inode) | bit : FileFlagsOf(inode) & ~bit;
  memcpy(&inode->flags, &flags, sizeof flags);  // little endian, as the machine
}

inline FileReference ReferenceOf(const ntfs_inode* inode) {
  return MakeReference(inode->mft_no, le16_to_cpu(inode->mrec->sequence_number));
}

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_ATTRIBUTES_H_
