// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a worker does outside its main thread: the long requests, and what serving threads and the tree tell.

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/worker/image_info_message.h"
#include "daemon/worker/staged_state.h"
#include "daemon/worker/worker.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::MakeError;
using libmount::Reason;
using libmount::Severity;
using libmount::UniqueFd;

// Each is a log line and an event; an image made to annoy has as many as files.
constexpr int kMostDamagesTold = 100;
// Of a damaged file's path: directories lie so deep in such an image that a path has megabytes.
constexpr size_t kMostPathBytes = 4096;

int CpuCount() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

}  // namespace

void Worker::StartTask(uint64_t request_id, Task task, TaskKind kind) {
  if (task_running_) {
    link_.SendError(request_id, absl::FailedPreconditionError("the worker is busy with another request"));
    return;
  }
  EndTask();
  task_monitor_ = std::make_shared<RequestMonitor>(request_id, &link_);
  task_running_ = true;
  task_kind_ = kind;
  task_thread_.emplace();
  absl::Status started = task_thread_->Start("task", [this, monitor = task_monitor_, task = std::move(task)] {
    absl::Status status = task(*monitor);
    task_running_ = false;  // also where the task has answered: see Answer
    Wake();
    if (!status.ok()) link_.SendError(monitor->request_id(), status);
  });
  if (started.ok()) return;
  task_running_ = false;
  link_.SendError(request_id, MakeError(Reason::kOutOfResources, started.ToString()));
}

void Worker::EndTask() { task_thread_.reset(); }

// A task's last word. The front may send its next request as soon as it has read it, so the task counts as over before.
void Worker::Answer(const internal::WorkerToFront& message) {
  task_running_ = false;
  link_.Send(message);
}

absl::StatusOr<std::unique_ptr<OpenedImage>> Worker::OpenFile(const std::string& name, uint32_t partition,
                                                              RequestMonitor& monitor) {
  UniqueFd image = image_.Duplicate();
  if (!image) return libmount::MakeErrnoError(Reason::kOutOfResources, errno, "duplicating the image's descriptor");
  libmount::SiblingOpener open_sibling = [this, &monitor](std::string_view sibling) {
    return siblings_.Open(sibling, monitor);
  };
  libmount::TestSeam("worker-opening", [&] { return monitor.cancelled(); });
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  return open_image_(ImageSource{std::move(image), name, open_sibling, partition, Replacement()}, monitor);
}

ImageReplacement Worker::Replacement() {
  ImageReplacement replacement;
  replacement.create_temporary = [this](libmount::OperationMonitor& monitor) {
    return siblings_.CreateTemporary(monitor);
  };
  replacement.replace_image = [this](const UniqueFd& file) {
    absl::Status replaced = siblings_.ReplaceImage(file);
    // Under the same number: a broker that takes over knows it by that.
    if (replaced.ok() && dup3(file.get(), image_.get(), O_CLOEXEC) < 0) {
      replaced = libmount::MakeErrnoError(Reason::kShuttingDown, errno, "taking the new image file");
    }
    return replaced;
  };
  replacement.drop_temporary = [this] { siblings_.DropTemporary(); };
  return replacement;
}

OpenedImage* Worker::opened() const {
  absl::MutexLock lock(&mutex_);
  return opened_.get();
}

absl::Status Worker::OpenImage(const internal::OpenImage& request, RequestMonitor& monitor) {
  if (opened() != nullptr) return absl::FailedPreconditionError("the worker has opened its image already");
  if (absl::Status opened = OpenTree(request, monitor); !opened.ok()) return opened;
  AnswerOpened(monitor.request_id(), open_.image_index());
  malloc_trim(0);  // reading the metadata took several times what is kept of it
  return absl::OkStatus();
}

absl::Status Worker::OpenTree(const internal::OpenImage& request, RequestMonitor& monitor) {
  auto image = OpenFile(request.image_name_for_messages(), request.partition(), monitor);
  if (!image.ok()) return image.status();
  absl::StatusOr<uint32_t> index = ChooseImage(**image, request);
  if (!index.ok()) return index.status();
  open_ = request;
  open_.set_image_index(*index);

  libmount::TestSeam("worker-reading-metadata", [&] { return monitor.cancelled(); });
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  SetCacheBudget(request.cache_budget());
  if (absl::Status opened = (*image)->OpenTree(*index, TreeOptions(), monitor); !opened.ok()) return opened;
  // Which one was meant cannot be told again from a volume that is half of a commit's.
  internal::ImageOpened facts;
  (*image)->Describe(&facts);
  open_.set_partition(facts.partition());
  absl::MutexLock lock(&mutex_);
  opened_ = *std::move(image);
  opened_->SetCacheBudget(cache_budget_);  // it may have changed meanwhile
  demand_.emplace(opened_->is_solid());
  return absl::OkStatus();
}

