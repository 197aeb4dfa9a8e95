// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/unit/front_fake_broker.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace dismd {
namespace {

using internal::BrokerReply;
using internal::FrontToBroker;
using internal::FrontToWorker;
using internal::WorkerToFront;
using libmount::Reason;
using libmount::UniqueFd;

const char* NameOf(const FrontToBroker& request) {
  switch (request.message_case()) {
    case FrontToBroker::kInspectPaths: return "inspect";
    case FrontToBroker::kStartWorker: return "start";
    case FrontToBroker::kCreateMount: return "create";
    case FrontToBroker::kAttachMount: return "attach";
    case FrontToBroker::kUnmount: return "unmount";
    case FrontToBroker::kReleaseSlot: return "release";
    case FrontToBroker::kConnectionClosed: return "closed";
    case FrontToBroker::kStopDone: return "stop-done";
    case FrontToBroker::kResolvePath: return "resolve";
    case FrontToBroker::kReady: return "ready";
    case FrontToBroker::kAbandonRequest: return "abandon";
    default: return "other";
  }
}

const char* NameOf(const FrontToWorker& request) {
  switch (request.message_case()) {
    case FrontToWorker::kOpenImage: return "open";
    case FrontToWorker::kReadImageInfo: return "info";
    case FrontToWorker::kSetCacheBudget: return "budget";
    case FrontToWorker::kGetStats: return "stats";
    case FrontToWorker::kCheckIntegrity: return "check";
    case FrontToWorker::kCommit: return "commit";
    case FrontToWorker::kSuspendImageChecks: return "suspend";
    case FrontToWorker::kRenewImageState: return "renew";
    default: return "other";
  }
}

void SetError(Reason reason, internal::Error* error) {
  error->set_reason(static_cast<int>(reason));
  error->set_message("as the test wants it");
}

}  // namespace

internal::PathFacts FakeBroker::GoodFacts(const internal::InspectPaths& paths) {
  internal::PathFacts facts;
  facts.set_image_is_regular(true);
  facts.set_image_real_path(paths.image_path());
  facts.set_image_writable(true);
  facts.set_mount_is_directory(true);
  facts.set_mount_is_empty(true);
  facts.set_mount_owned_by_caller(true);
  facts.set_mount_file_system_allowed(true);
  facts.set_mount_real_path(paths.mount_path());
  return facts;
}

FakeBroker::FakeBroker() {
  opened.set_image_index(1);
  opened.set_image_name("Windows");
  auto ends = Channel::CreatePair();
  front_end_ = std::move(ends->second);
  channel_ = std::make_unique<Channel>(std::move(ends->first));
  thread_ = std::thread([this] { Run(); });
}

FakeBroker::~FakeBroker() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  Hangup();
  thread_.join();
  JoinThreads();  // of requests: no worker starts any more
  std::map<uint64_t, FakeSlot> slots;
  {
    absl::MutexLock lock(&mutex_);
    slots.swap(slots_);
  }
  for (auto& [id, slot] : slots) EndWorker(slot.worker);
  JoinThreads();  // of the workers' requests
}

void FakeBroker::JoinThreads() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void FakeBroker::Hangup() { shutdown(channel_->fd(), SHUT_RDWR); }

void FakeBroker::SendToFront(const internal::BrokerToFront& message, UniqueFd fd) {
  int raw = fd.get();
  absl::Status sent = channel_->Send(message, fd ? absl::MakeConstSpan(&raw, 1) : absl::Span<const int>());
  ASSERT_TRUE(sent.ok()) << sent;
}

UniqueFd FakeBroker::Connect(uint64_t connection_id, uint32_t uid) {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  internal::BrokerToFront message;
  message.mutable_new_connection()->set_connection_id(connection_id);
  message.mutable_new_connection()->mutable_identity()->set_uid(uid);
  SendToFront(message, UniqueFd(ends[0]));
  return UniqueFd(ends[1]);
}

void FakeBroker::Run() {
  while (true) {
    FrontToBroker request;
    std::vector<UniqueFd> fds;
    auto received = channel_->Receive(&request, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) return;
    absl::MutexLock lock(&mutex_);
    threads_.emplace_back([this, request] { Serve(request); });
  }
}

void FakeBroker::Note(const std::string& name, uint64_t request_id) {
  absl::MutexLock lock(&mutex_);
  journal_.push_back(name);
  auto go_on = [this, &name, request_id]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ending_ || held_.count(name) == 0 || abandoned_.count(request_id) != 0;
  };
  mutex_.Await(absl::Condition(&go_on));
}

