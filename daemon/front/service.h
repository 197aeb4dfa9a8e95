// SPDX-License-Identifier: GPL-3.0-or-later
//
// Service: what the front offers, without gRPC: each public method is one call of dismd.v1.Dismd in the name of a
// caller that the broker identified. The gRPC adapter (grpc_service.h) only carries messages to and from here.
//
// Thread safety: all methods are thread-safe. Those marked "waits" belong on one of the pools.

#ifndef DAEMON_FRONT_SERVICE_H_
#define DAEMON_FRONT_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/broker_link.h"
#include "daemon/front/cache_budget.h"
#include "daemon/front/caller.h"
#include "daemon/front/commit_operation.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/fair_pool.h"
#include "daemon/front/file_locks.h"
#include "daemon/front/mount_operation.h"
#include "daemon/front/operation_table.h"
#include "daemon/front/policy.h"
#include "daemon/front/registry.h"
#include "dismd/v1/dismd.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// One of the limited streams of a user, given back by the destructor.
class WatchSeat {
 public:
  explicit WatchSeat(std::function<void()> give_back) : give_back_(std::move(give_back)) {}
  ~WatchSeat() { give_back_(); }
  WatchSeat(const WatchSeat&) = delete;
  WatchSeat& operator=(const WatchSeat&) = delete;

 private:
  const std::function<void()> give_back_;
};

class Service final : public BrokerEvents {
 public:
  // Serves a client's connection; must not block. Set before Start.
  using ServeConnection = std::function<void(libmount::UniqueFd socket, Caller caller)>;

  Service(EventLoop& loop, libmount::UniqueFd broker_socket);
  // Waits for what runs.
  ~Service() override;

  // Tells the broker that connections may come.
  void Start(ServeConnection serve);
  // Hears no more of the broker; what waits for it fails, so that all calls end soon. After WaitForEnd.
  void Close();
  // Returns when the broker is gone, or the service has stopped as it was told to.
  void WaitForEnd();
  // Whether operations run, of a service that was not told to stop, that the next front can go on with. To wait for
  // them would be to cancel them: the process ends at once.
  bool LeavesWork();

  // The operations. The answer is a running operation, or why there is none.
  absl::StatusOr<std::shared_ptr<Operation>> StartMount(const Caller& caller, const v1::MountImageRequest& request);
  absl::StatusOr<std::shared_ptr<Operation>> StartUnmount(const Caller& caller, const v1::UnmountImageRequest& request);
  absl::StatusOr<std::shared_ptr<Operation>> StartCommit(const Caller& caller, const v1::CommitImageRequest& request);
  absl::StatusOr<std::shared_ptr<Operation>> StartRemount(const Caller& caller, const v1::RemountImageRequest& request);

  absl::StatusOr<std::shared_ptr<Operation>> FindOperation(const Caller& caller, const std::string& id);

  // Waits.
  absl::StatusOr<v1::GetImageInfoResponse> GetImageInfo(const Caller& caller, const v1::GetImageInfoRequest& request,
                                                        CancelToken& cancel);
  v1::ListMountsResponse ListMounts(const Caller& caller);
  // Waits.
  absl::StatusOr<v1::GetMountResponse> GetMount(const Caller& caller, const v1::GetMountRequest& request,
                                                CancelToken& cancel);
  // Waits.
  absl::StatusOr<v1::CleanupMountpointsResponse> CleanupMountpoints(const Caller& caller,
                                                                    const v1::CleanupMountpointsRequest& request);
  v1::GetServerInfoResponse GetServerInfo(const Caller& caller);

  // TOO_MANY_OPERATIONS: watches_per_uid.
  absl::StatusOr<std::unique_ptr<WatchSeat>> TakeWatchSeat(const Caller& caller);
  MountRegistry& registry() { return registry_; }

  // For handlers: calls that are short unless a path must be resolved, and GetImageInfo.
  FairPool& call_pool() { return *call_pool_; }
  FairPool& info_pool() { return *info_pool_; }

