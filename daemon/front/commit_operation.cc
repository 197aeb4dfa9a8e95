// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/commit_operation.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "daemon/front/announcement.h"
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

// While it lives, there is no other mount that shows the image's file, which is changed as a whole.
class ExclusiveSeat {
 public:
  ExclusiveSeat(MountRegistry& registry, std::string mount_id) : registry_(registry), mount_id_(std::move(mount_id)) {}
  ~ExclusiveSeat() {
    if (begun_) registry_.EndExclusive(mount_id_, file_.has_value() ? &*file_ : nullptr);
  }
  ExclusiveSeat(const ExclusiveSeat&) = delete;
  ExclusiveSeat& operator=(const ExclusiveSeat&) = delete;

  absl::Status Begin() {
    absl::Status alone = registry_.BeginExclusive(mount_id_);
    begun_ = alone.ok();
    return alone;
  }
  void Ended(const absl::StatusOr<internal::Committed>& committed) {
    if (begun_ && committed.ok() && committed->image_inode() != 0) {
      file_ = ImageFile{committed->image_device(), committed->image_inode()};
    }
  }

 private:
  MountRegistry& registry_;
  const std::string mount_id_;
  bool begun_ = false;
  std::optional<ImageFile> file_;
};

absl::Status Cancelled() {
  return MakeError(Reason::kCancelled, "the commit was cancelled; the image file is as it was");
}

absl::Status Lost(const internal::Committed& outcome) {
  const bool pending = outcome.staging().commit_pending();
  return MakeError(Reason::kWorkerDied,
                   absl::StrCat("the process that wrote the image died, and another one serves the mount now; ",
                                pending ? "it could not finish the commit, and the volume in the file is between two "
                                          "states: commit again"
                                        : "the image file is as it was before, and all edits are there: commit again"));
}

bool WritesFileAnew(const v1::CommitOptions& options) {
  return options.rebuild() || options.recompress() != v1::COMPRESSION_UNSPECIFIED;
}

bool IsDisk(const v1::Mount& mount) { return mount.image_type() == v1::IMAGE_TYPE_VHD; }

void ReportTo(Operation& operation, const internal::WorkerProgress& progress) {
  operation.Report({static_cast<Phase>(progress.phase()), progress.bytes_done(), progress.bytes_total()});
}

// Nothing: this commit was never begun.
using Outcome = std::optional<absl::StatusOr<internal::Committed>>;

Outcome AskToCommit(Operation& operation, WorkerLink& worker, const v1::CommitOptions& options) {
  if (operation.cancelled()) return Cancelled();  // perhaps before all had heard of it
  internal::FrontToWorker request;
  request.mutable_commit()->set_commit_id(operation.id());
  request.mutable_commit()->set_append(options.append());
  request.mutable_commit()->set_generate_integrity(options.generate_integrity());
  request.mutable_commit()->set_rebuild(WritesFileAnew(options));
  request.mutable_commit()->set_recompress(options.recompress());
  absl::StatusOr<internal::WorkerToFront> answer =
      worker.CallToTheEnd(std::move(request), operation.cancel_token(), kCommitSilence,
                          [&operation](const internal::WorkerProgress& progress) { ReportTo(operation, progress); });
  if (!answer.ok()) return answer.status();
  if (answer->has_committed()) return answer->committed();
  return MakeError(Reason::kWorkerDied, "the process that writes the image gave no sensible answer");
}

// What became of a commit that a front before this one had begun.
Outcome AskOutcome(Operation& operation, WorkerLink& worker, const v1::CommitOptions&) {
  internal::FrontToWorker request;
  request.mutable_get_commit_outcome()->set_commit_id(operation.id());
  absl::StatusOr<internal::WorkerToFront> answer =
      worker.CallToTheEnd(std::move(request), operation.cancel_token(), kCommitSilence,
                          [&operation](const internal::WorkerProgress& progress) { ReportTo(operation, progress); });
  if (!answer.ok()) return answer.status();
  if (!answer->has_committed() || answer->committed().commit_id() != operation.id()) return std::nullopt;
  if (!answer->committed().done()) return Lost(answer->committed());
  return answer->committed();
}

// What became of a commit whose worker died.
absl::StatusOr<internal::Committed> AskReplacement(const Tools& tools, const MountView& view, Operation& operation) {
  const std::string& id = operation.id();
  CancelToken never;
  std::shared_ptr<WorkerLink> before = view.worker;
  while (true) {
    std::shared_ptr<WorkerLink> worker =
        tools.registry.AwaitOtherWorker(view.mount.mount_id(), before, kReplacementDeadline);
    if (worker == nullptr) break;
    internal::FrontToWorker request;
    request.mutable_get_commit_outcome()->set_commit_id(id);
    // A commit into a disk it finishes first.
    absl::StatusOr<internal::WorkerToFront> answer =
        worker->Call(request, never, kCommitSilence,
                     [&operation](const internal::WorkerProgress& progress) { ReportTo(operation, progress); });
    if (answer.ok() && answer->has_committed()) {
      const internal::Committed& outcome = answer->committed();
      // Of an earlier one, where this one had not even begun.
      if (outcome.commit_id() == id && outcome.done()) return outcome;
      return Lost(outcome);
    }
    if (!answer.ok() && !worker->ended()) return answer.status();  // it lives, and nobody can say
    before = worker;  // has died as well
  }
  return MakeError(Reason::kWorkerDied, "the process that wrote the image died, and none replaces it");
}

