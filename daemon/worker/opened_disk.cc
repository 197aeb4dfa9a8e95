// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/opened_disk.h"

#include <errno.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/worker/image_info_message.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/registry/windows_info.h"

namespace dismd {
namespace {

using libmount::DiskFileInfo;
using libmount::MakeError;
using libmount::OperationMonitor;
using libmount::Reason;

void DescribeFile(const DiskFileInfo& file, internal::DiskFile* out) {
  out->set_name(file.name);
  out->set_format(libmount::DiskFormatName(file.format));
  out->set_disk_type(libmount::DiskTypeName(file.type));
  out->set_file_size(file.file_size);
  out->set_virtual_size(file.virtual_size);
  out->set_sector_size(file.sector_size);
  out->set_block_size(file.block_size);
  out->set_creator(file.creator);
  out->set_identifier(file.identifier);
  out->set_parent_identifier(file.parent_identifier);
  for (const libmount::ParentLocator& locator : file.parent_locators) out->add_parent_paths(locator.value);
  out->set_log_pending(file.log_replayed);
  for (const std::string& warning : file.warnings) out->add_warnings(warning);
}

// With the file's name in front: what lies in a partition knows nothing of it.
absl::Status InFile(const std::string& name, const absl::Status& status) {
  const Reason reason = libmount::ReasonOf(status);
  if (reason == Reason::kUnspecified) return status;
  return MakeError(reason, absl::StrCat(name, ": ", std::string(status.message().data(), status.message().size())));
}

// Tells when it is found changed by others.
class WatchedDisk final : public libmount::BlockDevice {
 public:
  WatchedDisk(const libmount::DiskImage* disk, libmount::TreeObserver* observer) : disk_(disk), observer_(observer) {}

  uint64_t size() const override { return disk_->device().size(); }
  uint32_t sector_size() const override { return disk_->device().sector_size(); }
  int Read(uint64_t offset, absl::Span<char> out) const override {
    const int error = disk_->device().Read(offset, out);
    if (error == EIO) TellOfChange();
    return error;
  }

 private:
  void TellOfChange() const {
    absl::Status state = disk_->CheckUnchanged();
    if (state.ok() || told_.exchange(true) || observer_ == nullptr) return;
    observer_->OnImageChanged(std::string_view(state.message().data(), state.message().size()));
  }

  const libmount::DiskImage* const disk_;
  libmount::TreeObserver* const observer_;
  mutable std::atomic<bool> told_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpenedImage>> OpenedDisk::Open(ImageSource source, OperationMonitor& monitor) {
  std::unique_ptr<OpenedDisk> opened(new OpenedDisk(source.name, source.partition));
  auto disk = libmount::OpenDiskImage(std::move(source.fd), std::move(source.name), source.open_sibling, monitor);
  if (!disk.ok()) return disk.status();
  opened->disk_ = *std::move(disk);
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  absl::StatusOr<DiskVolumes> volumes = DiskVolumes::Read(opened->disk_->device());
  if (!volumes.ok()) return InFile(opened->name_, volumes.status());
  opened->volumes_ = *std::move(volumes);
  libmount::ImageInfo info;
  info.type = libmount::ImageType::kVhd;
  info.index = 1;
  info.size = opened->disk_->device().size();
  opened->images_.push_back(std::move(info));
  return opened;
}

absl::StatusOr<uint32_t> OpenedDisk::FindImage(std::string_view name) const {
  return MakeError(Reason::kInvalidImageName,
                   absl::StrCat(name_, " is a disk, whose one image has no name; ask for index 1"));
}

void OpenedDisk::Describe(internal::ImageOpened* opened) const {
  if (volume_ != nullptr) opened->set_partition(volume_->partition.number);
}

void OpenedDisk::ReadInfo(internal::ImageInfoRead* out) const {
  internal::DiskInfo* disk = out->mutable_disk();
  for (const DiskFileInfo& file : disk_->chain()) DescribeFile(file, disk->add_chain());
  volumes_->Describe(disk);
  libmount::ImageInfo info = images_.front();
  if (absl::StatusOr<const DiskVolume*> chosen = volumes_->Choose(0); chosen.ok()) {
    libmount::PartitionDevice device(&disk_->device(), (*chosen)->partition.offset, (*chosen)->partition.size);
    if (auto tree = libmount::NtfsTree::Open(&device, {}); tree.ok()) libmount::ReadWindowsInfo(**tree, &info);
  }
  *out->add_images() = ToMessage(info);
}

absl::Status OpenedDisk::OpenTree(uint32_t, const TreeOptions& options, OperationMonitor& monitor) {
  absl::StatusOr<const DiskVolume*> chosen = volumes_->Choose(partition_);
  if (!chosen.ok()) return InFile(name_, chosen.status());
  volume_ = *chosen;
  watched_ = std::make_unique<WatchedDisk>(disk_.get(), options.observer);
  device_ =
      std::make_unique<libmount::PartitionDevice>(watched_.get(), volume_->partition.offset, volume_->partition.size);
  libmount::NtfsTreeOptions ntfs;
  ntfs.uid = options.uid;
  ntfs.gid = options.gid;
  ntfs.observer = options.observer;
  ntfs.cache_budget = options.cache_budget;
  auto tree = libmount::NtfsTree::Open(device_.get(), ntfs);
  if (!tree.ok()) return InFile(name_, tree.status());
  absl::MutexLock lock(&mutex_);
  tree_ = *std::move(tree);
  return absl::OkStatus();
}

absl::Status OpenedDisk::OpenStaging(StagingSource, OperationMonitor&) {
  return MakeError(Reason::kNotImplemented, absl::StrCat(name_, ": this version mounts disks read-only"));
}

absl::StatusOr<internal::Committed> OpenedDisk::Commit(const internal::Commit&, OperationMonitor&) {
  return absl::FailedPreconditionError("nothing is staged");
}

libmount::FileTree* OpenedDisk::tree() {
  absl::MutexLock lock(&mutex_);
  return tree_.get();
}

libmount::WritableTree* OpenedDisk::writable_tree() { return nullptr; }

void OpenedDisk::SetCacheBudget(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (tree_ != nullptr) tree_->SetCacheBudget(bytes);
}

OpenedImage::TreeStats OpenedDisk::GetTreeStats() const {
  absl::MutexLock lock(&mutex_);
  TreeStats stats;
  if (tree_ != nullptr) stats.cache_bytes = tree_->GetStats().cache_bytes;
  return stats;
}

internal::StagingState OpenedDisk::GetStagingState() const { return internal::StagingState(); }

internal::Committed OpenedDisk::LastCommit() const { return internal::Committed(); }

}  // namespace dismd