void FakeBroker::Reply(BrokerReply reply, UniqueFd fd) {
  internal::BrokerToFront message;
  *message.mutable_reply() = std::move(reply);
  int raw = fd.get();
  channel_->Send(message, fd ? absl::MakeConstSpan(&raw, 1) : absl::Span<const int>()).IgnoreError();
}

void FakeBroker::SaveOperation(const FrontToBroker& request) {
  {
    absl::MutexLock lock(&mutex_);
    operations_[request.save_operation().operation_id()] = request.save_operation().record();
  }
  BrokerReply reply;
  reply.set_request_id(request.request_id());
  if (request.request_id() != 0) Reply(std::move(reply));
}

std::string FakeBroker::operation(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  auto place = operations_.find(id);
  return place == operations_.end() ? "" : place->second;
}

void FakeBroker::Serve(const FrontToBroker& request) {
  if (request.has_save_operation()) return SaveOperation(request);
  std::string name = NameOf(request);
  Note(name, request.request_id());
  BrokerReply reply;
  reply.set_request_id(request.request_id());
  UniqueFd fd;
  if (request.has_inspect_paths() || request.has_resolve_path()) {
    bool abandoned;
    {
      absl::MutexLock lock(&mutex_);
      abandoned = abandoned_.count(request.request_id()) != 0;
    }
    if (abandoned) {
      SetError(Reason::kCancelled, reply.mutable_error());
      return Reply(std::move(reply));
    }
  }
  if (failing.count(name) != 0) {
    SetError(Reason::kOutOfResources, reply.mutable_error());
    return Reply(std::move(reply));
  }
  std::shared_ptr<FakeWorker> worker;
  switch (request.message_case()) {
    case FrontToBroker::kInspectPaths: {
      internal::PathFacts found = facts(request.inspect_paths());
      absl::MutexLock lock(&mutex_);
      found.set_slot_id(++last_slot_);
      slots_[last_slot_];
      *reply.mutable_path_facts() = found;
      break;
    }
    case FrontToBroker::kResolvePath: *reply.mutable_paths_resolved() = resolve(request.resolve_path().path()); break;
    case FrontToBroker::kStartWorker: {
      auto ends = Channel::CreatePair();
      fd = std::move(ends->second);
      worker = std::make_shared<FakeWorker>(std::move(ends->first));
      absl::MutexLock joining(&worker->joining);
      worker->thread = std::thread([this, worker] { RunWorker(worker); });
      reply.mutable_worker_started()->set_pid(4711);
      absl::MutexLock lock(&mutex_);
      slots_[request.start_worker().slot_id()].worker = worker;
      break;
    }
    case FrontToBroker::kCreateMount: {
      absl::MutexLock lock(&mutex_);
      worker = slots_[request.create_mount().slot_id()].worker;
      break;
    }
    case FrontToBroker::kAttachMount: {
      absl::MutexLock lock(&mutex_);
      slots_[request.attach_mount().slot_id()].record = request.attach_mount().registry_record();
      break;
    }
    case FrontToBroker::kUnmount: {
      absl::MutexLock lock(&mutex_);
      FakeSlot& slot = slots_[request.unmount().slot_id()];
      if (slot.busy && !request.unmount().detach()) {
        SetError(Reason::kMountBusy, reply.mutable_error());
        internal::Process* holder = reply.mutable_busy()->add_holders();
        holder->set_pid(99);
        holder->set_name("bash");
      }
      break;
    }
    case FrontToBroker::kReleaseSlot: {
      {
        absl::MutexLock lock(&mutex_);
        auto place = slots_.find(request.release_slot().slot_id());
        if (place == slots_.end()) break;
        worker = place->second.worker;
      }
      EndWorker(worker);
      absl::MutexLock lock(&mutex_);
      slots_.erase(request.release_slot().slot_id());
      break;
    }
    case FrontToBroker::kAbandonRequest: {
      absl::MutexLock lock(&mutex_);
      abandoned_.insert(request.abandon_request().request_id());
      break;
    }
    case FrontToBroker::kStopDone: {
      absl::MutexLock lock(&mutex_);
      stop_done_ = request.stop_done();
      break;
    }
    default: break;
  }
  if (request.request_id() != 0) Reply(std::move(reply), std::move(fd));
  if (request.has_create_mount() && marks_serving && worker != nullptr) {
    WorkerToFront event;
    event.mutable_serving();
    worker->channel.Send(event).IgnoreError();
  }
}

void FakeBroker::RunWorker(const std::shared_ptr<FakeWorker>& worker) {
  while (true) {
    FrontToWorker request;
    std::vector<UniqueFd> fds;
    auto received = worker->channel.Receive(&request, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) return;
    absl::MutexLock lock(&mutex_);
    threads_.emplace_back([this, worker, request] {
      Note(NameOf(request));
      AnswerWorkerRequest(*worker, request);
    });
  }
}

