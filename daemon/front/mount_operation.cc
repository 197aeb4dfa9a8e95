// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/mount_operation.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "daemon/front/errors.h"
#include "daemon/front/judge.h"
#include "daemon/front/limits.h"
#include "daemon/front/slot.h"
#include "daemon/front/text.h"
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

class Mounter {
 public:
  Mounter(const Tools& tools, Operation& operation, const Caller& caller, const v1::MountImageRequest& request,
          std::unique_ptr<MountSeat> seat)
      : tools_(tools),
        operation_(operation),
        caller_(caller),
        request_(request),
        paths_{request.image_path(), request.mount_path()},
        seat_(std::move(seat)) {}

  // Of a remount: what became of the last commit that was begun before.
  const internal::Committed& last_commit() const { return staging_.last_commit(); }
  void KeepTime(const google::protobuf::Timestamp& mount_time) { mount_time_ = mount_time; }

  // Whatever way it ends before the attachment: slot_ and seat_ undo it.
  absl::Status Run() {
    using Step = absl::Status (Mounter::*)();
    for (Step step : {&Mounter::Inspect, &Mounter::OpenImage, &Mounter::JudgeFiles, &Mounter::CheckIntegrity,
                      &Mounter::JudgeRights, &Mounter::OpenStaging, &Mounter::CreateMount, &Mounter::Attach}) {
      if (operation_.cancelled()) return Cancelled();
      absl::Status done = (this->*step)();
      // Whatever a step that was cut short says, it was the cancelling that ended it; only attaching cannot be.
      if (!done.ok()) return operation_.cancelled() && step != &Mounter::Attach ? Cancelled() : done;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Inspect();
  absl::Status OpenImage();
  absl::Status JudgeFiles();
  absl::Status CheckIntegrity();
  absl::Status JudgeRights();
  absl::Status OpenStaging();
  absl::Status CreateMount();
  absl::Status Attach();

  static absl::Status Cancelled() { return MakeError(Reason::kCancelled, "the mount was cancelled; nothing was left"); }
  // Whether the image is open; else only what the paths tell can be judged.
  bool image_open() const { return slot_->facts().image_errno() == 0; }
  ImageFile image_file() const { return {slot_->facts().image_device(), slot_->facts().image_inode()}; }
  LogContext log_context() const { return {operation_.id(), seat_->mount_id(), caller_.uid}; }
  void Seam(const char* name) {
    libmount::TestSeam(name, [this] { return operation_.cancelled(); });
  }
  absl::StatusOr<internal::WorkerToFront> AskWorker(internal::FrontToWorker request) {
    return slot_->worker()->Call(
        std::move(request), operation_.cancel_token(), kWorkerSilence,
        [this](const internal::WorkerProgress& progress) {
          operation_.Report({static_cast<Phase>(progress.phase()), progress.bytes_done(), progress.bytes_total()});
        });
  }
  v1::Mount MakeMount() const;

  const Tools& tools_;
  Operation& operation_;
  const Caller& caller_;
  const v1::MountImageRequest& request_;
  const MountPaths paths_;
  // Destroyed from the end: first the slot, so that nothing is there any more when the seat and its path are free.
  std::unique_ptr<MountSeat> seat_;
  std::unique_ptr<Slot> slot_;
  internal::ImageOpened opened_;
  std::vector<ImageFile> parents_;
  internal::StagingOpened staging_;
  std::optional<google::protobuf::Timestamp> mount_time_;  // of a remount: when it was mounted first
};

absl::Status Mounter::Inspect() {
  operation_.Report({Phase::kOpening, 0, 0});
  Seam("front-opening");
  if (operation_.cancelled()) return Cancelled();
  internal::InspectPaths inspect;
  if (caller_.connection != nullptr) {
    inspect.set_connection_id(caller_.connection->id());
  } else {
    inspect.set_remount_of(seat_->mount_id());  // it went with the front that began this
  }
  inspect.set_image_path(paths_.image);
  inspect.set_mount_path(paths_.mount);
  inspect.set_read_write(!request_.read_only());
  absl::StatusOr<std::unique_ptr<Slot>> slot = Slot::Inspect(tools_.broker, inspect, operation_.cancel_token());
  if (operation_.cancelled()) return Cancelled();
  if (!slot.ok()) return slot.status();
  slot_ = *std::move(slot);
  Seam("front-inspected");
  if (operation_.cancelled()) return Cancelled();
  if (absl::Status found = JudgePresence(paths_, slot_->facts()); !found.ok()) return found;
  if (absl::Status known = JudgeExtension(paths_.image); !known.ok()) return known;
  return JudgeNamespace(slot_->facts());
}

absl::Status Mounter::OpenImage() {
  if (!image_open()) return absl::OkStatus();
  if (IsDisk(paths_.image)) {
    if (absl::Status whole = seat_->CheckWhole(image_file(), slot_->facts().image_real_path()); !whole.ok()) {
      return whole;
    }
  }
  MountRegistry* registry = &tools_.registry;
  CacheBudget* budget = &tools_.budget;
  uint64_t slot_id = slot_->id();
  internal::StartWorker start;
  start.set_mount_id(seat_->mount_id());
  start.set_operation_id(operation_.id());
  // Staging only for what may be written: for all else there is an error to come.
  start.set_read_write(!request_.read_only() && !seat_->is_remount() && slot_->facts().image_writable());
  start.set_remount(seat_->is_remount());
  if (start.read_write()) start.set_scratch_directory(request_.scratch_directory());
  absl::Status started =
      slot_->StartWorker(tools_.loop, start, [registry, budget, slot_id](const internal::WorkerToFront& event) {
        if (event.has_cache_wanted()) {
          budget->Want(slot_id, event.cache_wanted().bytes());
        } else {
          registry->OnWorkerEvent(slot_id, event);
        }
      });
  if (!started.ok()) return started;
  internal::FrontToWorker request;
  internal::OpenImage& open = *request.mutable_open_image();
  open.set_image_name_for_messages(BaseName(paths_.image));
  if (request_.has_image_name()) {
    open.set_image_name(request_.image_name());
  } else {
    open.set_image_index(request_.image_index());  // unset: 0, which no image has
  }
  open.set_read_only(request_.read_only());
  open.set_unix_data(request_.unix_data());
  open.set_partition(request_.partition());
  open.set_owner_uid(caller_.uid);
  open.set_owner_gid(caller_.gid);
  open.set_cache_budget(tools_.budget.FirstShare());
  absl::StatusOr<internal::WorkerToFront> answer = AskWorker(std::move(request));
  if (!answer.ok()) return answer.status();
  if (!answer->has_image_opened()) {
    return MakeError(Reason::kWorkerDied, "the process that reads the image gave no sensible answer");
  }
  opened_ = answer->image_opened();
  if (opened_.marked_write_in_progress() && request_.read_only()) {
    libmount::Log(Severity::kWarning, log_context(),
                  absl::StrCat(paths_.image, " is marked as being written by another program"));
  }
  return absl::OkStatus();
}

absl::Status Mounter::JudgeFiles() {
  const internal::PathFacts& facts = slot_->facts();
  if (absl::Status fit = JudgeMountPoint(paths_, facts); !fit.ok()) return fit;
  if (facts.mount_errno() == 0) {
    if (absl::Status claimed = seat_->Claim(slot_->id(), facts.mount_real_path()); !claimed.ok()) return claimed;
  }
  if (absl::Status local = JudgeImageLocation(paths_, facts); !local.ok()) return local;
  if (!request_.read_only()) {
    if (absl::Status may = JudgeWritable(paths_, facts); !may.ok()) return may;
  }
  if (!image_open()) return absl::OkStatus();
  for (const internal::FileId& parent : opened_.parents()) parents_.push_back({parent.device(), parent.inode()});
  absl::Status claimed =
      seat_->ClaimImage(image_file(), facts.image_real_path(), parents_, opened_.image_index(), !request_.read_only());
  if (!claimed.ok() || request_.read_only()) return claimed;
  return JudgeWriting(paths_, opened_);
}

absl::Status Mounter::CheckIntegrity() {
  if (!request_.check_integrity() || !image_open() || IsDisk(paths_.image)) return absl::OkStatus();
  operation_.Report({Phase::kCheckingIntegrity, 0, 0});
  internal::FrontToWorker request;
  request.mutable_check_integrity();
  return AskWorker(std::move(request)).status();
}

absl::Status Mounter::JudgeRights() {
  if (absl::Status may = JudgeAccess(paths_, slot_->facts()); !may.ok()) return may;
  if (absl::Status permitted = tools_.policy.MayMount(caller_, request_); !permitted.ok()) return permitted;
  return JudgeOptions(request_);
}

absl::Status Mounter::OpenStaging() {
  if (request_.read_only()) return absl::OkStatus();
  if (seat_->is_remount()) operation_.Report({Phase::kRecovering, 0, 0});
  internal::FrontToWorker request;
  request.mutable_open_staging();
  absl::StatusOr<internal::WorkerToFront> answer = AskWorker(std::move(request));
  if (!answer.ok()) return answer.status();
  staging_ = answer->staging_opened();
  return absl::OkStatus();
}

absl::Status Mounter::CreateMount() {
  operation_.Report({Phase::kMounting, 0, 0});
  Seam("front-before-create");
  if (operation_.cancelled()) return Cancelled();
  internal::CreateMount mount;
  mount.set_read_only(request_.read_only());
  mount.set_allow_other(request_.allow_other());
  mount.set_description(absl::StrCat("dismd:", BoundedText(BaseName(paths_.image), 64)));
  if (absl::Status created = slot_->CreateMount(mount); !created.ok()) return created;
  return slot_->worker()->AwaitServing(operation_.cancel_token(), kServingDeadline);
}

v1::Mount Mounter::MakeMount() const {
  v1::Mount mount;
  mount.set_mount_id(seat_->mount_id());
  mount.set_mount_path(ToValidUtf8(slot_->facts().mount_real_path()));
  mount.set_image_path(ToValidUtf8(slot_->facts().image_real_path()));
  mount.set_image_type(static_cast<v1::ImageType>(opened_.image_type()));
  mount.set_partition(opened_.partition());
  mount.set_image_index(opened_.image_index());
  mount.set_image_name(BoundedText(opened_.image_name(), kMaxWorkerTextBytes));
  mount.set_read_only(request_.read_only());
  if (!request_.read_only()) SetStagingFields(staging_.staging(), &mount);
  mount.set_scratch_directory(ToValidUtf8(slot_->scratch_directory()));
  mount.set_status(v1::MOUNT_STATUS_OK);
  mount.set_owner_uid(caller_.uid);
  mount.set_allow_other(request_.allow_other());
  if (mount_time_.has_value()) {
    *mount.mutable_mount_time() = *mount_time_;
  } else {
    SetTimestamp(absl::Now(), mount.mutable_mount_time());
  }
  mount.set_worker_pid(slot_->worker_pid());
  return mount;
}

absl::Status Mounter::Attach() {
  Seam("front-before-attach");
  // From here on a cancellation comes too late: the mount becomes visible, and the call succeeds.
  if (!operation_.PassPointOfNoReturn()) return Cancelled();
  v1::Mount mount = MakeMount();
  if (absl::Status attached = slot_->AttachMount(RecordOf(mount, parents_)); !attached.ok()) return attached;
  slot_->Keep();
  tools_.budget.Add(slot_->id(), slot_->worker());
  operation_.SetMount(mount);
  seat_->Publish(mount, slot_->worker());
  libmount::Log(
      Severity::kInfo, log_context(),
      absl::StrCat("mounted ", mount.image_path(), " image ", mount.image_index(), " at ", mount.mount_path()));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMountRequest(const v1::MountImageRequest& request) {
  if (absl::Status image = CheckPath(request.image_path(), "image file"); !image.ok()) return image;
  if (absl::Status mount = CheckPath(request.mount_path(), "mount point"); !mount.ok()) return mount;
  if (!request.read_only() && !request.scratch_directory().empty()) {
    absl::Status scratch = CheckPath(request.scratch_directory(), "scratch directory");
    if (!scratch.ok()) return scratch;
  }
  if (request.image_name().size() > kMaxImageNameBytes) {
    return MakeError(Reason::kInvalidImageName, absl::StrCat("the image name has ", request.image_name().size(),
                                                             " bytes; none has more than ", kMaxImageNameBytes));
  }
  return absl::OkStatus();
}

absl::Status RunMount(const Tools& tools, Operation& operation, const Caller& caller,
                      const v1::MountImageRequest& request, std::unique_ptr<MountSeat> seat) {
  return Mounter(tools, operation, caller, request, std::move(seat)).Run();
}

absl::Status RunRemount(const Tools& tools, Operation& operation, const Caller& caller, const MountView& view,
                        std::unique_ptr<MountSeat> seat, internal::Committed* last_commit) {
  if (caller.uid != view.mount.owner_uid()) {
    return MakeError(Reason::kAccessDenied, absl::StrCat("only uid ", view.mount.owner_uid(), " can remount ",
                                                         view.mount.mount_path(), ", whose edits they are"));
  }
  v1::MountImageRequest request;
  request.set_image_path(view.image_path);
  request.set_mount_path(view.path);
  request.set_image_index(view.mount.image_index());
  request.set_read_only(view.mount.read_only());
  request.set_allow_other(view.mount.allow_other());
  request.set_unix_data(view.mount.unix_data());
  request.set_partition(view.mount.partition());
  Mounter mounter(tools, operation, caller, request, std::move(seat));
  mounter.KeepTime(view.mount.mount_time());
  absl::Status remounted = mounter.Run();
  if (last_commit != nullptr) *last_commit = mounter.last_commit();
  switch (libmount::ReasonOf(remounted)) {
    case Reason::kImageNotFound:
    case Reason::kMountPointNotFound:
    case Reason::kInvalidPath:
    case Reason::kBadImageFormat:
    case Reason::kInvalidImageIndex: break;
    default: return remounted;
  }
  std::string why(remounted.message().data(), remounted.message().size());
  tools.registry.InvalidateDormant(view.mount.mount_id(), why);
  return MakeError(Reason::kMountInvalid, absl::StrCat(view.mount.mount_path(), " cannot be remounted: ", why));
}

}  // namespace dismd
