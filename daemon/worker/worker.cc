// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "daemon/worker/sandbox.h"
#include "libmount/base/reason.h"
#include "libmount/fuse/inflight_table.h"

namespace dismd {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

namespace {

// The front lends from a budget for the whole service; what it says is still bounded.
constexpr uint64_t kMostCacheBytes = uint64_t{4} << 30;
constexpr int kCacheDemandMilliseconds = 1'000;

absl::Status SetNonBlocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return absl::ErrnoToStatus(errno, "O_NONBLOCK");
  return absl::OkStatus();
}

}  // namespace

Worker::Worker(WorkerOptions options)
    : image_(std::move(options.image)),
      staging_fd_(std::move(options.staging)),
      log_(std::move(options.log)),
      open_image_(std::move(options.open_image)),
      control_(std::make_shared<Channel>(std::move(options.control))),
      broker_(std::move(options.broker)),
      link_(control_),
      siblings_(&broker_),
      // Opened before the sandbox closes; where /proc is not, there is no number.
      memory_(open("/proc/self/statm", O_RDONLY | O_CLOEXEC)) {
  // Likewise. Without one a mount does not outlive this process wholly (the kernel may send requests again).
  if (absl::StatusOr<UniqueFd> inflight = libmount::InflightTable::Create(); inflight.ok()) {
    inflight_ = *std::move(inflight);
  }
}

Worker::~Worker() {
  if (task_monitor_ != nullptr) task_monitor_->Cancel();
  siblings_.GiveUp();
  EndTask();
  std::unique_ptr<libmount::FuseServer> server;
  {
    absl::MutexLock lock(&mutex_);
    server = std::move(server_);
  }
  // Joins the serving threads, which may be calling back here: without the lock.
  server.reset();
}

absl::Status Worker::Run() {
  absl::Status status = Prepare();
  if (status.ok()) status = Loop();
  return status;
}

absl::Status Worker::Prepare() {
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return absl::ErrnoToStatus(errno, "eventfd");
  if (absl::Status status = SetNonBlocking(control_->fd()); !status.ok()) return status;
  return SetNonBlocking(broker_.fd());
}

