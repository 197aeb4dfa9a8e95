// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/service.h"

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/front/commit_operation.h"
#include "daemon/front/image_info.h"
#include "daemon/front/judge.h"
#include "daemon/front/limits.h"
#include "daemon/front/slot.h"
#include "daemon/front/unmount_operation.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::LogContext;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

// Tasks of the service itself take turns with the users', as root's do.
constexpr uint32_t kServiceKey = 0;

}  // namespace

Service::Service(EventLoop& loop, UniqueFd broker_socket)
    : loop_(loop),
      broker_(loop, std::move(broker_socket), *this),
      registry_([this](uint64_t slot) { ReleaseGone(slot); }),
      call_pool_(std::make_unique<FairPool>(kMaxConcurrentCalls, kMaxConcurrentCallsPerUid)),
      info_pool_(std::make_unique<FairPool>(kMaxConcurrentInfos, kMaxConcurrentInfosPerUid)),
      unmount_pool_(std::make_unique<FairPool>(kMaxConcurrentUnmounts, kMaxConcurrentUnmountsPerUid)),
      commit_pool_(std::make_unique<FairPool>(kMaxConcurrentCommits, kMaxConcurrentCommitsPerUid)),
      mount_pool_(std::make_unique<FairPool>(kMaxConcurrentMounts, kMaxConcurrentMountsPerUid)) {}

void Service::Close() {
  stopping_ = true;
  broker_.Close();
  if (stopper_.joinable()) stopper_.join();
  for (const auto& operation : operations_.Running()) operation->Cancel();
}

Service::~Service() {
  Close();
  mount_pool_.reset();
  commit_pool_.reset();
  unmount_pool_.reset();
  info_pool_.reset();
  call_pool_.reset();
  // The workers' events come to the registry and the budget, which go next.
  for (const MountView& view : registry_.List(Caller())) {
    if (view.worker != nullptr) view.worker->Close();
  }
}

void Service::Start(ServeConnection serve) {
  serve_ = std::move(serve);
  broker_.Start();
  internal::FrontToBroker ready;
  ready.mutable_ready();
  broker_.Tell(ready);
}

void Service::WaitForEnd() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&ended_));
}

void Service::End() {
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

absl::Status Service::CheckOpen() const {
  if (!stopping_) return absl::OkStatus();
  return MakeError(Reason::kShuttingDown, "the service is stopping and takes no new work");
}

void Service::Conclude(Operation& operation, const absl::Status& outcome, absl::Time end) {
  if (!outcome.ok()) {
    bool ours = outcome.code() == absl::StatusCode::kInternal;  // not what a caller can be blamed for
    libmount::Log(
        ours ? Severity::kError : Severity::kInfo, operation.log_context(),
        absl::StrCat(libmount::ReasonName(libmount::ReasonOf(outcome)), ": ", std::string(outcome.message())));
  }
  operation.Finish(outcome, end);
}

void Service::Launch(FairPool& pool, const std::shared_ptr<Operation>& operation, std::function<absl::Status()> run) {
  FairPool::Ticket ticket = pool.Submit(operation->owner(), [this, operation, run = std::move(run)] {
    absl::Status outcome = run();
    const absl::Time end = absl::Now();
    SaveEnd(*operation, outcome, end);
    Conclude(*operation, outcome, end);
  });
  // An operation that is cancelled while it waits for its turn does not wait any longer; one of a front before this may
  // be under way, and its mount is its own already.
  if (operation->resumed()) return;
  operation->OnCancel([&pool, ticket, weak = std::weak_ptr<Operation>(operation)] {
    auto self = weak.lock();
    if (self != nullptr && pool.Withdraw(ticket)) {
      Conclude(*self, MakeError(Reason::kCancelled, "the operation was cancelled before it began"));
    }
  });
}

absl::StatusOr<std::shared_ptr<Operation>> Service::StartMount(const Caller& caller,
                                                               const v1::MountImageRequest& request) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (absl::Status well_formed = CheckMountRequest(request); !well_formed.ok()) return well_formed;
  absl::StatusOr<std::unique_ptr<MountSeat>> seat = registry_.Reserve(caller.uid);
  if (!seat.ok()) return seat.status();
  ProgressPlan plan = request.check_integrity() ? ProgressPlan::kMountWithIntegrityCheck : ProgressPlan::kMount;
  auto operation = operations_.Create(caller, v1::OPERATION_KIND_MOUNT, plan);
  if (!operation.ok()) return operation.status();
  // Shared, since a std::function must be copyable.
  auto held_seat = std::make_shared<std::unique_ptr<MountSeat>>(*std::move(seat));
  Launch(*mount_pool_, *operation, [this, operation = *operation, caller, request, held_seat] {
    SaveBegun(*operation, caller, (*held_seat)->mount_id(), /*commits=*/false, v1::CommitOptions());
    return RunMount(tools(), *operation, caller, request, std::move(*held_seat));
  });
  return *operation;
}

