// SPDX-License-Identifier: GPL-3.0-or-later
//
// OpenedDisk: a .vhd or .vhdx file with its parents, and the NTFS volume of it that is mounted: as it is, or with an
// overlay that takes the writes (StagedDisk).

#ifndef DAEMON_WORKER_OPENED_DISK_H_
#define DAEMON_WORKER_OPENED_DISK_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/worker/disk_volumes.h"
#include "daemon/worker/opened_image.h"
#include "daemon/worker/staged_disk.h"
#include "libmount/block/disk_image.h"
#include "libmount/block/partitions.h"
#include "libmount/ntfs/ntfs_tree.h"

namespace dismd {

class OpenedDisk final : public OpenedImage {
 public:
  static absl::StatusOr<std::unique_ptr<OpenedImage>> Open(ImageSource source, libmount::OperationMonitor& monitor);

  const std::vector<libmount::ImageInfo>& images() const override { return images_; }
  absl::StatusOr<uint32_t> FindImage(std::string_view name) const override;
  void Describe(internal::ImageOpened* opened) const override;
  void ReadInfo(internal::ImageInfoRead* info) const override;
  absl::Status CheckIntegrity(libmount::OperationMonitor&) override { return absl::OkStatus(); }
  absl::Status OpenTree(uint32_t index, const TreeOptions& options, libmount::OperationMonitor& monitor) override;
  absl::Status OpenStaging(StagingSource staging, libmount::OperationMonitor& monitor) override;
  absl::Status FinishCommit(libmount::OperationMonitor& monitor) override;
  absl::StatusOr<internal::Committed> Commit(const internal::Commit& request,
                                             libmount::OperationMonitor& monitor) override;
  libmount::FileTree* tree() override;
  libmount::WritableTree* writable_tree() override;
  void SetCacheBudget(size_t bytes) override;
  TreeStats GetTreeStats() const override;
  bool is_solid() const override { return false; }
  uint32_t image_index() const override { return 1; }
  internal::StagingState GetStagingState() const override;
  internal::Committed LastCommit() const override;
  void SuspendChangeDetection() override { disk_->SuspendWatch(); }
  void RenewChangeDetection() override { disk_->RenewWatch(); }

 private:
  OpenedDisk(libmount::UniqueFd image, std::string name, uint32_t partition)
      : image_(std::move(image)), name_(std::move(name)), partition_(partition) {}

  StagedDisk* staged() const;

  const libmount::UniqueFd image_;
  const std::string name_;
  const uint32_t partition_;  // that is asked for
  std::unique_ptr<libmount::DiskImage> disk_;
  std::optional<DiskVolumes> volumes_;
  std::vector<libmount::ImageInfo> images_;
  const DiskVolume* volume_ = nullptr;                 // that is mounted
  std::unique_ptr<libmount::BlockDevice> watched_;     // the disk, telling when it is found changed by others
  std::unique_ptr<libmount::PartitionDevice> device_;  // on watched_
  // The volume that is served.
  libmount::NtfsTree* served() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  libmount::NtfsTreeOptions tree_options_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<libmount::NtfsTree> tree_ ABSL_GUARDED_BY(mutex_);  // on device_, until there is a staged one
  std::unique_ptr<StagedDisk> staged_ ABSL_GUARDED_BY(mutex_);        // on watched_
};

}  // namespace dismd

#endif  // DAEMON_WORKER_OPENED_DISK_H_
