// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/opened_disk.h"

#include <errno.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/worker/image_info_message.h"
#include "libmount/base/log.h"
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
  libmount::UniqueFd image = source.fd.Duplicate();
  if (!image) return libmount::MakeErrnoError(Reason::kOutOfResources, errno, "duplicating the image's descriptor");
  std::unique_ptr<OpenedDisk> opened(new OpenedDisk(std::move(image), source.name, source.partition));
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
  for (const DiskFileInfo& file : disk_->chain()) {
    if (&file == &disk_->chain().front()) continue;
    internal::FileId* parent = opened->add_parents();
    parent->set_device(file.device);
    parent->set_inode(file.inode);
  }
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
  std::unique_ptr<libmount::NtfsTree> tree;
  // Beneath edits the volume may be half of a commit's, and only whole with them.
  if (!options.has_edits) {
    auto opened = libmount::NtfsTree::Open(device_.get(), ntfs);
    if (!opened.ok()) return InFile(name_, opened.status());
    tree = *std::move(opened);
  }
  absl::MutexLock lock(&mutex_);
  tree_options_ = ntfs;
  tree_ = std::move(tree);
  return absl::OkStatus();
}

absl::Status OpenedDisk::OpenStaging(StagingSource staging, OperationMonitor&) {
  if (volume_->writable < volume_->partition.size) {
    libmount::Log(
        libmount::Severity::kWarning, {},
        absl::StrCat(name_, ": the volume reaches over a partition table or another partition; its last ",
                     volume_->partition.size - volume_->writable, " bytes are not written to, and count as no space"));
  }
  StagedDisk::Options options;
  options.image = &image_;
  options.disk = disk_.get();
  options.device = watched_.get();
  options.staging = std::move(staging.directory);
  options.image_name = name_;
  options.volume_offset = volume_->partition.offset;
  options.volume_size = volume_->partition.size;
  options.volume_writable = volume_->writable;
  options.resumed = staging.resumed;
  {
    absl::MutexLock lock(&mutex_);
    options.tree = tree_options_;
  }
  auto staged = StagedDisk::Open(std::move(options));
  if (!staged.ok()) return InFile(name_, staged.status());
  std::unique_ptr<libmount::NtfsTree> replaced;
  absl::MutexLock lock(&mutex_);
  staged_ = *std::move(staged);
  staged_->tree()->SetCacheBudget(tree_options_.cache_budget);  // it may have changed meanwhile
  replaced = std::move(tree_);
  return absl::OkStatus();
}

StagedDisk* OpenedDisk::staged() const {
  absl::MutexLock lock(&mutex_);
  return staged_.get();
}

absl::Status OpenedDisk::FinishCommit(OperationMonitor& monitor) { return staged()->FinishCommit(monitor); }

absl::StatusOr<internal::Committed> OpenedDisk::Commit(const internal::Commit& request, OperationMonitor& monitor) {
  return staged()->Commit(request, monitor);
}

libmount::NtfsTree* OpenedDisk::served() const { return staged_ != nullptr ? staged_->tree() : tree_.get(); }

libmount::FileTree* OpenedDisk::tree() {
  absl::MutexLock lock(&mutex_);
  return served();
}

libmount::WritableTree* OpenedDisk::writable_tree() {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->tree() : nullptr;
}

void OpenedDisk::SetCacheBudget(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  tree_options_.cache_budget = bytes;
  if (libmount::NtfsTree* tree = served()) tree->SetCacheBudget(bytes);
}

OpenedImage::TreeStats OpenedDisk::GetTreeStats() const {
  absl::MutexLock lock(&mutex_);
  TreeStats stats;
  if (libmount::NtfsTree* tree = served()) stats.cache_bytes = tree->GetStats().cache_bytes;
  return stats;
}

internal::StagingState OpenedDisk::GetStagingState() const {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->GetState() : internal::StagingState();
}

internal::Committed OpenedDisk::LastCommit() const {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->LastCommit() : internal::Committed();
}

}  // namespace dismd