absl::StatusOr<std::shared_ptr<Operation>> Service::StartUnmount(const Caller& caller,
                                                                 const v1::UnmountImageRequest& request) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (request.mount_id().empty()) {
    if (absl::Status path = CheckPath(request.mount_path(), "mount point"); !path.ok()) return path;
  }
  bool commits = request.changes() == v1::CHANGES_COMMIT;
  auto operation = operations_.Create(caller, v1::OPERATION_KIND_UNMOUNT,
                                      commits ? ProgressPlan::kCommittingUnmount : ProgressPlan::kUnmount);
  if (!operation.ok()) return operation.status();
  Launch(commits ? *commit_pool_ : *unmount_pool_, *operation,
         [this, operation = *operation, caller, request] { return UnmountForCaller(*operation, caller, request); });
  return *operation;
}

absl::Status Service::UnmountForCaller(Operation& operation, const Caller& caller,
                                       const v1::UnmountImageRequest& request) {
  operation.Report({libmount::Phase::kUnmounting, 0, 0});
  absl::StatusOr<MountView> view =
      FindMount(tools(), caller, request.mount_path(), request.mount_id(), operation.cancel_token());
  if (!view.ok()) return view.status();
  operation.SetMount(view->mount);
  const std::string mount_id = view->mount.mount_id();
  if (request.changes() == v1::CHANGES_COMMIT) {
    if (absl::Status may = CheckCommit(view->mount, request.commit()); !may.ok()) return may;
    view = registry_.BeginUnmount(mount_id, operation.cancel_token());
    if (!view.ok()) return view.status();
    SaveBegun(operation, caller, mount_id, /*commits=*/true, request.commit());
    return RunCommittingUnmount(tools(), operation, caller, view, request.commit());
  }
  if (request.changes() != v1::CHANGES_DISCARD && request.changes() != v1::CHANGES_UNSPECIFIED) {
    return MakeError(Reason::kInvalidFlags, absl::StrCat("unknown value for changes: ", request.changes()));
  }
  if (request.changes() == v1::CHANGES_UNSPECIFIED && !view->mount.read_only()) {
    return MakeError(Reason::kInvalidFlags, absl::StrCat(view->mount.mount_path(),
                                                         " is mounted read-write: say whether its changes are to be "
                                                         "committed or discarded"));
  }
  if (request.commit().append() || request.commit().generate_integrity() || request.commit().rebuild() ||
      request.commit().recompress() != v1::COMPRESSION_UNSPECIFIED) {
    return MakeError(Reason::kInvalidFlags, "options of a commit were given, but nothing is to be committed");
  }
  view = registry_.BeginUnmount(mount_id, operation.cancel_token());
  if (!view.ok()) return view.status();
  SaveBegun(operation, caller, mount_id, /*commits=*/false, v1::CommitOptions());
  return RunUnmount(tools(), view, operation.log_context(), Edits::kDiscard);
}