OpenedImage::TreeOptions Worker::TreeOptions() {
  OpenedImage::TreeOptions options;
  options.uid = open_.owner_uid();
  options.gid = open_.owner_gid();
  options.observer = this;
  options.has_edits = staging_fd_ && !open_.read_only() && StagedState::IsIn(staging_fd_.get());
  options.decoder_threads = CpuCount();  // asked here, since it cannot be read from /sys in the sandbox
  absl::MutexLock lock(&mutex_);
  options.cache_budget = cache_budget_;
  return options;
}

absl::Status Worker::OpenStaging(bool resumed, RequestMonitor& monitor) {
  OpenedImage* image = opened();
  if (!staging_fd_ || image == nullptr || open_.read_only()) {
    return absl::FailedPreconditionError("the worker has no staging directory");
  }
  absl::Status staged = image->OpenStaging(StagingSource{staging_fd_.Duplicate(), open_.unix_data(), resumed}, monitor);
  if (!staged.ok()) return staged;
  {
    absl::MutexLock lock(&mutex_);
    staged_ = true;
  }
  malloc_trim(0);
  return absl::OkStatus();
}

absl::Status Worker::AnswerStaging(RequestMonitor& monitor) {
  internal::WorkerToFront answer;
  answer.set_request_id(monitor.request_id());
  {
    absl::MutexLock lock(&mutex_);
    *answer.mutable_staging_opened()->mutable_staging() = opened_->GetStagingState();
    *answer.mutable_staging_opened()->mutable_last_commit() = opened_->LastCommit();
  }
  Answer(answer);
  return absl::OkStatus();
}