absl::Status Worker::Loop() {
  while (!exit_ && (!serving_ended_ || hold_)) {
    pollfd entries[] = {{control_ != nullptr ? control_->fd() : -1, POLLIN, 0},
                        {broker_gone_ ? -1 : broker_.fd(), POLLIN, 0},
                        {wake_.get(), POLLIN, 0}};
    int ready = poll(entries, std::size(entries), busy_ ? kCacheDemandMilliseconds : -1);
    if (ready < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
    if (ready <= 0) {
      AskForCache();
      TellStaging();
      continue;
    }
    if (entries[2].revents != 0) {
      eventfd_t ignored;
      eventfd_read(wake_.get(), &ignored);
      if (outcome_wanted_.has_value() && !task_running_) HandleFront(*std::exchange(outcome_wanted_, std::nullopt));
      if (waiting_commit_.has_value() && !task_running_) HandleFront(*std::exchange(waiting_commit_, std::nullopt));
    }
    // The broker first: it hands over new control sockets.
    absl::Status status = entries[1].revents != 0 ? ReceiveFromBroker() : absl::OkStatus();
    if (status.ok() && entries[0].revents != 0) status = ReceiveFromFront();
    if (!status.ok()) return status;
  }
  return failed_ ? absl::InternalError("the mount could not be served") : absl::OkStatus();
}

absl::Status Worker::ReceiveFromFront() {
  internal::FrontToWorker request;
  std::vector<UniqueFd> fds;
  absl::StatusOr<Channel::Received> received = control_->Receive(&request, &fds);
  if (!received.ok()) {
    // A front that talks nonsense is a front that has been taken over: the mount goes on without it.
    Log(Severity::kError, log_, "from the front: " + received.status().ToString());
    FrontGone();
  } else if (*received == Channel::Received::kEnd) {
    FrontGone();
  } else if (*received == Channel::Received::kMessage) {
    HandleFront(request);
  }
  return absl::OkStatus();
}

void Worker::HandleFront(const internal::FrontToWorker& request) {
  using Request = internal::FrontToWorker;
  const uint64_t id = request.request_id();
  switch (request.message_case()) {
    case Request::kOpenImage:
      StartTask(id, [this, open = request.open_image()](RequestMonitor& monitor) { return OpenImage(open, monitor); });
      break;
    case Request::kReadImageInfo:
      StartTask(id, [this, read = request.read_image_info()](RequestMonitor& monitor) {
        return ReadImageInfo(read, monitor);
      });
      break;
    case Request::kCheckIntegrity:
      StartTask(id, [this](RequestMonitor& monitor) { return CheckIntegrity(monitor); });
      break;
    case Request::kOpenStaging:
      StartTask(id, [this](RequestMonitor& monitor) {
        if (absl::Status opened = OpenStaging(/*resumed=*/false, monitor); !opened.ok()) return opened;
        FinishCommit(monitor);
        return AnswerStaging(monitor);
      });
      break;
    case Request::kCommit:
      if (task_running_ && task_kind_ != TaskKind::kRequest) {
        waiting_commit_ = request;  // until it serves, and has finished a commit of the process before
        break;
      }
      if (!task_running_) committing_ = request.commit().commit_id();
      StartTask(id, [this, commit = request.commit()](RequestMonitor& monitor) { return Commit(commit, monitor); });
      break;
    case Request::kGetCommitOutcome: AnswerOutcome(request); break;
    case Request::kSuspendImageChecks:
      OnOwnCommitElsewhere(request.suspend_image_checks().commit_id(), /*begins=*/true);
      AnswerNow(id);
      break;
    case Request::kRenewImageState:
      OnOwnCommitElsewhere(request.renew_image_state().commit_id(), /*begins=*/false);
      AnswerNow(id);
      break;
    case Request::kHoldAfterUnmount:
      hold_ = request.hold_after_unmount().hold();
      AnswerNow(id);
      break;
    case Request::kCancel: Cancel(id); break;
    case Request::kSetCacheBudget: SetCacheBudget(request.set_cache_budget().bytes()); break;
    case Request::kGetStats: SendStats(id); break;
    case Request::kExit: exit_ = true; break;
    case Request::MESSAGE_NOT_SET:
      link_.SendError(id, absl::InvalidArgumentError("the worker does not know this request"));
      break;
  }
}

absl::Status Worker::ReceiveFromBroker() {
  internal::BrokerToWorker message;
  std::vector<UniqueFd> fds;
  absl::StatusOr<Channel::Received> received = broker_.Receive(&message, &fds);
  if (!received.ok()) return received.status();
  if (*received == Channel::Received::kEnd) BrokerGone();
  if (*received == Channel::Received::kMessage) return HandleBroker(message, std::move(fds));
  return absl::OkStatus();
}

absl::Status Worker::HandleBroker(const internal::BrokerToWorker& message, std::vector<UniqueFd> fds) {
  using Message = internal::BrokerToWorker;
  switch (message.message_case()) {
    case Message::kFuseDescriptor: {
      if (fds.size() != 1 || serving_ || task_running_)
        return absl::InternalError("a /dev/fuse descriptor out of turn");
      serving_ = true;
      auto fuse = std::make_shared<UniqueFd>(std::move(fds[0]));  // std::function wants to be copied
      auto start = [this, fuse](RequestMonitor& monitor) { return StartServing(std::move(*fuse), monitor); };
      StartTask(0, start, TaskKind::kStarting);
      return absl::OkStatus();
    }
    case Message::kOpenedSibling: siblings_.OnOpened(message.opened_sibling(), std::move(fds)); return absl::OkStatus();
    case Message::kNewControl: return TakeControl(std::move(fds));
    case Message::kResume: {
      if (fds.empty() || serving_ || task_running_) return absl::InternalError("a mount to be resumed out of turn");
      BeginResume(message.resume(), std::move(fds));
      return absl::OkStatus();
    }
    case Message::MESSAGE_NOT_SET: break;
  }
  return absl::InternalError("the broker sent a message that the worker does not know");
}

absl::Status Worker::TakeControl(std::vector<UniqueFd> fds) {
  if (fds.size() != 1) return absl::InternalError("a new control socket without its descriptor");
  if (absl::Status status = SetNonBlocking(fds[0].get()); !status.ok()) return status;
  control_ = std::make_shared<Channel>(std::move(fds[0]));
  link_.Replace(control_);
  // Of the front before: what has not begun is begun anew by this one, which asks for it first.
  waiting_commit_.reset();
  outcome_wanted_.reset();
  siblings_.AskAgain();  // it may come from a broker that has not heard what was asked
  return absl::OkStatus();
}

// Without a front nobody can ask for the mount that is being made; one that serves goes on, for a front to come.
void Worker::FrontGone() {
  control_.reset();
  link_.Replace(nullptr);
  if (!serving_) exit_ = true;
}

void Worker::BrokerGone() {
  broker_gone_ = true;
  siblings_.GiveUp();
  if (!serving_) exit_ = true;
}

void Worker::Cancel(uint64_t request_id) {
  if (waiting_commit_.has_value() && waiting_commit_->request_id() == request_id) {
    waiting_commit_.reset();
    link_.SendError(request_id, libmount::MakeError(libmount::Reason::kCancelled, "the commit was cancelled"));
    return;
  }
  // Going on with a mount is not the front's to cancel: one is there, and a commit that is finished is past that.
  if (task_monitor_ == nullptr || task_kind_ == TaskKind::kResuming) return;
  // Starting to serve is no request of the front's: whatever it cancels then, it wants no mount.
  if (task_monitor_->request_id() == request_id || task_kind_ == TaskKind::kStarting) task_monitor_->Cancel();
}

void Worker::SetCacheBudget(uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  cache_budget_ = std::min(bytes, kMostCacheBytes);
  if (opened_ != nullptr) opened_->SetCacheBudget(cache_budget_);
}

void Worker::SendStats(uint64_t request_id) {
  internal::WorkerToFront answer;
  answer.set_request_id(request_id);
  internal::WorkerStats* stats = answer.mutable_stats();
  stats->set_resident_bytes(ResidentBytes());
  {
    absl::MutexLock lock(&mutex_);
    if (server_ != nullptr) {
      libmount::FuseServer::Stats served = server_->GetStats();
      stats->set_requests(served.requests);
      stats->set_reads(served.reads);
      stats->set_bytes_read(served.bytes_read);
    }
    if (staged_) *stats->mutable_staging() = opened_->GetStagingState();
    if (opened_ != nullptr) {
      OpenedImage::TreeStats read = opened_->GetTreeStats();
      stats->set_cache_bytes(read.cache_bytes);
      stats->set_chunks_decoded(read.chunks_decoded);
      stats->set_cache_hits(read.cache_hits);
    }
  }
  link_.Send(answer);
}

void Worker::AskForCache() {
  uint64_t wanted = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (opened_ == nullptr || server_ == nullptr || !demand_.has_value()) return;
    wanted = demand_->Judge(opened_->GetTreeStats(), server_->GetStats().bytes_read, cache_budget_);
  }
  if (wanted == 0) return;
  internal::WorkerToFront event;
  event.mutable_cache_wanted()->set_bytes(wanted);
  link_.Send(event);
}

