// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/staged_disk.h"

#include <errno.h>

#include "absl/strings/str_cat.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/block/container_file.h"
#include "libmount/block/overlay_commit.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::OperationMonitor;
using libmount::Reason;
using libmount::UniqueFd;

constexpr uint32_t kImageIndex = 1;

}  // namespace

absl::StatusOr<std::unique_ptr<StagedDisk>> StagedDisk::Open(Options options) {
  std::unique_ptr<StagedDisk> disk(new StagedDisk(std::move(options)));
  const Options& own = disk->options_;
  const bool goes_on = StagedState::IsIn(own.staging.get());
  if (goes_on) {
    if (absl::Status loaded = disk->state_.Load(); !loaded.ok()) return loaded;
    ImageLock::Release(own.image->get());
  }
  absl::StatusOr<std::string> identity = libmount::DiskIdentity(*own.disk, own.image->get());
  if (!identity.ok()) return identity.status();
  absl::Status opened = disk->OpenOverlay(*identity);
  if (opened.ok() && goes_on) opened = disk->FindOutcome(*identity);
  if (opened.ok()) opened = disk->OpenVolume();
  if (opened.ok() && !goes_on) {
    internal::StagedMountState state;
    state.set_image_index(kImageIndex);
    state.set_staged_at_start(disk->overlay_->GetStats().staged_end);
    opened = disk->state_.Save(state);
  }
  if (!opened.ok()) return opened;
  return disk;
}

absl::Status StagedDisk::OpenOverlay(const std::string& identity) {
  UniqueFd directory = options_.staging.Duplicate();
  if (!directory) return StagingError("cannot duplicate the descriptor");
  libmount::OverlayOptions options;
  options.base_identity = identity;
  options.resumed = options_.resumed;
  auto overlay = libmount::OverlayDevice::Open(std::move(directory), options_.device, options);
  if (!overlay.ok()) return overlay.status();
  overlay_ = *std::move(overlay);
  return absl::OkStatus();
}

absl::Status StagedDisk::FindOutcome(const std::string& identity) {
  internal::StagedMountState now = state_.Get();
  if (!now.commit_under_way() || overlay_->commit_pending()) return absl::OkStatus();
  now.set_commit_under_way(false);
  now.set_commit_done(identity != now.commit_old_identity());
  if (now.commit_done()) now.set_staged_at_start(0);
  return state_.Save(now);
}

absl::Status StagedDisk::OpenVolume() {
  groups_ = std::make_unique<libmount::OverlayGroups>(overlay_.get());
  volume_ = std::make_unique<libmount::WritablePartitionDevice>(overlay_.get(), options_.volume_offset,
                                                                options_.volume_size, options_.volume_writable);
  auto tree = libmount::NtfsTree::OpenForWriting(volume_.get(), groups_.get(), options_.resumed, options_.tree);
  if (!tree.ok()) return tree.status();
  tree_ = *std::move(tree);
  return absl::OkStatus();
}

absl::StatusOr<internal::Committed> StagedDisk::Commit(const internal::Commit& request, OperationMonitor& monitor) {
  if (request.unmounted()) {
    if (int error = tree_->RemoveUnlinked()) {
      return MakeErrnoError(Reason::kOutOfResources, error,
                            absl::StrCat(options_.image_name,
                                         ": removing the files that were open when they were "
                                         "removed"));
    }
  }
  if (!has_changes()) {
    internal::Committed nothing;
    nothing.set_commit_id(request.commit_id());
    nothing.set_done(true);
    nothing.set_nothing_to_do(true);
    nothing.set_image_index(kImageIndex);
    *nothing.mutable_staging() = GetState();
    return nothing;
  }
  ImageLock lock(options_.image->get());
  if (absl::Status held = lock.Check(options_.image_name); !held.ok()) return held;
  absl::StatusOr<std::string> identity = libmount::DiskIdentity(*options_.disk, options_.image->get());
  if (!identity.ok()) return identity.status();
  internal::StagedMountState begun = state_.Get();
  begun.set_commit_id(request.commit_id());
  begun.set_commit_under_way(true);
  begun.set_commit_done(false);
  begun.set_commit_old_identity(*identity);
  if (absl::Status saved = state_.Save(begun); !saved.ok()) return saved;
  libmount::TestSeam("worker-commit-begun", [&] { return monitor.cancelled(); });
  if (absl::Status written = WriteOverlay(monitor); !written.ok()) return written;
  return LastCommit();
}

absl::Status StagedDisk::FinishCommit(OperationMonitor& monitor) {
  if (!overlay_->commit_pending()) return absl::OkStatus();
  ImageLock lock(options_.image->get());
  if (absl::Status held = lock.Check(options_.image_name); !held.ok()) return held;
  return WriteOverlay(monitor);
}

absl::Status StagedDisk::WriteOverlay(OperationMonitor& monitor) {
  UniqueFd file = options_.image->Duplicate();
  if (!file) return MakeErrnoError(Reason::kOutOfResources, errno, "duplicating the image's descriptor");
  const absl::Status written =
      libmount::CommitOverlay(*overlay_, *options_.disk, libmount::MakeContainerFile(std::move(file)), monitor);
  libmount::TestSeam("worker-commit-finished");
  internal::StagedMountState now = state_.Get();
  if (written.ok()) {
    now.set_commit_under_way(false);
    now.set_commit_done(true);
    now.set_staged_at_start(0);
    return state_.Save(now);
  }
  // Where the file is another one already, the next process finds out what became of it.
  absl::StatusOr<std::string> identity = libmount::DiskIdentity(*options_.disk, options_.image->get());
  if (!overlay_->commit_pending() && identity.ok() && *identity == now.commit_old_identity()) {
    now.set_commit_under_way(false);
    state_.Save(now).IgnoreError();
  }
  return written;
}

bool StagedDisk::has_changes() const {
  if (overlay_->commit_pending()) return true;
  return overlay_->has_changes() && overlay_->GetStats().staged_end > state_.Get().staged_at_start();
}

internal::Committed StagedDisk::LastCommit() const {
  internal::Committed last;
  const internal::StagedMountState now = state_.Get();
  last.set_commit_id(now.commit_id());
  last.set_done(now.commit_done());
  last.set_image_index(kImageIndex);
  *last.mutable_staging() = GetState();
  return last;
}

internal::StagingState StagedDisk::GetState() const {
  internal::StagingState out;
  const libmount::OverlayDevice::Stats stats = overlay_->GetStats();
  out.set_has_changes(has_changes());
  out.set_staged_bytes(stats.changed_bytes + stats.log_bytes);
  out.set_commit_pending(overlay_->commit_pending());
  return out;
}

}  // namespace dismd
