// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/tree/security.h"

#include <cstdint>
#include <cstring>

#include "absl/functional/function_ref.h"
#include "libmount/base/little_endian.h"

namespace libmount {
namespace {

// [ u8 revision ][ u8 0 ][ u16 control ][ u32 offset of owner ][ of group ][ of SACL ][ of DACL ]
constexpr size_t kHeaderSize = 20;
constexpr size_t kControlAt = 2;
constexpr size_t kOwnerAt = 4;
constexpr size_t kGroupAt = 8;
constexpr size_t kSaclAt = 12;
constexpr size_t kDaclAt = 16;
constexpr uint8_t kRevision = 1;

constexpr uint16_t kControlDaclPresent = 0x4;
constexpr uint16_t kControlSaclPresent = 0x10;
constexpr uint16_t kControlDaclAutoInherited = 0x400;
constexpr uint16_t kControlSaclAutoInherited = 0x800;
constexpr uint16_t kControlSelfRelative = 0x8000;

// ACL: [ u8 revision ][ u8 0 ][ u16 size ][ u16 entries ][ u16 0 ]; ACE: [ u8 type ][ u8 flags ][ u16 size ][ ... ]
constexpr size_t kAclHeaderSize = 8;
constexpr size_t kAceHeaderSize = 4;

constexpr uint8_t kObjectInherit = 0x1;
constexpr uint8_t kContainerInherit = 0x2;
constexpr uint8_t kNoPropagate = 0x4;
constexpr uint8_t kInheritOnly = 0x8;
constexpr uint8_t kInherited = 0x10;
constexpr uint8_t kInheritFlags = kObjectInherit | kContainerInherit | kNoPropagate | kInheritOnly | kInherited;

// Types whose body is a mask and a SID: allowed, denied, audit, alarm.
constexpr uint8_t kLastPlainType = 3;
constexpr size_t kSidInAce = 8;
constexpr size_t kSidHeaderSize = 8;
constexpr size_t kMaxSubAuthorities = 15;

constexpr std::string_view kCreatorOwner("\x01\x01\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00", 12);
constexpr std::string_view kCreatorGroup("\x01\x01\x00\x00\x00\x00\x00\x03\x01\x00\x00\x00", 12);

struct GenericRight {
  uint32_t generic;
  uint32_t rights;  // of a file
};
constexpr GenericRight kGenericRights[] = {
    {0x10000000, 0x001f01ff}, {0x20000000, 0x001200a0}, {0x40000000, 0x00120116}, {0x80000000, 0x00120089}};

// Empty: there is none, or it is not within `bytes`.
std::string_view SidAt(std::string_view bytes, size_t offset) {
  if (offset > bytes.size() || bytes.size() - offset < kSidHeaderSize) return {};
  bytes.remove_prefix(offset);
  const size_t count = static_cast<uint8_t>(bytes[1]);
  const size_t size = kSidHeaderSize + 4 * count;
  if (bytes[0] != kRevision || count > kMaxSubAuthorities || size > bytes.size()) return {};
  return bytes.substr(0, size);
}

// The ACL with its header; empty: not within `bytes`, or not as long as its entries.
std::string_view AclAt(std::string_view bytes, size_t offset) {
  if (offset > bytes.size() || bytes.size() - offset < kAclHeaderSize) return {};
  bytes.remove_prefix(offset);
  const size_t size = LoadLe16(bytes.data() + 2);
  if (size < kAclHeaderSize || size > bytes.size()) return {};
  std::string_view acl = bytes.substr(0, size);
  std::string_view left = acl.substr(kAclHeaderSize);
  for (size_t i = LoadLe16(acl.data() + 4); i > 0; --i) {
    if (left.size() < kAceHeaderSize) return {};
    const size_t ace_size = LoadLe16(left.data() + 2);
    if (ace_size < kAceHeaderSize || ace_size > left.size()) return {};
    if (static_cast<uint8_t>(left[0]) <= kLastPlainType && SidAt(left.substr(0, ace_size), kSidInAce).empty())
      return {};
    left.remove_prefix(ace_size);
  }
  return acl;
}

void VisitAces(std::string_view acl, absl::FunctionRef<void(std::string_view ace)> visitor) {
  if (acl.empty()) return;
  std::string_view left = acl.substr(kAclHeaderSize);
  for (size_t i = LoadLe16(acl.data() + 4); i > 0; --i) {
    const size_t size = LoadLe16(left.data() + 2);
    visitor(left.substr(0, size));
    left.remove_prefix(size);
  }
}

std::string WithFlags(std::string_view ace, uint8_t flags) {
  std::string result(ace);
  result[1] = static_cast<char>((static_cast<uint8_t>(ace[1]) & ~kInheritFlags) | flags);
  return result;
}

// The entry as it applies to a file: to its owner and group, with rights that files have.
std::string Effective(std::string_view ace, std::string_view owner, std::string_view group) {
  if (static_cast<uint8_t>(ace[0]) > kLastPlainType) return std::string(ace);
  uint32_t mask = LoadLe32(ace.data() + kAceHeaderSize);
  for (const GenericRight& right : kGenericRights) {
    if (mask & right.generic) mask = (mask & ~right.generic) | right.rights;
  }
  std::string_view sid = SidAt(ace, kSidInAce);
  std::string_view behind = ace.substr(kSidInAce + sid.size());
  if (sid == kCreatorOwner && !owner.empty()) sid = owner;
  if (sid == kCreatorGroup && !group.empty()) sid = group;
  std::string result(ace.substr(0, kAceHeaderSize));
  AppendLe(mask, result);
  result += sid;
  result += behind;
  const auto size = static_cast<uint16_t>(result.size());
  memcpy(result.data() + 2, &size, sizeof size);
  return result;
}

std::string InheritAcl(std::string_view acl, bool is_directory, std::string_view owner, std::string_view group) {
  std::string aces;
  uint16_t count = 0;
  auto add = [&](const std::string& ace) {
    aces += ace;
    ++count;
  };
  VisitAces(acl, [&](std::string_view ace) {
    const auto flags = static_cast<uint8_t>(ace[1]);
    const bool propagates = is_directory && (flags & kNoPropagate) == 0;
    const uint8_t onward = flags & (kObjectInherit | kContainerInherit);
    const bool applies = (flags & (is_directory ? kContainerInherit : kObjectInherit)) != 0;
    if (!applies) {
      // To files only: a directory hands it on.
      if (propagates && onward != 0) add(WithFlags(ace, onward | kInheritOnly | kInherited));
      return;
    }
    const std::string effective = Effective(ace, owner, group);
    if (!propagates) {
      add(WithFlags(effective, kInherited));
    } else if (effective == ace) {
      add(WithFlags(ace, onward | kInherited));
    } else {
      add(WithFlags(effective, kInherited));
      add(WithFlags(ace, onward | kInheritOnly | kInherited));
    }
  });
  if (count == 0 || kAclHeaderSize + aces.size() > UINT16_MAX) return {};
  std::string result(acl.substr(0, 2));
  AppendLe(static_cast<uint16_t>(kAclHeaderSize + aces.size()), result);
  AppendLe(count, result);
  AppendLe(uint16_t{0}, result);
  return result + aces;
}

}  // namespace

bool IsSecurityDescriptor(std::string_view descriptor) {
  if (descriptor.size() < kHeaderSize || descriptor.size() > kMaxSecurityDescriptor) return false;
  if (descriptor[0] != kRevision) return false;
  if ((LoadLe16(descriptor.data() + kControlAt) & kControlSelfRelative) == 0) return false;
  for (size_t at : {kOwnerAt, kGroupAt}) {
    const uint32_t offset = LoadLe32(descriptor.data() + at);
    if (offset != 0 && SidAt(descriptor, offset).empty()) return false;
  }
  for (size_t at : {kSaclAt, kDaclAt}) {
    const uint32_t offset = LoadLe32(descriptor.data() + at);
    if (offset != 0 && AclAt(descriptor, offset).empty()) return false;
  }
  return true;
}

std::string InheritSecurity(std::string_view parent, bool is_directory) {
  if (!IsSecurityDescriptor(parent)) return {};
  const uint16_t parent_control = LoadLe16(parent.data() + kControlAt);
  auto acl = [&](size_t at, uint16_t present) {
    const uint32_t offset = LoadLe32(parent.data() + at);
    return offset == 0 || (parent_control & present) == 0 ? std::string_view() : AclAt(parent, offset);
  };
  auto sid = [&](size_t at) {
    const uint32_t offset = LoadLe32(parent.data() + at);
    return offset == 0 ? std::string_view() : SidAt(parent, offset);
  };
  const std::string_view owner = sid(kOwnerAt);
  const std::string_view group = sid(kGroupAt);
  const std::string dacl = InheritAcl(acl(kDaclAt, kControlDaclPresent), is_directory, owner, group);
  const std::string sacl = InheritAcl(acl(kSaclAt, kControlSaclPresent), is_directory, owner, group);
  if (dacl.empty()) return {};

  uint16_t control = kControlSelfRelative | kControlDaclPresent | (parent_control & kControlDaclAutoInherited);
  if (!sacl.empty()) control |= kControlSaclPresent | (parent_control & kControlSaclAutoInherited);
  std::string body;
  uint32_t offsets[4] = {};  // as in the header
  auto place = [&](size_t at, std::string_view part) {
    if (part.empty()) return;
    offsets[(at - kOwnerAt) / 4] = static_cast<uint32_t>(kHeaderSize + body.size());
    body += part;
  };
  place(kSaclAt, sacl);
  place(kDaclAt, dacl);
  place(kOwnerAt, owner);
  place(kGroupAt, group);
  std::string result = {static_cast<char>(kRevision), 0};
  AppendLe(control, result);
  for (uint32_t offset : offsets) AppendLe(offset, result);
  return result + body;
}

}  // namespace libmount
