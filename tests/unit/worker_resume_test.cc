// SPDX-License-Identifier: GPL-3.0-or-later
//
// A worker that takes the place of one that died in a commit: it finishes that one while it serves, and is asked of it.

#include <absl/synchronization/notification.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/ipc/channel.h"
#include "daemon/worker/worker.h"
#include "libmount/base/reason.h"
#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/inflight_table.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/journaled_tree.h"

namespace dismd {
namespace {

using internal::FrontToWorker;
using internal::WorkerToFront;
using libmount::FakeKernel;
using libmount::FuseServer;
using libmount::JournaledTree;
using libmount::OperationMonitor;
using libmount::UniqueFd;

constexpr int kPatienceMilliseconds = 20'000;

// What the image that is opened does.
struct Script {
  JournaledTree tree;
  std::function<void(OperationMonitor&)> finish = [](OperationMonitor&) {};
};

class ScriptedImage final : public OpenedImage {
 public:
  explicit ScriptedImage(Script* script) : script_(*script) { images_[0].index = 1; }

  const std::vector<libmount::ImageInfo>& images() const override { return images_; }
  absl::StatusOr<uint32_t> FindImage(std::string_view) const override { return 1; }
  void Describe(internal::ImageOpened*) const override {}
  void ReadInfo(internal::ImageInfoRead*) const override {}
  absl::Status CheckIntegrity(OperationMonitor&) override { return absl::OkStatus(); }
  absl::Status OpenTree(uint32_t, const TreeOptions&, OperationMonitor&) override { return absl::OkStatus(); }
  absl::Status OpenStaging(StagingSource, OperationMonitor&) override { return absl::OkStatus(); }
  absl::Status FinishCommit(OperationMonitor& monitor) override {
    script_.finish(monitor);
    return CheckCancelled(monitor);
  }
  absl::StatusOr<internal::Committed> Commit(const internal::Commit& request, OperationMonitor&) override {
    last_.set_commit_id(request.commit_id());
    last_.set_done(true);
    return last_;
  }
  libmount::FileTree* tree() override { return &script_.tree; }
  libmount::WritableTree* writable_tree() override { return &script_.tree; }
  void SetCacheBudget(size_t) override {}
  TreeStats GetTreeStats() const override { return {}; }
  bool is_solid() const override { return false; }
  uint32_t image_index() const override { return 1; }
  internal::StagingState GetStagingState() const override { return {}; }
  internal::Committed LastCommit() const override { return last_; }
  void SuspendChangeDetection() override {}
  void RenewChangeDetection() override {}

 private:
  Script& script_;
  std::vector<libmount::ImageInfo> images_{1};
  internal::Committed last_;
};

class WorkerResumeTest : public ::testing::Test {
 protected:
  WorkerResumeTest() {
    // What a worker before has told the broker.
    auto table = libmount::InflightTable::Create();
    EXPECT_TRUE(table.ok());
    table_ = *std::move(table);
    FakeKernel kernel;
    FuseServer server(&script_.tree, {});
    absl::Notification initialized;
    EXPECT_TRUE(server
                    .Start(
                        kernel.TakeServerEnd(), {}, [&] { initialized.Notify(); }, nullptr)
                    .ok());
    kernel.Init();
    initialized.WaitForNotification();
    const std::optional<FuseServer::InitExchange> init = server.init_exchange();
    EXPECT_TRUE(init.has_value());
    internal::ServingState& state = *resume_.mutable_resume()->mutable_state();
    state.set_init_request(init->request);
    state.set_init_reply(init->reply);
    state.mutable_open_image()->set_image_index(1);
    kernel.Unmount();
  }

  ~WorkerResumeTest() override {
    front_.reset();
    broker_.reset();
    kernel_.Unmount();
    if (thread_.joinable()) thread_.join();
    worker_.reset();
    rmdir(staging_.c_str());
  }

