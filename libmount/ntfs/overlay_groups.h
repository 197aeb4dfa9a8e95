// SPDX-License-Identifier: GPL-3.0-or-later
//
// OverlayGroups: an overlay's groups, as NtfsTree takes them.
//
// Thread safety: as OverlayDevice.

#ifndef LIBMOUNT_NTFS_OVERLAY_GROUPS_H_
#define LIBMOUNT_NTFS_OVERLAY_GROUPS_H_

#include <optional>

#include "libmount/block/overlay.h"
#include "libmount/ntfs/operation_groups.h"

namespace libmount {

class OverlayGroups final : public OperationGroups {
 public:
  // `overlay` is the disk, of which the volume is a part; it must outlive this.
  explicit OverlayGroups(OverlayDevice* overlay) : overlay_(overlay) {}

  void Begin(uint64_t request) override { overlay_->Begin(request); }
  int End(const Reply& reply) override { return overlay_->End({reply.operation, reply.result}); }
  void Abort() override { overlay_->Abort(); }
  std::optional<Reply> FindReply(uint64_t request) const override {
    const std::optional<OverlayDevice::Reply> reply = overlay_->FindReply(request);
    if (!reply) return std::nullopt;
    return Reply{reply->operation, reply->result};
  }

 private:
  OverlayDevice* const overlay_;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_OVERLAY_GROUPS_H_
