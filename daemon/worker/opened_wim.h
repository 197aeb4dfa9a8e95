// SPDX-License-Identifier: GPL-3.0-or-later
//
// OpenedWim: a .wim, .esd or .swm file, and one image of it: as it is, or with edits laid over it (StagedMount).

#ifndef DAEMON_WORKER_OPENED_WIM_H_
#define DAEMON_WORKER_OPENED_WIM_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/worker/opened_image.h"
#include "daemon/worker/staged_mount.h"

namespace dismd {

// WimFile::Open, or a test's own.
using WimOpener = std::function<absl::StatusOr<std::unique_ptr<libmount::WimFile>>(
    libmount::UniqueFd fd, std::string name, const libmount::SiblingOpener& open_sibling,
    libmount::OperationMonitor& monitor)>;

class OpenedWim final : public OpenedImage {
 public:
  static absl::StatusOr<std::unique_ptr<OpenedImage>> Open(ImageSource source, WimOpener open,
                                                           libmount::OperationMonitor& monitor);

  const std::vector<libmount::ImageInfo>& images() const override { return images_; }
  absl::StatusOr<uint32_t> FindImage(std::string_view name) const override { return file_->FindImage(name); }
  void Describe(internal::ImageOpened* opened) const override;
  void ReadInfo(internal::ImageInfoRead* info) const override;
  absl::Status CheckIntegrity(libmount::OperationMonitor& monitor) override;
  absl::Status OpenTree(uint32_t index, const TreeOptions& options, libmount::OperationMonitor& monitor) override;
  absl::Status OpenStaging(StagingSource staging, libmount::OperationMonitor& monitor) override;
  absl::Status FinishCommit(libmount::OperationMonitor&) override { return absl::OkStatus(); }  // there is no such one
  absl::StatusOr<internal::Committed> Commit(const internal::Commit& request,
                                             libmount::OperationMonitor& monitor) override;
  libmount::FileTree* tree() override;
  libmount::WritableTree* writable_tree() override;
  void SetCacheBudget(size_t bytes) override;
  TreeStats GetTreeStats() const override;
  bool is_solid() const override { return file_ != nullptr && file_->is_solid(); }
  uint32_t image_index() const override;
  internal::StagingState GetStagingState() const override;
  internal::Committed LastCommit() const override;
  void SuspendChangeDetection() override;
  void RenewChangeDetection() override;

 private:
  OpenedWim(libmount::UniqueFd image, std::string name, WimOpener open)
      : image_(std::move(image)), name_(std::move(name)), open_(std::move(open)) {}

  // Of the image as it is in the file. Null before OpenTree.
  libmount::WimTree* base() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const libmount::UniqueFd image_;
  const std::string name_;
  const WimOpener open_;
  ImageReplacement replacement_;
  std::vector<libmount::ImageInfo> images_;
  std::unique_ptr<libmount::WimFile> file_;  // null behind OpenStaging
  TreeOptions options_;
  mutable absl::Mutex mutex_;
  uint32_t index_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<size_t> cache_budget_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<libmount::WimTree> own_tree_ ABSL_GUARDED_BY(mutex_);  // until there is a staged one
  std::unique_ptr<StagedMount> staged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_WORKER_OPENED_WIM_H_