absl::StatusOr<std::shared_ptr<Operation>> Service::StartCommit(const Caller& caller,
                                                                const v1::CommitImageRequest& request) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (request.mount_id().empty()) {
    if (absl::Status path = CheckPath(request.mount_path(), "mount point"); !path.ok()) return path;
  }
  auto operation = operations_.Create(caller, v1::OPERATION_KIND_COMMIT, ProgressPlan::kCommit);
  if (!operation.ok()) return operation.status();
  Launch(*commit_pool_, *operation,
         [this, operation = *operation, caller, request] { return CommitForCaller(*operation, caller, request); });
  return *operation;
}

absl::Status Service::CommitForCaller(Operation& operation, const Caller& caller,
                                      const v1::CommitImageRequest& request) {
  absl::StatusOr<MountView> view =
      FindMount(tools(), caller, request.mount_path(), request.mount_id(), operation.cancel_token());
  if (!view.ok()) return view.status();
  operation.SetMount(view->mount);
  if (absl::Status may = CheckCommit(view->mount, request.options()); !may.ok()) return may;
  const std::string mount_id = view->mount.mount_id();
  view = registry_.BeginCommit(mount_id);
  if (!view.ok()) return view.status();
  SaveBegun(operation, caller, mount_id, /*commits=*/true, request.options());
  return RunCommit(tools(), operation, view, request.options());
}

absl::StatusOr<std::shared_ptr<Operation>> Service::StartRemount(const Caller& caller,
                                                                 const v1::RemountImageRequest& request) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (request.mount_id().empty()) {
    if (absl::Status path = CheckPath(request.mount_path(), "mount point"); !path.ok()) return path;
  }
  auto operation = operations_.Create(caller, v1::OPERATION_KIND_REMOUNT, ProgressPlan::kRemount);
  if (!operation.ok()) return operation.status();
  Launch(*mount_pool_, *operation,
         [this, operation = *operation, caller, request] { return RemountForCaller(*operation, caller, request); });
  return *operation;
}

absl::Status Service::RemountForCaller(Operation& operation, const Caller& caller,
                                       const v1::RemountImageRequest& request) {
  absl::StatusOr<MountView> found =
      FindMount(tools(), caller, request.mount_path(), request.mount_id(), operation.cancel_token());
  if (!found.ok()) return found.status();
  operation.SetMount(found->mount);
  MountView view;
  absl::StatusOr<std::unique_ptr<MountSeat>> seat = registry_.BeginRemount(found->mount.mount_id(), &view);
  if (!seat.ok()) return seat.status();
  SaveBegun(operation, caller, view.mount.mount_id(), /*commits=*/false, v1::CommitOptions());
  return RunRemount(tools(), operation, caller, view, *std::move(seat));
}

absl::StatusOr<std::shared_ptr<Operation>> Service::FindOperation(const Caller& caller, const std::string& id) {
  return operations_.Find(caller, id);
}

absl::StatusOr<v1::GetImageInfoResponse> Service::GetImageInfo(const Caller& caller,
                                                               const v1::GetImageInfoRequest& request,
                                                               CancelToken& cancel) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (absl::Status path = CheckPath(request.image_path(), "image file"); !path.ok()) return path;
  if (cancel.cancelled()) return MakeError(Reason::kCancelled, "the call was cancelled");
  return ReadImageInfo(tools(), caller, request.image_path(), cancel);
}

v1::ListMountsResponse Service::ListMounts(const Caller& caller) {
  v1::ListMountsResponse response;
  for (MountView& view : registry_.List(caller)) *response.add_mounts() = std::move(view.mount);
  return response;
}

