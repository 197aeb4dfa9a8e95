// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a DiskImage is made of; for disk_image.cc and the writers.

#ifndef LIBMOUNT_BLOCK_DISK_IMAGE_IMPL_H_
#define LIBMOUNT_BLOCK_DISK_IMAGE_IMPL_H_

#include <memory>
#include <utility>
#include <vector>

#include "libmount/block/disk_image.h"
#include "libmount/block/disk_layer.h"

namespace libmount {

class LayeredImage final : public DiskImage {
 public:
  explicit LayeredImage(std::vector<std::unique_ptr<DiskLayer>> layers);

  const std::vector<DiskFileInfo>& chain() const override { return chain_; }
  const BlockDevice& device() const override { return *layers_.front(); }
  void SuspendWatch() const override { top().file().SuspendWatch(); }
  void RenewWatch() const override { top().file().RenewWatch(); }
  absl::Status CheckUnchanged() const override;

  DiskLayer& top() const { return *layers_.front(); }

 private:
  const std::vector<std::unique_ptr<DiskLayer>> layers_;  // the image first
  std::vector<DiskFileInfo> chain_;
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_DISK_IMAGE_IMPL_H_