  void Resume() {
    auto control = Channel::CreatePair();
    auto broker = Channel::CreatePair();
    front_.emplace(std::move(control->first));
    broker_.emplace(std::move(broker->first));
    ASSERT_NE(mkdtemp(staging_.data()), nullptr);
    WorkerOptions options;
    options.control = std::move(control->second);
    options.broker = std::move(broker->second);
    options.image = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    options.staging = UniqueFd(open(staging_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    options.open_image = [this](ImageSource, OperationMonitor&) { return std::make_unique<ScriptedImage>(&script_); };
    worker_.emplace(std::move(options));
    thread_ = std::thread([this] { worker_->Run().IgnoreError(); });  // it may see how the kernel ends
    const UniqueFd device = kernel_.TakeServerEnd();
    ASSERT_TRUE(broker_->Send(resume_, {device.get(), table_.get()}).ok());
  }

  WorkerToFront Receive() {
    WorkerToFront message;
    std::vector<UniqueFd> fds;
    pollfd entry = {front_->fd(), POLLIN, 0};
    if (poll(&entry, 1, kPatienceMilliseconds) != 1) {
      ADD_FAILURE() << "nothing came";
      return message;
    }
    auto received = front_->Receive(&message, &fds);
    EXPECT_TRUE(received.ok() && *received == Channel::Received::kMessage);
    return message;
  }
  // Of the request; what comes before it is told in between.
  WorkerToFront ReceiveFor(uint64_t id) {
    WorkerToFront message;
    do message = Receive();
    while (!testing::Test::HasFailure() && message.request_id() != id);
    return message;
  }

  void Send(uint64_t id, const std::function<void(FrontToWorker&)>& fill) {
    FrontToWorker request;
    request.set_request_id(id);
    fill(request);
    ASSERT_TRUE(front_->Send(request).ok());
  }
  void AskOutcome(uint64_t id, const std::string& commit) {
    Send(id, [&](FrontToWorker& request) { request.mutable_get_commit_outcome()->set_commit_id(commit); });
  }
  void Commit(uint64_t id, const std::string& commit) {
    Send(id, [&](FrontToWorker& request) { request.mutable_commit()->set_commit_id(commit); });
  }
  // Until what was sent before has been looked at.
  void AwaitMainThread() {
    Send(99, [](FrontToWorker& request) { request.mutable_get_stats(); });
    ReceiveFor(99);
  }

  Script script_;
  FakeKernel kernel_;
  UniqueFd table_;
  internal::BrokerToWorker resume_;
  std::string staging_ = testing::TempDir() + "/stagingXXXXXX";
  std::optional<Channel> front_, broker_;
  std::optional<Worker> worker_;
  std::thread thread_;
};

TEST_F(WorkerResumeTest, ACommitWaitsForTheOneBeforeWhoeverElseAsks) {
  absl::Notification begun, go_on;
  script_.finish = [&](OperationMonitor&) {
    begun.Notify();
    go_on.WaitForNotification();
  };
  Resume();
  begun.WaitForNotification();
  AskOutcome(1, "");  // whether one is pending
  Commit(2, "next");
  AwaitMainThread();
  go_on.Notify();
  EXPECT_TRUE(ReceiveFor(1).has_committed());
  EXPECT_EQ(ReceiveFor(2).committed().commit_id(), "next");
}

TEST_F(WorkerResumeTest, WhoAsksForACommitHearsHowFarItIs) {
  absl::Notification begun, asked, cancelled, go_on;
  bool was_cancelled = true;
  script_.finish = [&](OperationMonitor& monitor) {
    begun.Notify();
    asked.WaitForNotification();
    monitor.Report({libmount::Phase::kCommitting, 7, 100});
    cancelled.WaitForNotification();
    was_cancelled = monitor.cancelled();
    go_on.WaitForNotification();
  };
  Resume();
  begun.WaitForNotification();
  AskOutcome(1, "before");
  AwaitMainThread();
  asked.Notify();
  EXPECT_EQ(ReceiveFor(1).progress().bytes_done(), 7u);
  // It is behind its first write: there is nothing to go back to.
  Send(1, [](FrontToWorker& request) { request.mutable_cancel(); });
  Commit(2, "next");
  AwaitMainThread();
  cancelled.Notify();
  go_on.Notify();
  EXPECT_TRUE(ReceiveFor(1).has_committed());
  EXPECT_EQ(ReceiveFor(2).committed().commit_id(), "next");
  EXPECT_FALSE(was_cancelled);
}

}  // namespace
}  // namespace dismd