absl::StatusOr<v1::GetMountResponse> Service::GetMount(const Caller& caller, const v1::GetMountRequest& request,
                                                       CancelToken& cancel) {
  absl::StatusOr<MountView> view = FindMount(tools(), caller, request.mount_path(), request.mount_id(), cancel);
  if (!view.ok()) return view.status();
  v1::GetMountResponse response;
  *response.mutable_mount() = std::move(view->mount);
  if (view->worker != nullptr) {
    internal::WorkerStats stats = view->worker->FreshStats(kStatsDeadline);
    v1::MountStats& counters = *response.mutable_mount()->mutable_stats();
    counters.set_requests(stats.requests());
    counters.set_reads(stats.reads());
    counters.set_bytes_read(stats.bytes_read());
    counters.set_cache_bytes(stats.cache_bytes());
    counters.set_chunks_decoded(stats.chunks_decoded());
    counters.set_resident_bytes(stats.resident_bytes());
    if (stats.has_staging()) SetStagingFields(stats.staging(), response.mutable_mount());
  }
  return response;
}

absl::StatusOr<v1::CleanupMountpointsResponse> Service::CleanUpOne(const Caller& caller,
                                                                   const v1::CleanupMountpointsRequest& request) {
  CancelToken never;
  absl::StatusOr<MountView> view = FindMount(tools(), caller, request.mount_path(), request.mount_id(), never);
  if (!view.ok()) return view.status();
  v1::CleanupMountpointsResponse response;
  if (!request.force()) {
    if (view->slot == 0) {
      return MakeError(Reason::kNeedsRemount,
                       absl::StrCat(view->mount.mount_path(), " has edits that are kept; remount it, or use force"));
    }
    if (view->mount.status() != v1::MOUNT_STATUS_INVALID) {
      return MakeError(Reason::kMountBusy,
                       absl::StrCat(view->mount.mount_path(), " is mounted and well; unmount it, or use force"));
    }
    if (absl::Status cleaned = CleanUpInvalid(caller, *view, &response); !cleaned.ok()) return cleaned;
    return response;
  }
  RefreshStaging(tools(), &*view);  // it is told what is thrown away
  absl::Status unmounted = RunUnmount(tools(), view->mount.mount_id(), never, LogContext{"", "", caller.uid},
                                      Edits::kDiscard, /*force=*/true);
  if (!unmounted.ok()) return unmounted;
  *response.add_removed() = view->mount;
  return response;
}

// What is left of one is freed, and its edits are not: a medium may be mounted again, a file put back.
absl::Status Service::CleanUpInvalid(const Caller& caller, MountView view, v1::CleanupMountpointsResponse* response) {
  const LogContext context{"", view.mount.mount_id(), caller.uid};
  CancelToken never;
  const bool told = RefreshStaging(tools(), &view);
  const bool keep = !view.mount.read_only() && (view.mount.has_changes() || !told);
  if (view.slot != 0) {
    absl::Status unmounted =
        RunUnmount(tools(), view.mount.mount_id(), never, context, keep ? Edits::kKeep : Edits::kDiscard);
    if (!unmounted.ok()) return unmounted;
  }
  if (!keep) {
    *response->add_removed() = view.mount;
    return absl::OkStatus();
  }
  v1::Mount& kept = *response->add_kept();
  kept = view.mount;
  if (view.slot != 0) {
    kept.set_status(v1::MOUNT_STATUS_NEEDS_REMOUNT);
    kept.set_worker_pid(0);
  }
  libmount::Log(
      libmount::Severity::kWarning, context,
      absl::StrCat("not cleaned up, for its edits (force does it): ", kept.mount_path(), ": ", kept.status_message()));
  return absl::OkStatus();
}

