// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/attributes.h"

#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "libmount/base/little_endian.h"
#include "libmount/ntfs/volume.h"

namespace libmount {
namespace {

// A file cannot have more: names and streams of one lie in at most this many attributes.
constexpr uint32_t kMaxAttributes = 1u << 16;

struct ContextCloser {
  void operator()(ntfs_attr_search_ctx* context) const { ntfs_attr_put_search_ctx(context); }
};

// FILE_NAME: [ u64 directory ][ 4 times ][ 2 sizes ][ u32 attributes ][ u32 ][ u8 units ][ u8 name space ][ name ]
constexpr size_t kNameUnitsAt = 0x40;
constexpr size_t kNameSpaceAt = 0x41;
constexpr size_t kNameAt = 0x42;

}  // namespace

ErrnoOr<Attribute> OpenAttribute(ntfs_inode* inode, ATTR_TYPES type, std::string_view name) {
  std::vector<ntfschar> units(name.size() / sizeof(ntfschar) + 1);
  name.copy(reinterpret_cast<char*>(units.data()), name.size());  // memcpy takes no null
  errno = 0;
  const auto count = static_cast<u32>(name.size() / sizeof(ntfschar));
  Attribute attribute(ntfs_attr_open(inode, type, name.empty() ? AT_UNNAMED : units.data(), count));
  if (attribute == nullptr) {
    const int error = LibraryErrno();
    return Errno(error == ENOENT || error == ENOMEM ? error : EIO);
  }
  // Where there is no unnamed attribute the library takes any.
  if (attribute->name_len != count) return Errno(ENOENT);
  if (attribute->data_size < 0 || attribute->initialized_size < 0 || attribute->allocated_size < 0) return Errno(EIO);
  return attribute;
}

int VisitAttributes(ntfs_inode* inode, ATTR_TYPES type, AttributeVisitor visitor) {
  std::unique_ptr<ntfs_attr_search_ctx, ContextCloser> context(ntfs_attr_get_search_ctx(inode, nullptr));
  if (context == nullptr) return ENOMEM;
  for (uint32_t i = 0; i < kMaxAttributes; ++i) {
    errno = 0;
    if (ntfs_attr_lookup(type, nullptr, 0, CASE_SENSITIVE, 0, nullptr, 0, context.get()) != 0) {
      return LibraryErrno() == ENOENT ? 0 : LibraryErrno() == ENOMEM ? ENOMEM : EIO;
    }
    const ATTR_RECORD* record = context->attr;
    const auto at =
        static_cast<uint64_t>(reinterpret_cast<const char*>(record) - reinterpret_cast<const char*>(context->mrec));
    const uint64_t length = le32_to_cpu(record->length);
    if (at + length > inode->vol->mft_record_size) return EIO;
    if (record->non_resident && record->lowest_vcn != 0) continue;
    if (!visitor(record, context->mrec)) return 0;
  }
  return EIO;
}

std::string_view NameOf(const ATTR_RECORD* record) {
  const size_t size = record->name_length * sizeof(ntfschar);
  const size_t offset = le16_to_cpu(record->name_offset);
  if (offset + size > le32_to_cpu(record->length)) return {};
  return {reinterpret_cast<const char*>(record) + offset, size};
}

uint64_t SizeOf(const ATTR_RECORD* record) {
  if (!record->non_resident) return le32_to_cpu(record->value_length);
  const auto size = static_cast<int64_t>(sle64_to_cpu(record->data_size));
  return size < 0 ? 0 : static_cast<uint64_t>(size);
}

std::string_view ResidentValue(const ATTR_RECORD* record) {
  if (record->non_resident) return {};
  const size_t size = le32_to_cpu(record->value_length);
  const size_t offset = le16_to_cpu(record->value_offset);
  const size_t length = le32_to_cpu(record->length);
  if (offset > length || size > length - offset) return {};
  return {reinterpret_cast<const char*>(record) + offset, size};
}

int VisitNames(ntfs_inode* inode, FileNameVisitor visitor) {
  return VisitAttributes(inode, AT_FILE_NAME, [&](const ATTR_RECORD* record, const MFT_RECORD*) {
    const std::string_view value = ResidentValue(record);
    if (value.size() < kNameAt) return true;
    const size_t size = static_cast<uint8_t>(value[kNameUnitsAt]) * sizeof(ntfschar);
    if (size == 0 || value.size() - kNameAt < size) return true;
    return visitor({LoadLe64(value.data()), static_cast<uint8_t>(value[kNameSpaceAt]), value.substr(kNameAt, size)});
  });
}

ErrnoOr<OwnedFileName> FirstName(ntfs_inode* inode) {
  std::optional<OwnedFileName> found;
  const int error = VisitNames(inode, [&](const FileName& name) {
    if (!found || !name.is_short()) found = OwnedFileName{name.directory, std::string(name.name)};
    return name.is_short();
  });
  if (error != 0) return Errno(error);
  if (!found) return Errno(ENOENT);
  return *std::move(found);
}

}  // namespace libmount
