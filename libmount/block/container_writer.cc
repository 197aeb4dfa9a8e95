// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/container_writer.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/block/disk_image_impl.h"
#include "libmount/block/sparse_writer.h"
#include "libmount/block/vhd_layer.h"
#include "libmount/block/vhdx_layer.h"

namespace libmount {
namespace {

// A raw file or a fixed VHD: everything has its place already.
class FlatWriter final : public ContainerWriter {
 public:
  FlatWriter(DiskLayer* layer, std::unique_ptr<ContainerFile> file) : layer_(*layer), file_(std::move(file)) {}

  absl::Status Write(uint64_t offset, absl::Span<const char> data) override {
    if (offset > layer_.size() || data.size() > layer_.size() - offset) return Error(EINVAL, "writing beyond the end");
    const int error = file_->Write(offset, data);
    return error == 0 ? absl::OkStatus() : Error(error, "writing");
  }
  absl::Status Finish() override {
    const int error = file_->Sync();
    return error == 0 ? absl::OkStatus() : Error(error, "syncing");
  }

 private:
  absl::Status Error(int error, const char* what) const {
    const bool full = error == ENOSPC || error == EDQUOT;
    return MakeErrnoError(full ? Reason::kDiskFull : Reason::kUnspecified, error,
                          absl::StrFormat("%s: %s failed", layer_.info().name, what));
  }

  DiskLayer& layer_;
  const std::unique_ptr<ContainerFile> file_;
};

}  // namespace

std::unique_ptr<ContainerWriter> MakeFlatWriter(DiskLayer* layer, std::unique_ptr<ContainerFile> file) {
  return std::make_unique<FlatWriter>(layer, std::move(file));
}

absl::StatusOr<std::unique_ptr<ContainerWriter>> ContainerWriter::Open(DiskImage& image,
                                                                       std::unique_ptr<ContainerFile> file,
                                                                       OperationMonitor& monitor) {
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  DiskLayer& top = static_cast<LayeredImage&>(image).top();  // there is no other kind of DiskImage
  struct stat facts;
  if (fstat(file->descriptor(), &facts) != 0) {
    return MakeErrnoError(Reason::kUnspecified, errno, absl::StrFormat("%s cannot be examined", top.info().name));
  }
  if (facts.st_dev != top.file().device() || facts.st_ino != top.file().inode()) {
    return MakeError(Reason::kImageChanged, absl::StrFormat("%s was replaced after it was opened", top.info().name));
  }
  if (absl::Status status = image.CheckUnchanged(); !status.ok()) return status;
  if (auto* vhd = dynamic_cast<VhdSparseLayer*>(&top)) return MakeVhdWriter(vhd, std::move(file));
  if (auto* vhdx = dynamic_cast<VhdxLayer*>(&top)) return MakeVhdxWriter(vhdx, std::move(file));
  return MakeFlatWriter(&top, std::move(file));
}

}  // namespace libmount