absl::Status Worker::Commit(const internal::Commit& request, RequestMonitor& monitor) {
  OpenedImage* image;
  {
    absl::MutexLock lock(&mutex_);
    image = staged_ ? opened_.get() : nullptr;
  }
  if (image == nullptr) return absl::FailedPreconditionError("nothing is staged");
  internal::Commit commit = request;
  commit.set_unmounted(serving_ended_);
  absl::StatusOr<internal::Committed> done = image->Commit(commit, monitor);
  {
    absl::MutexLock lock(&mutex_);
    last_outcome_ = Outcome{request.commit_id(), done};
  }
  if (!done.ok()) return done.status();
  TellServingState();  // the index may be another
  internal::WorkerToFront answer;
  answer.set_request_id(monitor.request_id());
  *answer.mutable_committed() = *done;
  Answer(answer);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Worker::ChooseImage(const OpenedImage& image, const internal::OpenImage& request) {
  if (request.image_case() == internal::OpenImage::kImageName) return image.FindImage(request.image_name());
  const uint32_t index = request.image_index();
  const size_t images = image.images().size();
  if (index == 0 || index > images) {
    return MakeError(Reason::kInvalidImageIndex,
                     absl::StrCat(request.image_name_for_messages(), " has no image ", index,
                                  images == 1 ? "; it has one, 1" : absl::StrCat("; it has 1 to ", images)));
  }
  return index;
}

void Worker::AnswerOpened(uint64_t request_id, uint32_t index) {
  internal::WorkerToFront answer;
  answer.set_request_id(request_id);
  internal::ImageOpened* message = answer.mutable_image_opened();
  const OpenedImage& image = *opened();
  const libmount::ImageInfo& info = image.images()[index - 1];
  message->set_image_index(index);
  message->set_image_name(ToValidUtf8(info.name));
  message->set_image_type(ImageTypeNumber(info.type));
  image.Describe(message);
  if (message->marked_write_in_progress()) {
    Log(Severity::kWarning, log_,
        open_.image_name_for_messages() +
            " is marked as being written by another program; what it shows may be incomplete");
  }
  Answer(answer);
}

absl::Status Worker::ReadImageInfo(const internal::ReadImageInfo& request, RequestMonitor& monitor) {
  auto image = OpenFile(request.image_name_for_messages(), /*partition=*/0, monitor);
  if (!image.ok()) return image.status();
  internal::WorkerToFront answer;
  answer.set_request_id(monitor.request_id());
  (*image)->ReadInfo(answer.mutable_image_info_read());
  Answer(answer);
  return absl::OkStatus();
}

absl::Status Worker::CheckIntegrity(RequestMonitor& monitor) {
  OpenedImage* image = opened();
  if (image == nullptr) return absl::FailedPreconditionError("the image is not open");
  libmount::TestSeam("worker-checking-integrity", [&] { return monitor.cancelled(); });
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  if (absl::Status status = image->CheckIntegrity(monitor); !status.ok()) return status;
  internal::WorkerToFront answer;
  answer.set_request_id(monitor.request_id());
  Answer(answer);
  return absl::OkStatus();
}

absl::Status Worker::StartServing(UniqueFd fuse, RequestMonitor& monitor) {
  libmount::TestSeam("worker-before-serving", [&] { return monitor.cancelled(); });
  absl::Status status = CheckCancelled(monitor);
  if (status.ok()) {
    libmount::FuseServer::Recovery recovery;
    recovery.inflight = inflight_ ? inflight_.Duplicate() : UniqueFd();
    status = Serve(std::move(fuse), std::move(recovery));
  }
  if (!status.ok()) OnServingEnded(status);
  return absl::OkStatus();  // nobody waits for an answer
}

absl::Status Worker::Resume(const internal::ServingState& state, std::vector<UniqueFd> fds, RequestMonitor& monitor) {
  libmount::TestSeam("worker-resuming", [&] { return monitor.cancelled(); });
  absl::Status opened = OpenTree(state.open_image(), monitor);
  if (opened.ok() && !state.open_image().read_only()) opened = OpenStaging(/*resumed=*/true, monitor);
  if (!opened.ok()) return opened;
  libmount::FuseServer::Recovery recovery;
  recovery.init = libmount::FuseServer::InitExchange{state.init_request(), state.init_reply()};
  inflight_.reset();
  if (fds.size() > 1) {
    inflight_ = std::move(fds[1]);
    recovery.inflight = inflight_.Duplicate();
  }
  absl::Status serving = Serve(std::move(fds[0]), std::move(recovery));
  // While it serves: there may be much to write.
  if (serving.ok() && !state.open_image().read_only()) FinishCommit(monitor);
  return serving;
}

void Worker::FinishCommit(RequestMonitor& monitor) {
  absl::Status finished = opened()->FinishCommit(monitor);
  if (finished.ok()) return;
  Log(Severity::kWarning, log_, absl::StrCat("a commit that was broken off was not finished: ", finished.ToString()));
}

absl::Status Worker::Serve(UniqueFd fuse, libmount::FuseServer::Recovery recovery) {
  fuse_ = fuse.Duplicate();
  libmount::FuseServerOptions options;
  options.resend = !libmount::TestSwitch("worker-no-resend");  // as with a kernel before 6.9
  options.on_idle = [this] {
    busy_ = false;
    malloc_trim(0);
    Wake();
  };
  options.on_busy = [this] {
    busy_ = true;
    Wake();
  };
  absl::MutexLock lock(&mutex_);
  if (opened_ == nullptr) return absl::FailedPreconditionError("a /dev/fuse descriptor before the image was opened");
  server_ = staged_ ? std::make_unique<libmount::FuseServer>(opened_->writable_tree(), std::move(options))
                    : std::make_unique<libmount::FuseServer>(opened_->tree(), std::move(options));
  return server_->Start(
      std::move(fuse), std::move(recovery), [this] { OnServing(); },
      [this](const absl::Status& ended) { OnServingEnded(ended); });
}

void Worker::OnServing() {
  TellServingState();  // the broker first: as soon as the front knows, a death is to be made good
  internal::WorkerToFront event;
  event.mutable_serving();
  link_.SendKept(event);
}

void Worker::TellServingState() {
  internal::WorkerToBroker message;
  internal::ServingState* state = message.mutable_serving_state();
  {
    absl::MutexLock lock(&mutex_);
    if (server_ == nullptr) return;
    std::optional<libmount::FuseServer::InitExchange> init = server_->init_exchange();
    if (!init.has_value()) return;
    state->set_init_request(init->request);
    state->set_init_reply(init->reply);
    *state->mutable_open_image() = open_;
    state->mutable_open_image()->set_image_index(opened_->image_index());
  }
  state->set_fuse_fd(fuse_.get());
  state->set_recovery_fd(inflight_ ? inflight_.get() : 0);
  std::vector<int> fds;
  if (inflight_) fds.push_back(inflight_.get());
  if (absl::Status sent = broker_.Send(message, fds); !sent.ok()) {
    Log(Severity::kWarning, log_, "telling the broker: " + sent.ToString());
  }
}

void Worker::OnServingEnded(const absl::Status& status) {
  internal::WorkerToFront event;
  event.mutable_serving_ended();
  if (!status.ok()) {
    *event.mutable_serving_ended()->mutable_error() = ToError(status);
    Log(Severity::kError, log_, "serving ended: " + status.ToString());
  }
  link_.Send(event);
  if (!status.ok()) failed_ = true;
  serving_ended_ = true;
  Wake();
}

void Worker::OnDamage(std::string_view path, std::string_view what) {
  int told = ++damages_;
  if (told > kMostDamagesTold) return;
  path = path.substr(0, kMostPathBytes);
  Log(Severity::kError, log_, absl::StrCat("damaged: ", std::string(path), ": ", std::string(what)));
  if (told == kMostDamagesTold) Log(Severity::kError, log_, "further damaged files are not named");
  internal::WorkerToFront event;
  event.mutable_damage()->set_path(ToValidUtf8(path));
  event.mutable_damage()->set_message(ToValidUtf8(what));
  link_.SendKept(event);
}

void Worker::OnImageChanged(std::string_view what) {
  Log(Severity::kError, log_, absl::StrCat("the image file was changed: ", std::string(what)));
  internal::WorkerToFront event;
  event.mutable_image_changed()->set_message(ToValidUtf8(what));
  link_.SendKept(event);
}

}  // namespace dismd