  // BrokerEvents.
  void OnConfig(const internal::ServerConfig& config) override;
  void OnNewConnection(const internal::NewConnection& connection, libmount::UniqueFd socket) override;
  void OnKnownOperation(const internal::KnownOperation& known) override;
  void OnKnownSlot(const internal::KnownSlot& slot, libmount::UniqueFd control) override;
  void OnWorkerExited(const internal::WorkerExited& event) override;
  void OnWorkerReplaced(const internal::WorkerReplaced& event, libmount::UniqueFd control) override;
  void OnMountGone(const internal::MountGone& event) override;
  void OnStop(const internal::StopService& event) override;
  void OnBrokerEnd() override;

 private:
  absl::Status CheckOpen() const;  // SHUTTING_DOWN
  // Runs the operation on the pool; one that is cancelled before its turn ends at once.
  void Launch(FairPool& pool, const std::shared_ptr<Operation>& operation, std::function<absl::Status()> run);
  static void Conclude(Operation& operation, const absl::Status& outcome, absl::Time end = absl::Now());
  // service_resume.cc: operations that outlive the front.
  // The operation works on this mount from now on: a front that takes over can go on with it. Waits.
  void SaveBegun(const Operation& operation, const Caller& caller, const std::string& mount_id, bool commits,
                 const v1::CommitOptions& options);
  // What it is about to end with. Waits.
  void SaveEnd(const Operation& operation, const absl::Status& outcome, absl::Time end);
  void Save(const Operation& operation, internal::OperationRecord record, v1::Operation state);
  void ForgetOperation(const std::string& id);
  void ResumeOperation(const std::shared_ptr<Operation>& operation, const internal::OperationRecord& record);
  CommitShare ShareFile(const absl::StatusOr<MountView>& view);
  void ResumeUnmount(const std::shared_ptr<Operation>& operation, const Caller& caller,
                     const internal::OperationRecord& record, const v1::CommitOptions& options);
  absl::Status UnmountForCaller(Operation& operation, const Caller& caller, const v1::UnmountImageRequest& request);
  void ReleaseGone(uint64_t slot);
  std::vector<MountView> Served();
  void Stop(absl::Duration grace);
  void End();

  WorkerLink::EventHandler HandlerOf(uint64_t slot_id);
  void InvalidateWhatIsGone(const MountView& view);  // waits
  absl::Status CleanUpInvalid(const Caller& caller, MountView view, v1::CleanupMountpointsResponse* response);
  absl::StatusOr<v1::CleanupMountpointsResponse> CleanUpOne(const Caller& caller,
                                                            const v1::CleanupMountpointsRequest& request);
  absl::Status CommitForCaller(Operation& operation, const Caller& caller, const v1::CommitImageRequest& request);
  absl::Status RemountForCaller(Operation& operation, const Caller& caller, const v1::RemountImageRequest& request);

  Tools tools() { return {loop_, broker_, registry_, budget_, policy_, file_locks_}; }

  EventLoop& loop_;
  BrokerLink broker_;
  CacheBudget budget_;
  MountRegistry registry_;
  const Policy policy_;
  FileLocks file_locks_;
  OperationTable operations_{[this](const std::string& id) { ForgetOperation(id); }};
  ServeConnection serve_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> told_to_stop_{false};

  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  internal::ServerConfig config_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, size_t> watches_ ABSL_GUARDED_BY(mutex_);  // by uid
  std::thread stopper_;                                         // started by the loop's thread, once

  // Their tasks use all of the above.
  std::unique_ptr<FairPool> call_pool_;
  std::unique_ptr<FairPool> info_pool_;
  std::unique_ptr<FairPool> unmount_pool_;
  std::unique_ptr<FairPool> commit_pool_;
  std::unique_ptr<FairPool> mount_pool_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_SERVICE_H_