// A mount that needs a remount, and whose image, mount point or edits are not there any more for its owner.
void Service::InvalidateWhatIsGone(const MountView& view) {
  internal::InspectPaths paths;
  paths.set_remount_of(view.mount.mount_id());
  paths.set_image_path(view.image_path);
  paths.set_mount_path(view.path);
  paths.set_read_write(true);
  CancelToken never;
  absl::StatusOr<std::unique_ptr<Slot>> found = Slot::Inspect(broker_, paths, never);
  if (!found.ok()) return;
  // Surely gone; what just cannot be looked at now may come back.
  const internal::PathFacts& facts = (*found)->facts();
  auto missing = [](int error) { return error == ENOENT || error == ENOTDIR; };
  const bool image_gone = missing(facts.image_errno()) || (facts.image_errno() == 0 && !facts.image_is_regular());
  const bool point_gone = missing(facts.mount_errno()) || (facts.mount_errno() == 0 && !facts.mount_is_directory());
  if (missing(facts.staging_errno())) {
    return registry_.InvalidateDormant(view.mount.mount_id(),
                                       absl::StrCat(facts.staging_path(), ", which had its edits, is gone"));
  }
  if (!image_gone && !point_gone) return;
  registry_.InvalidateDormant(view.mount.mount_id(),
                              std::string(JudgePresence({view.image_path, view.path}, facts).message()));
}

absl::StatusOr<v1::CleanupMountpointsResponse> Service::CleanupMountpoints(
    const Caller& caller, const v1::CleanupMountpointsRequest& request) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (request.mount_case() != v1::CleanupMountpointsRequest::MOUNT_NOT_SET) return CleanUpOne(caller, request);
  if (request.force()) return MakeError(Reason::kInvalidFlags, "force is for one mount: name it");
  v1::CleanupMountpointsResponse response;
  for (const MountView& view : registry_.List(caller)) {
    if (view.mount.status() == v1::MOUNT_STATUS_NEEDS_REMOUNT) InvalidateWhatIsGone(view);
  }
  for (MountView& view : registry_.List(caller)) {
    if (view.mount.status() != v1::MOUNT_STATUS_INVALID) continue;
    CleanUpInvalid(caller, std::move(view), &response).IgnoreError();  // busy with something else: another time
  }
  return response;
}

v1::GetServerInfoResponse Service::GetServerInfo(const Caller& caller) {
  v1::GetServerInfoResponse response;
  {
    absl::MutexLock lock(&mutex_);
    response.set_version(config_.version());
    response.set_rootless(config_.rootless());
  }
  response.set_caller_uid(caller.uid);
  response.set_operation_retention_seconds(static_cast<uint32_t>(absl::ToInt64Seconds(kOperationRetention)));
  v1::Limits& limits = *response.mutable_limits();
  limits.set_mounts(kMaxMounts);
  limits.set_mounts_per_uid(kMaxMountsPerUid);
  limits.set_operations_per_uid(kMaxOperationsPerUid);
  limits.set_concurrent_mounts(kMaxConcurrentMounts);
  limits.set_connections_per_uid(kMaxConnectionsPerUid);
  limits.set_watches_per_uid(kMaxWatchesPerUid);
  limits.set_message_bytes(kMaxRequestBytes);
  return response;
}

absl::StatusOr<std::unique_ptr<WatchSeat>> Service::TakeWatchSeat(const Caller& caller) {
  absl::MutexLock lock(&mutex_);
  size_t& count = watches_[caller.uid];
  if (count >= kMaxWatchesPerUid) {
    return MakeError(
        Reason::kTooManyOperations,
        absl::StrCat("you have ", count, " watching calls, which is the limit per user (watches_per_uid)"));
  }
  ++count;
  return std::make_unique<WatchSeat>([this, uid = caller.uid] {
    absl::MutexLock lock(&mutex_);
    auto place = watches_.find(uid);
    if (--place->second == 0) watches_.erase(place);
  });
}

void Service::ReleaseGone(uint64_t slot) {
  call_pool_->Submit(kServiceKey, [this, slot] {
    budget_.Remove(slot);
    ReleaseSlotKeepingStaging(broker_, slot, "");
  });
}

}  // namespace dismd