// Once a second at most, while there is something to do.
void Worker::TellStaging() {
  internal::WorkerToFront event;
  {
    absl::MutexLock lock(&mutex_);
    if (!staged_ || server_ == nullptr) return;
    *event.mutable_staging_state() = opened_->GetStagingState();
  }
  const internal::StagingState& now = event.staging_state();
  if (now.has_changes() == told_staging_.has_changes() && now.staged_bytes() == told_staging_.staged_bytes() &&
      now.changed_files() == told_staging_.changed_files() && now.commit_pending() == told_staging_.commit_pending()) {
    return;
  }
  told_staging_ = now;
  link_.Send(event);
}

void Worker::AnswerNow(uint64_t request_id) {
  internal::WorkerToFront answer;
  answer.set_request_id(request_id);
  link_.Send(answer);
}

// Asked by a front that takes over, or of a worker that does: known as soon as what runs has ended.
void Worker::AnswerOutcome(const internal::FrontToWorker& request) {
  const std::string& commit_id = request.get_commit_outcome().commit_id();
  if (task_running_) {
    // The end may be under way to a front that is gone: it is told again. A commit that is being finished is the one
    // that is asked for, or nothing is known of that one.
    const bool asked_for = task_kind_ == TaskKind::kResuming || committing_ == commit_id;
    if (!commit_id.empty() && asked_for) task_monitor_->BeFor(request.request_id());
    outcome_wanted_ = request;
    return;
  }
  internal::WorkerToFront answer;
  answer.set_request_id(request.request_id());
  {
    absl::MutexLock lock(&mutex_);
    if (!staged_) return link_.SendError(request.request_id(), absl::FailedPreconditionError("nothing is staged"));
    if (last_outcome_.has_value() && last_outcome_->commit_id == commit_id) {
      const absl::StatusOr<internal::Committed>& result = last_outcome_->result;
      if (!result.ok()) return link_.SendError(request.request_id(), result.status());
      *answer.mutable_committed() = *result;
    } else {
      *answer.mutable_committed() = opened_->LastCommit();
    }
  }
  link_.Send(answer);
}

void Worker::OnOwnCommitElsewhere(const std::string& commit_id, bool begins) {
  absl::MutexLock lock(&mutex_);
  if (opened_ == nullptr) return;
  if (begins && announced_.insert(commit_id).second) opened_->SuspendChangeDetection();
  if (!begins && announced_.erase(commit_id) != 0) opened_->RenewChangeDetection();
}

void Worker::BeginResume(const internal::Resume& message, std::vector<UniqueFd> fds) {
  serving_ = true;
  auto descriptors = std::make_shared<std::vector<UniqueFd>>(std::move(fds));  // std::function wants to be copied
  auto resume = [this, state = message.state(), descriptors](RequestMonitor& monitor) {
    absl::Status resumed = Resume(state, std::move(*descriptors), monitor);
    if (!resumed.ok()) OnServingEnded(resumed);
    return absl::OkStatus();  // nobody waits for an answer
  };
  StartTask(0, resume, TaskKind::kResuming);
}

uint64_t Worker::ResidentBytes() const {
  char line[128];
  ssize_t size = memory_.valid() ? pread(memory_.get(), line, sizeof(line) - 1, 0) : -1;
  if (size <= 0) return 0;
  line[size] = '\0';
  unsigned long long total = 0, resident = 0;  // NOLINT(google-runtime-int): for sscanf
  if (sscanf(line, "%llu %llu", &total, &resident) != 2) return 0;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void Worker::Wake() { eventfd_write(wake_.get(), 1); }

}  // namespace dismd
