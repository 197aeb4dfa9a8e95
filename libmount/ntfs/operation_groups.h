// SPDX-License-Identifier: GPL-3.0-or-later
//
// OperationGroups: the writes of one operation as one: after a death of the process all of them are there, or none.
// This is what NtfsTree needs of an overlay (overlay_groups.h); README.md tells what it does with it.

#ifndef LIBMOUNT_NTFS_OPERATION_GROUPS_H_
#define LIBMOUNT_NTFS_OPERATION_GROUPS_H_

#include <cstdint>
#include <optional>

namespace libmount {

class OperationGroups {
 public:
  struct Reply {
    uint32_t operation = 0;
    uint64_t result = 0;
  };

  virtual ~OperationGroups() = default;

  // One group at a time. `request`: the kernel's number, under which the reply is kept; 0: none.
  virtual void Begin(uint64_t request) = 0;
  // 0: the writes since Begin, and the reply, outlive this process. Else an errno: none of the writes were done.
  virtual int End(const Reply& reply) = 0;
  virtual void Abort() = 0;
  virtual std::optional<Reply> FindReply(uint64_t request) const = 0;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_OPERATION_GROUPS_H_