Outcome Attempt(const Tools& tools, Operation& operation, const MountView& view, const v1::CommitOptions& options,
                bool wait_for_replacement,
                absl::FunctionRef<Outcome(Operation&, WorkerLink&, const v1::CommitOptions&)> ask) {
  operation.Report({WritesFileAnew(options) ? Phase::kRebuilding : Phase::kCommitting, 0, 0});
  ExclusiveSeat seat(tools.registry, view.mount.mount_id());
  if (ChangesWholeFile(view.mount, options)) {
    if (absl::Status alone = seat.Begin(); !alone.ok()) return alone;
  }
  Announcement announcement(tools.registry.OthersOf(view.file, view.mount.mount_id()), operation.id(),
                            operation.cancel_token());
  libmount::TestSeam("front-committing", [&operation] { return operation.cancelled(); });
  Outcome done = ask(operation, *view.worker, options);
  if (!done.has_value()) return done;
  if (!done->ok() && view.worker->ended() && wait_for_replacement) {
    done = AskReplacement(tools, view, operation);
  }
  seat.Ended(*done);
  return done;
}

}  // namespace

bool ChangesWholeFile(const v1::Mount& mount, const v1::CommitOptions& options) {
  return IsDisk(mount) || WritesFileAnew(options);
}

void SaveRecord(const Tools& tools, const std::string& mount_id, const LogContext& context) {
  Caller root;
  absl::StatusOr<MountView> now = tools.registry.FindById(root, mount_id);
  if (!now.ok()) return;
  internal::FrontToBroker update;
  update.mutable_update_record()->set_slot_id(now->slot);
  update.mutable_update_record()->set_registry_record(RecordOf(*now));
  absl::Status updated = tools.broker.Call(std::move(update)).status();
  if (!updated.ok()) libmount::Log(Severity::kWarning, context, updated.ToString());
}

void NoteCommitPending(const Tools& tools, const MountView& view, const LogContext& context) {
  if (!IsDisk(view.mount)) return;
  tools.registry.SetCommitPending(view.mount.mount_id(), true);
  SaveRecord(tools, view.mount.mount_id(), context);
}

void RenewCommitPending(const Tools& tools, MountView* view) {
  if (!IsDisk(view->mount)) return;
  view->mount.set_commit_pending(true);  // where nobody can say
  Caller root;
  absl::StatusOr<MountView> now = tools.registry.FindById(root, view->mount.mount_id());
  if (!now.ok() || now->worker == nullptr) return;
  CancelToken never;
  internal::FrontToWorker request;
  request.mutable_get_commit_outcome();
  absl::StatusOr<internal::WorkerToFront> answer = now->worker->Call(request, never, kWorkerSilence);
  if (!answer.ok() || !answer->has_committed()) return;
  view->mount.set_commit_pending(answer->committed().staging().commit_pending());
  tools.registry.SetCommitPending(view->mount.mount_id(), view->mount.commit_pending());
}

absl::Status CheckCommit(const v1::Mount& mount, const v1::CommitOptions& options) {
  if (mount.read_only()) {
    return MakeError(Reason::kMountReadOnly,
                     absl::StrCat(mount.mount_path(), " is mounted read-only and has nothing to commit"));
  }
  const bool asks = options.append() || options.generate_integrity() || WritesFileAnew(options);
  if (IsDisk(mount) && asks) {
    return MakeError(Reason::kInvalidFlags, absl::StrCat(mount.image_path(),
                                                         " is a disk: it has one image, no integrity table and no "
                                                         "compression; commit without options"));
  }
  if (!v1::Compression_IsValid(options.recompress())) {
    return MakeError(Reason::kInvalidFlags, absl::StrCat("there is no compression ", options.recompress()));
  }
  return absl::OkStatus();
}

absl::StatusOr<internal::Committed> CommitOccupied(const Tools& tools, Operation& operation, const MountView& view,
                                                   const v1::CommitOptions& options, bool wait_for_replacement,
                                                   const CommitShare& share) {
  if (share != nullptr) {
    Outcome found = Attempt(tools, operation, view, options, wait_for_replacement, AskOutcome);
    share->Release();
    if (found.has_value()) return *std::move(found);
  }
  operation.Report({Phase::kWaiting, 0, 0});
  std::unique_ptr<FileLocks::Holder> turn = tools.file_locks.Lock(view.file, operation.cancel_token());
  if (turn == nullptr) return Cancelled();
  return *Attempt(tools, operation, view, options, wait_for_replacement, AskToCommit);
}

absl::Status RunCommit(const Tools& tools, Operation& operation, absl::StatusOr<MountView> view,
                       const v1::CommitOptions& options, const CommitShare& share) {
  if (!view.ok()) return view.status();
  const std::string& mount_id = view->mount.mount_id();
  LogContext context = operation.log_context();
  context.mount_id = mount_id;
  absl::StatusOr<internal::Committed> done = absl::UnknownError("");
  if (view->worker == nullptr) {
    done = MakeError(Reason::kWorkerDied, "nobody serves the mount");
  } else {
    NoteCommitPending(tools, *view, context);
    done = CommitOccupied(tools, operation, *view, options, /*wait_for_replacement=*/true, share);
    if (!done.ok()) RenewCommitPending(tools, &*view);
  }
  tools.registry.EndCommit(mount_id, done.ok() ? &*done : nullptr);
  SaveRecord(tools, mount_id, context);
  if (!done.ok()) return done.status();
  Caller root;
  if (absl::StatusOr<MountView> now = tools.registry.FindById(root, mount_id); now.ok()) operation.SetMount(now->mount);
  libmount::Log(Severity::kInfo, context,
                done->nothing_to_do() ? absl::StrCat("nothing to commit at ", view->mount.mount_path())
                                      : absl::StrCat("committed ", view->mount.mount_path(), " as image ",
                                                     done->image_index(), " of ", view->mount.image_path()));
  return absl::OkStatus();
}

}  // namespace dismd
