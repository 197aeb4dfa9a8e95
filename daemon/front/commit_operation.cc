// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/commit_operation.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/front/file_locks.h"
#include "daemon/front/limits.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::MakeError;
using libmount::Phase;
using libmount::Reason;
using libmount::Severity;

// While it lives, the other mounts of a file expect it to be changed.
class Announcement {
 public:
  Announcement(std::vector<MountView> others) : others_(std::move(others)) {
    internal::FrontToWorker request;
    request.mutable_suspend_image_checks();
    Tell(request);
  }
  ~Announcement() {
    internal::FrontToWorker request;
    request.mutable_renew_image_state();
    Tell(request);
  }
  Announcement(const Announcement&) = delete;
  Announcement& operator=(const Announcement&) = delete;

 private:
  // One that does not answer is stopped, or hangs: it sees the change when it goes on, and the commit does not wait.
  void Tell(const internal::FrontToWorker& request) {
    CancelToken never;
    for (const MountView& other : others_) {
      absl::Status told = other.worker->Call(request, never, kNoticeDeadline).status();
      if (told.ok()) continue;
      libmount::Log(Severity::kWarning, LogContext{"", other.mount.mount_id(), other.mount.owner_uid()},
                    absl::StrCat("was not told of a commit to its file: ", told.ToString()));
    }
  }

  const std::vector<MountView> others_;
};

// What became of a commit whose worker died.
absl::StatusOr<internal::Committed> AskReplacement(const Tools& tools, const MountView& view, const std::string& id) {
  CancelToken never;
  std::shared_ptr<WorkerLink> before = view.worker;
  absl::Time deadline = absl::Now() + kReplacementDeadline;
  while (absl::Now() < deadline) {
    std::shared_ptr<WorkerLink> worker =
        tools.registry.AwaitOtherWorker(view.mount.mount_id(), before, deadline - absl::Now());
    if (worker == nullptr) break;
    internal::FrontToWorker request;
    request.mutable_get_commit_outcome()->set_commit_id(id);
    absl::StatusOr<internal::WorkerToFront> answer = worker->Call(request, never, deadline - absl::Now());
    if (answer.ok() && answer->has_committed()) {
      if (answer->committed().done()) return answer->committed();
      return MakeError(Reason::kWorkerDied,
                       "the process that wrote the image died, and another one serves the mount now; the image file is "
                       "as it was before, and all edits are there: commit again");
    }
    before = worker;  // has died as well
  }
  return MakeError(Reason::kWorkerDied, "the process that wrote the image died, and none replaces it");
}

}  // namespace

absl::Status CheckCommit(const v1::Mount& mount, const v1::CommitOptions& options) {
  if (mount.read_only()) {
    return MakeError(Reason::kMountReadOnly,
                     absl::StrCat(mount.mount_path(), " is mounted read-only and has nothing to commit"));
  }
  const bool asks = options.append() || options.generate_integrity() || options.rebuild() ||
                    options.recompress() != v1::COMPRESSION_UNSPECIFIED;
  if (mount.image_type() == v1::IMAGE_TYPE_VHD && asks) {
    return MakeError(Reason::kInvalidFlags, absl::StrCat(mount.image_path(),
                                                         " is a disk: it has one image, no integrity table and no "
                                                         "compression; commit without options"));
  }
  if (options.rebuild() || options.recompress() != v1::COMPRESSION_UNSPECIFIED) {
    return MakeError(Reason::kNotImplemented, "this version writes no image files anew; commit without rebuild");
  }
  return absl::OkStatus();
}

absl::StatusOr<internal::Committed> CommitOccupied(const Tools& tools, Operation& operation, const MountView& view,
                                                   const v1::CommitOptions& options, bool wait_for_replacement) {
  operation.Report({Phase::kWaiting, 0, 0});
  std::unique_ptr<FileLocks::Holder> turn = tools.file_locks.Lock(view.file, operation.cancel_token());
  if (turn == nullptr) return MakeError(Reason::kCancelled, "the commit was cancelled; the image file is as it was");
  operation.Report({Phase::kCommitting, 0, 0});
  Announcement announcement(tools.registry.OthersOf(view.file, view.mount.mount_id()));
  libmount::TestSeam("front-committing", [&operation] { return operation.cancelled(); });
  internal::FrontToWorker request;
  request.mutable_commit()->set_commit_id(operation.id());
  request.mutable_commit()->set_append(options.append());
  request.mutable_commit()->set_generate_integrity(options.generate_integrity());
  absl::StatusOr<internal::WorkerToFront> answer = view.worker->CallToTheEnd(
      std::move(request), operation.cancel_token(), kCommitSilence,
      [&operation](const internal::WorkerProgress& progress) {
        operation.Report({static_cast<Phase>(progress.phase()), progress.bytes_done(), progress.bytes_total()});
      });
  if (answer.ok() && answer->has_committed()) return answer->committed();
  if (answer.ok()) return MakeError(Reason::kWorkerDied, "the process that writes the image gave no sensible answer");
  if (libmount::ReasonOf(answer.status()) != Reason::kWorkerDied || !wait_for_replacement) return answer.status();
  return AskReplacement(tools, view, operation.id());
}

absl::Status RunCommit(const Tools& tools, Operation& operation, const std::string& mount_id,
                       const v1::CommitOptions& options) {
  absl::StatusOr<MountView> view = tools.registry.BeginCommit(mount_id);
  if (!view.ok()) return view.status();
  absl::StatusOr<internal::Committed> done = absl::UnknownError("");
  if (view->worker == nullptr) {
    done = MakeError(Reason::kWorkerDied, "nobody serves the mount");
  } else {
    done = CommitOccupied(tools, operation, *view, options, /*wait_for_replacement=*/true);
  }
  tools.registry.EndCommit(mount_id, done.ok() ? &*done : nullptr);
  LogContext context = operation.log_context();
  context.mount_id = mount_id;
  if (!done.ok()) return done.status();
  Caller root;
  if (absl::StatusOr<MountView> now = tools.registry.FindById(root, mount_id); now.ok()) {
    operation.SetMount(now->mount);
    internal::FrontToBroker update;
    update.mutable_update_record()->set_slot_id(now->slot);
    update.mutable_update_record()->set_registry_record(now->mount.SerializeAsString());
    absl::Status updated = tools.broker.Call(std::move(update)).status();
    if (!updated.ok()) libmount::Log(Severity::kWarning, context, updated.ToString());
  }
  libmount::Log(Severity::kInfo, context,
                done->nothing_to_do() ? absl::StrCat("nothing to commit at ", view->mount.mount_path())
                                      : absl::StrCat("committed ", view->mount.mount_path(), " as image ",
                                                     done->image_index(), " of ", view->mount.image_path()));
  return absl::OkStatus();
}

}  // namespace dismd
