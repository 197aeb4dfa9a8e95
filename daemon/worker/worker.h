// SPDX-License-Identifier: GPL-3.0-or-later
//
// Worker: what the process of one mount does, from the front's first request to the end of the mount.
//
//   main thread:    receives from front and broker; never waits for an image
//   task thread:    one long request at a time (open, check integrity, read information)
//   serving threads: FuseServer's
//
// Life: OpenImage, CheckIntegrity where asked, OpenStaging for a read-write mount, a FuseDescriptor from the broker,
// serving, unmounted, the end. One that replaces another gets a Resume from the broker instead of all that. While it
// serves it needs neither front nor broker: either may die and be replaced. Before that, the end of either ends the
// worker.
//
// Thread safety: Run from one thread.

#ifndef DAEMON_WORKER_WORKER_H_
#define DAEMON_WORKER_WORKER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/ipc/channel.h"
#include "daemon/worker/cache_demand.h"
#include "daemon/worker/control_link.h"
#include "daemon/worker/opened_image.h"
#include "daemon/worker/request_monitor.h"
#include "daemon/worker/siblings.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/log.h"
#include "libmount/base/small_thread.h"
#include "libmount/base/unique_fd.h"
#include "libmount/fuse/fuse_server.h"

namespace dismd {

struct WorkerOptions {
  libmount::UniqueFd control;
  libmount::UniqueFd broker;
  libmount::UniqueFd image;
  libmount::UniqueFd staging;  // of a read-write mount
  libmount::LogContext log;
  ImageOpener open_image;
};

class Worker final : private libmount::TreeObserver {
 public:
  explicit Worker(WorkerOptions options);
  ~Worker() override;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Serves until the mount or the need for it has ended. OK then; an error when a peer talked nonsense.
  absl::Status Run();

 private:
  // ---- main thread (worker.cc)
  absl::Status Prepare();
  absl::Status Loop();
  absl::Status ReceiveFromFront();
  absl::Status ReceiveFromBroker();
  void HandleFront(const internal::FrontToWorker& request);
  absl::Status HandleBroker(const internal::BrokerToWorker& message, std::vector<libmount::UniqueFd> fds);
  void FrontGone();
  void BrokerGone();
  absl::Status TakeControl(std::vector<libmount::UniqueFd> fds);
  void Cancel(uint64_t request_id);
  void SetCacheBudget(uint64_t bytes);
  void SendStats(uint64_t request_id);
  void AskForCache();
  void TellStaging();
  void AnswerNow(uint64_t request_id);
  void AnswerOutcome(const internal::FrontToWorker& request);
  void OnOwnCommitElsewhere(const std::string& commit_id, bool begins);
  void BeginResume(const internal::Resume& message, std::vector<libmount::UniqueFd> fds);
  uint64_t ResidentBytes() const;
  void Wake();

  // ---- task thread (tasks.cc)
  using Task = std::function<absl::Status(RequestMonitor&)>;
  // What a task does: what the front has asked for; or, by the broker's word, serves, or goes on with a mount. A commit
  // waits for the latter two.
  enum class TaskKind { kRequest, kStarting, kResuming };
  // Runs `task` with a monitor for the request; an error that it returns is the answer.
  void StartTask(uint64_t request_id, Task task, TaskKind kind = TaskKind::kRequest);
  void EndTask();
  absl::Status OpenImage(const internal::OpenImage& request, RequestMonitor& monitor);
  absl::Status OpenTree(const internal::OpenImage& request, RequestMonitor& monitor);
  static absl::StatusOr<uint32_t> ChooseImage(const OpenedImage& image, const internal::OpenImage& request);
  absl::Status ReadImageInfo(const internal::ReadImageInfo& request, RequestMonitor& monitor);
  absl::Status CheckIntegrity(RequestMonitor& monitor);
  absl::Status OpenStaging(bool resumed, RequestMonitor& monitor);
  absl::Status AnswerStaging(RequestMonitor& monitor);
  void FinishCommit(RequestMonitor& monitor);
  absl::Status Commit(const internal::Commit& request, RequestMonitor& monitor);
  // Of the last commit here.
  struct Outcome {
    std::string commit_id;
    absl::StatusOr<internal::Committed> result;
  };
  absl::Status StartServing(libmount::UniqueFd fuse, RequestMonitor& monitor);
  absl::Status Resume(const internal::ServingState& state, std::vector<libmount::UniqueFd> fds,
                      RequestMonitor& monitor);
  absl::Status Serve(libmount::UniqueFd fuse, libmount::FuseServer::Recovery recovery);
  void TellServingState();
  OpenedImage::TreeOptions TreeOptions();
  absl::StatusOr<std::unique_ptr<OpenedImage>> OpenFile(const std::string& name, uint32_t partition,
                                                        RequestMonitor& monitor);
  // What OpenTree has opened; null before. It lives as long as the worker.
  OpenedImage* opened() const;
  ImageReplacement Replacement();
  void AnswerOpened(uint64_t request_id, uint32_t index);
  void Answer(const internal::WorkerToFront& message);

  // ---- serving threads (tasks.cc)
  void OnServing();
  void OnServingEnded(const absl::Status& status);
  void OnDamage(std::string_view path, std::string_view what) override;
  void OnImageChanged(std::string_view what) override;

  const libmount::UniqueFd image_;
  libmount::UniqueFd staging_fd_;
  const libmount::LogContext log_;
  const ImageOpener open_image_;
  std::shared_ptr<Channel> control_;  // null: the front has gone
  Channel broker_;
  bool broker_gone_ = false;
  bool exit_ = false;
  ControlLink link_;
  Siblings siblings_;
  libmount::UniqueFd wake_;    // an eventfd: something for the main thread to look at
  libmount::UniqueFd memory_;  // /proc/self/statm

  std::optional<libmount::SmallThread> task_thread_;
  std::shared_ptr<RequestMonitor> task_monitor_;
  std::atomic<bool> task_running_{false};
  TaskKind task_kind_ = TaskKind::kRequest;  // the main thread's

  // Events for the main thread, besides Wake.
  std::atomic<bool> serving_{false};  // from the descriptor's arrival on
  std::atomic<bool> serving_ended_{false};
  bool hold_ = false;                                      // go on after that, for a commit
  std::atomic<bool> failed_{false};                        // to serve
  std::optional<internal::FrontToWorker> outcome_wanted_;  // the request that waits for a task to end
  std::optional<internal::FrontToWorker> waiting_commit_;  // likewise
  std::set<std::string> announced_;                        // commits of the file's other mounts that are under way
  std::string committing_;                                 // the commit that the running task is
  std::atomic<bool> busy_{false};
  std::atomic<int> damages_{0};

  internal::OpenImage open_;  // the running task's, else the main thread's: what was opened
  internal::StagingState told_staging_;
  libmount::UniqueFd fuse_;  // copies, for a broker that takes over
  libmount::UniqueFd inflight_;
  mutable absl::Mutex mutex_;
  uint64_t cache_budget_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<CacheDemand> demand_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<OpenedImage> opened_ ABSL_GUARDED_BY(mutex_);  // set once
  bool staged_ ABSL_GUARDED_BY(mutex_) = false;                  // its staging is open
  std::optional<Outcome> last_outcome_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<libmount::FuseServer> server_
      ABSL_GUARDED_BY(mutex_);  // set once it serves; destroyed before the tree
};

}  // namespace dismd

#endif  // DAEMON_WORKER_WORKER_H_