void FakeBroker::AnswerWorkerRequest(FakeWorker& worker, const FrontToWorker& request) {
  WorkerToFront answer;
  answer.set_request_id(request.request_id());
  switch (request.message_case()) {
    case FrontToWorker::kOpenImage: {
      WorkerToFront progress;
      progress.set_request_id(request.request_id());
      progress.mutable_progress()->set_phase(3);
      progress.mutable_progress()->set_bytes_done(1);
      progress.mutable_progress()->set_bytes_total(2);
      worker.channel.Send(progress).IgnoreError();
      if (open_error != Reason::kUnspecified) {
        SetError(open_error, answer.mutable_error());
      } else {
        *answer.mutable_image_opened() = opened;
      }
      break;
    }
    case FrontToWorker::kCheckIntegrity:
      if (check_error != Reason::kUnspecified) SetError(check_error, answer.mutable_error());
      break;
    case FrontToWorker::kReadImageInfo:
      answer.mutable_image_info_read()->add_images()->set_image_name("Windows \xff");
      answer.mutable_image_info_read()->mutable_images(0)->set_architecture(9);
      if (absl::EndsWith(request.read_image_info().image_name_for_messages(), ".vhdx")) {
        internal::DiskInfo* disk = answer.mutable_image_info_read()->mutable_disk();
        disk->add_chain()->set_format("VHDX");
        disk->add_partitions()->set_label("Data \xff");
        disk->mutable_partitions(0)->set_is_default(true);
      }
      break;
    case FrontToWorker::kOpenStaging: answer.mutable_staging_opened(); break;
    case FrontToWorker::kCommit:
      *answer.mutable_committed() = committed;
      answer.mutable_committed()->set_commit_id(request.commit().commit_id());
      answer.mutable_committed()->set_done(true);
      break;
    case FrontToWorker::kSuspendImageChecks:
    case FrontToWorker::kRenewImageState:
    case FrontToWorker::kHoldAfterUnmount: break;
    case FrontToWorker::kGetStats: answer.mutable_stats()->set_requests(42); break;
    case FrontToWorker::kSetCacheBudget: {
      absl::MutexLock lock(&mutex_);
      worker.budget = request.set_cache_budget().bytes();
      return;
    }
    default: return;
  }
  worker.channel.Send(answer).IgnoreError();
}

void FakeBroker::EndWorker(const std::shared_ptr<FakeWorker>& worker) {
  if (worker == nullptr) return;
  shutdown(worker->channel.fd(), SHUT_RDWR);
  absl::MutexLock lock(&worker->joining);
  if (worker->thread.joinable()) worker->thread.join();
}

void FakeBroker::SetBusy(uint64_t slot, bool busy) {
  absl::MutexLock lock(&mutex_);
  slots_[slot].busy = busy;
}

void FakeBroker::Hold(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  held_.insert(name);
}

void FakeBroker::Release(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  held_.erase(name);
}

void FakeBroker::WaitFor(const std::string& name, size_t count) {
  absl::MutexLock lock(&mutex_);
  auto came = [this, &name, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return static_cast<size_t>(std::count(journal_.begin(), journal_.end(), name)) >= count;
  };
  ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&came), absl::Seconds(20))) << "no " << name;
}

void FakeBroker::SendFromWorker(uint64_t slot, const WorkerToFront& message) {
  std::shared_ptr<FakeWorker> worker;
  {
    absl::MutexLock lock(&mutex_);
    worker = slots_[slot].worker;
  }
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->channel.Send(message).ok());
}

void FakeBroker::KillWorker(uint64_t slot) {
  std::shared_ptr<FakeWorker> worker;
  {
    absl::MutexLock lock(&mutex_);
    worker = slots_[slot].worker;
  }
  EndWorker(worker);
  internal::BrokerToFront message;
  message.mutable_worker_exited()->set_slot_id(slot);
  message.mutable_worker_exited()->set_exit_status(9);
  SendToFront(message);
}

std::vector<std::string> FakeBroker::journal() {
  absl::MutexLock lock(&mutex_);
  return journal_;
}

size_t FakeBroker::slots() {
  absl::MutexLock lock(&mutex_);
  return slots_.size();
}

internal::StopDone FakeBroker::stop_done() {
  absl::MutexLock lock(&mutex_);
  return stop_done_;
}

uint64_t FakeBroker::last_budget(uint64_t slot) {
  absl::MutexLock lock(&mutex_);
  return slots_[slot].worker->budget;
}

std::string FakeBroker::record(uint64_t slot) {
  absl::MutexLock lock(&mutex_);
  return slots_[slot].record;
}

}  // namespace dismd
