// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/opened_wim.h"

#include <errno.h>

#include "daemon/worker/image_info_message.h"
#include "libmount/base/reason.h"

namespace dismd {

using libmount::OperationMonitor;
using libmount::UniqueFd;
using libmount::WimTree;

absl::StatusOr<std::unique_ptr<OpenedImage>> OpenedWim::Open(ImageSource source, WimOpener open,
                                                             OperationMonitor& monitor) {
  UniqueFd image = source.fd.Duplicate();
  if (!image) {
    return libmount::MakeErrnoError(libmount::Reason::kOutOfResources, errno, "duplicating the image's descriptor");
  }
  std::unique_ptr<OpenedWim> wim(new OpenedWim(std::move(image), source.name, std::move(open)));
  auto file = wim->open_(std::move(source.fd), std::move(source.name), source.open_sibling, monitor);
  if (!file.ok()) return file.status();
  wim->file_ = *std::move(file);
  wim->images_ = wim->file_->images();
  wim->replacement_ = std::move(source.replacement);
  return wim;
}

void OpenedWim::Describe(internal::ImageOpened* opened) const {
  opened->set_marked_write_in_progress(file_->is_marked_write_in_progress());
  opened->set_is_split(file_->is_split());
  opened->set_is_solid(file_->is_solid());
  opened->set_is_pipable(file_->is_pipable());
  opened->set_marked_read_only(file_->is_marked_read_only());
}

void OpenedWim::ReadInfo(internal::ImageInfoRead* info) const {
  for (const libmount::ImageInfo& image : images_) *info->add_images() = ToMessage(image);
}

absl::Status OpenedWim::CheckIntegrity(OperationMonitor& monitor) {
  if (file_ == nullptr) return absl::FailedPreconditionError("the image is mounted already");
  return file_->CheckIntegrity(monitor);
}

absl::Status OpenedWim::OpenTree(uint32_t index, const TreeOptions& options, OperationMonitor& monitor) {
  auto tree = file_->OpenTree(index, options, monitor);
  if (!tree.ok()) return tree.status();
  options_ = options;
  absl::MutexLock lock(&mutex_);
  own_tree_ = *std::move(tree);
  index_ = index;
  if (cache_budget_.has_value()) own_tree_->SetCacheBudget(*cache_budget_);  // it has changed meanwhile
  return absl::OkStatus();
}

absl::Status OpenedWim::OpenStaging(StagingSource staging, OperationMonitor& monitor) {
  StagedMount::Options options;
  options.image = &image_;
  options.staging = std::move(staging.directory);
  options.image_name = name_;
  options.image_index = image_index();
  options.unix_data = staging.unix_data;
  options.resumed = staging.resumed;
  options.tree = options_;
  options.reopen = [this](OperationMonitor& waiting) {
    // Not split: no further files are wanted.
    libmount::SiblingOpener none = [](std::string_view) { return absl::NotFoundError("not a split image"); };
    return open_(image_.Duplicate(), name_, none, waiting);
  };
  options.replacement = replacement_;
  auto staged = StagedMount::Open(std::move(options), monitor);
  if (!staged.ok()) return staged.status();
  std::unique_ptr<WimTree> replaced;
  {
    absl::MutexLock lock(&mutex_);
    staged_ = *std::move(staged);
    if (cache_budget_.has_value()) base()->SetCacheBudget(*cache_budget_);
    replaced = std::move(own_tree_);
  }
  file_.reset();  // the staged mount has its own, and may change it for another one
  return absl::OkStatus();
}

absl::StatusOr<internal::Committed> OpenedWim::Commit(const internal::Commit& request, OperationMonitor& monitor) {
  StagedMount* staged;
  {
    absl::MutexLock lock(&mutex_);
    staged = staged_.get();
  }
  return staged->Commit(request, monitor);
}

WimTree* OpenedWim::base() const { return staged_ != nullptr ? staged_->base() : own_tree_.get(); }

libmount::FileTree* OpenedWim::tree() {
  absl::MutexLock lock(&mutex_);
  if (staged_ != nullptr) return staged_->tree();
  return own_tree_.get();
}

libmount::WritableTree* OpenedWim::writable_tree() {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->tree() : nullptr;
}

void OpenedWim::SetCacheBudget(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  cache_budget_ = bytes;
  if (WimTree* tree = base()) tree->SetCacheBudget(bytes);
}

OpenedImage::TreeStats OpenedWim::GetTreeStats() const {
  absl::MutexLock lock(&mutex_);
  WimTree* tree = base();
  return tree != nullptr ? tree->GetStats() : TreeStats{};
}

uint32_t OpenedWim::image_index() const {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->image_index() : index_;
}

internal::StagingState OpenedWim::GetStagingState() const {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->GetState() : internal::StagingState();
}

internal::Committed OpenedWim::LastCommit() const {
  absl::MutexLock lock(&mutex_);
  return staged_ != nullptr ? staged_->LastCommit() : internal::Committed();
}

void OpenedWim::SuspendChangeDetection() {
  absl::MutexLock lock(&mutex_);
  if (WimTree* tree = base()) tree->SuspendChangeDetection();
}

void OpenedWim::RenewChangeDetection() {
  absl::MutexLock lock(&mutex_);
  if (WimTree* tree = base()) tree->RenewChangeDetection();
}

}  // namespace dismd
