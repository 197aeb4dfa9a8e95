// SPDX-License-Identifier: GPL-3.0-or-later
//
// A whole worker in this process: the test plays front, broker and kernel, and the image is a MemoryTree.

#include "daemon/worker/worker.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "daemon/worker/opened_wim.h"
#include "libmount/base/reason.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/memory_tree.h"

namespace dismd {
namespace {

using internal::FrontToWorker;
using internal::WorkerToFront;
using libmount::FakeKernel;
using libmount::kRootNode;
using libmount::MakeError;
using libmount::MemoryTree;
using libmount::NodeId;
using libmount::OperationMonitor;
using libmount::Reason;
using libmount::UniqueFd;
using libmount::WimTree;

constexpr int kPatienceMilliseconds = 20'000;

// What the test's image does; shared by all that is made from it.
struct FakeImage {
  MemoryTree tree;
  libmount::TreeObserver* observer = nullptr;
  std::atomic<size_t> cache_budget{0};
  libmount::WimTreeOptions options;
  std::string asked_name;
  absl::Status open_error;
  absl::Status integrity_error;
  bool write_in_progress = false;
  std::string wanted_sibling;   // opened through the SiblingOpener where not empty
  std::string sibling_content;  // what was read from it
  std::function<void(OperationMonitor&)> while_checking = [](OperationMonitor&) {};
};

class FakeTree final : public WimTree {
 public:
  explicit FakeTree(FakeImage* image) : image_(image) {}
  void SetCacheBudget(size_t bytes) override { image_->cache_budget = bytes; }
  Stats GetStats() const override { return {.cache_bytes = 7, .chunks_decoded = 8, .cache_hits = 9}; }
  libmount::ErrnoOr<libmount::NodeAttributes> GetAttributes(NodeId n) const override { return tree().GetAttributes(n); }
  libmount::ErrnoOr<libmount::LookupResult> Lookup(NodeId d, std::string_view n) const override {
    return tree().Lookup(d, n);
  }
  libmount::ErrnoOr<NodeId> Parent(NodeId d) const override { return tree().Parent(d); }
  int ReadDirectory(NodeId d, uint64_t c, EntryVisitor v) const override { return tree().ReadDirectory(d, c, v); }
  libmount::ErrnoOr<std::string> ReadLink(NodeId l) const override { return tree().ReadLink(l); }
  libmount::ErrnoOr<size_t> Read(NodeId f, uint64_t o, absl::Span<char> b) const override {
    return tree().Read(f, o, b);
  }
  libmount::ErrnoOr<std::vector<std::string>> ListXattrs(NodeId n) const override { return tree().ListXattrs(n); }
  libmount::ErrnoOr<std::string> GetXattr(NodeId n, std::string_view x) const override { return tree().GetXattr(n, x); }
  void VisitReadAheadCandidates(NodeId f, uint64_t m, CandidateVisitor v) const override {
    tree().VisitReadAheadCandidates(f, m, v);
  }
  struct statvfs FileSystemStats() const override {
    return tree().FileSystemStats();
  }

 private:
  const MemoryTree& tree() const { return image_->tree; }
  FakeImage* const image_;
};

class FakeFile final : public libmount::WimFile {
 public:
  explicit FakeFile(FakeImage* image) : image_(image) {
    for (uint32_t index : {1u, 2u}) {
      libmount::ImageInfo info;
      info.type = libmount::ImageType::kWim;
      info.index = index;
      info.name = "Image " + std::to_string(index);
      info.description = "unpaired \xed\xa0\x80 surrogate";
      info.languages = {"de-DE"};
      images_.push_back(info);
    }
  }
  const std::vector<libmount::ImageInfo>& images() const override { return images_; }
  bool is_split() const override { return true; }
  bool is_solid() const override { return false; }
  bool is_pipable() const override { return false; }
  bool is_marked_read_only() const override { return true; }
  bool is_marked_write_in_progress() const override { return image_->write_in_progress; }
  bool has_integrity_table() const override { return true; }
  absl::StatusOr<uint32_t> FindImage(std::string_view name) const override {
    if (name == "Image 2") return 2;
    return MakeError(Reason::kInvalidImageName, "no such name");
  }
  absl::Status CheckIntegrity(OperationMonitor& monitor) const override {
    image_->while_checking(monitor);
    if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
    return image_->integrity_error;
  }
  absl::StatusOr<std::unique_ptr<WimTree>> OpenTree(uint32_t index, const libmount::WimTreeOptions& options,
                                                    OperationMonitor&) const override {
    image_->options = options;
    return std::make_unique<FakeTree>(image_);
  }
  // Only read-write mounts ask for these.
  absl::Status SaveMetadata(uint32_t, int, OperationMonitor&) const override {
    return absl::UnimplementedError("not in this fake");
  }
  absl::StatusOr<std::unique_ptr<WimTree>> OpenTreeFromMetadata(int, const libmount::WimTreeOptions&,
                                                                OperationMonitor&) const override {
    return absl::UnimplementedError("not in this fake");
  }

 private:
  FakeImage* const image_;
  std::vector<libmount::ImageInfo> images_;
};

class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() {
    file_ = image_.tree.AddFile(kRootNode, "file", "content");
    auto control = Channel::CreatePair();
    auto broker = Channel::CreatePair();
    front_.emplace(std::move(control->first));
    broker_.emplace(std::move(broker->first));
    WorkerOptions options;
    options.control = std::move(control->second);
    options.broker = std::move(broker->second);
    options.image = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    options.open_image = [this](ImageSource source, OperationMonitor& monitor) {
      auto open = [this](UniqueFd, std::string name, const libmount::SiblingOpener& open_sibling,
                         OperationMonitor& waiting) { return Open(std::move(name), open_sibling, waiting); };
      return OpenedWim::Open(std::move(source), open, monitor);
    };
    worker_.emplace(std::move(options));
    thread_ = std::thread([this] {
      run_status_ = worker_->Run();
      ended_.Notify();
    });
  }

  ~WorkerTest() override {
    front_.reset();
    broker_.reset();
    kernel_.Unmount();
    EXPECT_TRUE(ended_.WaitForNotificationWithTimeout(absl::Milliseconds(kPatienceMilliseconds)));
    thread_.join();
    worker_.reset();
  }

  absl::StatusOr<std::unique_ptr<libmount::WimFile>> Open(std::string name, const libmount::SiblingOpener& open_sibling,
                                                          OperationMonitor& monitor) {
    image_.asked_name = std::move(name);
    if (!image_.open_error.ok()) return image_.open_error;
    if (!image_.wanted_sibling.empty()) {
      absl::StatusOr<UniqueFd> sibling = open_sibling(image_.wanted_sibling);
      if (!sibling.ok()) return sibling.status();
      char bytes[64];
      ssize_t size = pread(sibling->get(), bytes, sizeof(bytes), 0);
      image_.sibling_content.assign(bytes, size > 0 ? static_cast<size_t>(size) : 0);
    }
    return std::make_unique<FakeFile>(&image_);
  }

  bool WorkerEnds() { return ended_.WaitForNotificationWithTimeout(absl::Milliseconds(kPatienceMilliseconds)); }

  template <typename Message>
  static Message ReceiveFrom(Channel& channel, std::vector<UniqueFd>* fds = nullptr) {
    Message message;
    std::vector<UniqueFd> ignored;
    pollfd entry = {channel.fd(), POLLIN, 0};
    if (poll(&entry, 1, kPatienceMilliseconds) != 1) {
      ADD_FAILURE() << "nothing came";
      return message;
    }
    auto received = channel.Receive(&message, fds != nullptr ? fds : &ignored);
    EXPECT_TRUE(received.ok() && *received == Channel::Received::kMessage);
    return message;
  }

  WorkerToFront Receive() { return ReceiveFrom<WorkerToFront>(*front_); }

  void Send(uint64_t id, const std::function<void(FrontToWorker&)>& fill) {
    FrontToWorker request;
    request.set_request_id(id);
    fill(request);
    ASSERT_TRUE(front_->Send(request).ok());
  }

  void SendOpen(uint64_t id, uint32_t index = 1) {
    Send(id, [&](FrontToWorker& request) {
      internal::OpenImage& open = *request.mutable_open_image();
      open.set_image_name_for_messages("install.wim");
      open.set_image_index(index);
      open.set_read_only(true);
      open.set_owner_uid(1000);
      open.set_owner_gid(1001);
      open.set_cache_budget(12345);
    });
  }

  void OpenImage() {
    SendOpen(1);
    ASSERT_TRUE(Receive().has_image_opened());
  }

  void SendFuse() {
    internal::BrokerToWorker message;
    message.mutable_fuse_descriptor();
    UniqueFd device = kernel_.TakeServerEnd();
    ASSERT_TRUE(broker_->Send(message, {device.get()}).ok());
  }

  void Serve() {
    OpenImage();
    SendFuse();
    kernel_.Init();
    ASSERT_TRUE(Receive().has_serving());
  }

  FakeImage image_;
  NodeId file_;
  FakeKernel kernel_;
  std::optional<Channel> front_, broker_;
  std::optional<Worker> worker_;
  absl::Notification ended_;
  absl::Status run_status_;
  std::thread thread_;
};

TEST_F(WorkerTest, OpensServesAndEndsWithTheMount) {
  SendOpen(5, 2);
  WorkerToFront opened = Receive();
  EXPECT_EQ(opened.request_id(), 5u);
  ASSERT_TRUE(opened.has_image_opened()) << opened.error().message();
  EXPECT_EQ(opened.image_opened().image_index(), 2u);
  EXPECT_EQ(opened.image_opened().image_name(), "Image 2");
  EXPECT_EQ(opened.image_opened().image_type(), 1);
  EXPECT_TRUE(opened.image_opened().is_split());
  EXPECT_TRUE(opened.image_opened().marked_read_only());
  EXPECT_FALSE(opened.image_opened().is_solid());
  EXPECT_EQ(image_.asked_name, "install.wim");
  EXPECT_EQ(image_.options.uid, 1000u);
  EXPECT_EQ(image_.options.gid, 1001u);
  EXPECT_EQ(image_.cache_budget, 12345u);
  SendFuse();
  kernel_.Init();
  EXPECT_TRUE(Receive().has_serving());
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, "content");
  kernel_.Unmount();
  WorkerToFront end = Receive();
  ASSERT_TRUE(end.has_serving_ended());
  EXPECT_FALSE(end.serving_ended().has_error());
  EXPECT_TRUE(WorkerEnds());
  EXPECT_TRUE(run_status_.ok()) << run_status_;
}

TEST_F(WorkerTest, IndexOutOfRange) {
  for (uint32_t index : {0u, 3u, UINT32_MAX}) {
    SendOpen(index + 1, index);
    EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kInvalidImageIndex));
  }
}

TEST_F(WorkerTest, ByName) {
  auto open = [&](const char* name) {
    Send(1, [&](FrontToWorker& request) {
      request.mutable_open_image()->set_image_name(name);
      request.mutable_open_image()->set_read_only(true);
    });
    return Receive();
  };
  EXPECT_EQ(open("nobody").error().reason(), static_cast<int>(Reason::kInvalidImageName));
  EXPECT_EQ(open("Image 2").image_opened().image_index(), 2u);
}

TEST_F(WorkerTest, OpeningErrorsCarryTheirReason) {
  image_.open_error = MakeError(Reason::kBadImageFormat, "install.wim is not a WIM");
  SendOpen(9);
  WorkerToFront answer = Receive();
  EXPECT_EQ(answer.request_id(), 9u);
  EXPECT_EQ(answer.error().reason(), static_cast<int>(Reason::kBadImageFormat));
  EXPECT_EQ(answer.error().message(), "install.wim is not a WIM");
}

TEST_F(WorkerTest, ReadsImageInformation) {
  Send(3, [](FrontToWorker& request) { request.mutable_read_image_info()->set_image_name_for_messages("a.wim"); });
  WorkerToFront answer = Receive();
  EXPECT_EQ(answer.request_id(), 3u);
  ASSERT_EQ(answer.image_info_read().images_size(), 2);
  const internal::ImageInfo& info = answer.image_info_read().images(1);
  EXPECT_EQ(info.image_index(), 2u);
  EXPECT_EQ(info.image_name(), "Image 2");
  EXPECT_EQ(info.image_description(), "unpaired \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd surrogate");
  EXPECT_EQ(info.bootable(), 3) << "unknown";
  EXPECT_EQ(info.languages(0), "de-DE");
}

TEST_F(WorkerTest, IntegrityProgressIsThinnedOut) {
  constexpr int kSteps = 10'000;
  image_.while_checking = [](OperationMonitor& monitor) {
    for (int i = 0; i <= kSteps; ++i) {
      monitor.Report({libmount::Phase::kCheckingIntegrity, static_cast<uint64_t>(i), kSteps});
    }
  };
  OpenImage();
  absl::Time start = absl::Now();
  Send(2, [](FrontToWorker& request) { request.mutable_check_integrity(); });
  int messages = 0;
  uint64_t last = 0;
  WorkerToFront message;
  for (message = Receive(); message.has_progress(); message = Receive()) {
    ++messages;
    EXPECT_EQ(message.request_id(), 2u);
    EXPECT_EQ(message.progress().phase(), 2);
    EXPECT_GE(message.progress().bytes_done(), last);
    last = message.progress().bytes_done();
  }
  EXPECT_EQ(last, static_cast<uint64_t>(kSteps)) << "the end is always told";
  EXPECT_LE(messages, 2 + RequestMonitor::kMessagesPerSecond * (absl::ToDoubleSeconds(absl::Now() - start) + 1));
  EXPECT_EQ(message.request_id(), 2u);
  EXPECT_FALSE(message.has_error());
}

TEST_F(WorkerTest, IntegrityMismatch) {
  image_.integrity_error = MakeError(Reason::kIntegrityCheckFailed, "bytes 0 to 9 differ");
  OpenImage();
  Send(2, [](FrontToWorker& request) { request.mutable_check_integrity(); });
  EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kIntegrityCheckFailed));
}

TEST_F(WorkerTest, IntegrityNeedsAnImage) {
  Send(2, [](FrontToWorker& request) { request.mutable_check_integrity(); });
  EXPECT_TRUE(Receive().has_error());
}

TEST_F(WorkerTest, CancelReachesTheWork) {
  absl::Notification checking;
  image_.while_checking = [&](OperationMonitor& monitor) {
    checking.Notify();
    while (!monitor.cancelled()) absl::SleepFor(absl::Milliseconds(1));
  };
  OpenImage();
  Send(2, [](FrontToWorker& request) { request.mutable_check_integrity(); });
  checking.WaitForNotification();
  Send(77, [](FrontToWorker& request) { request.mutable_cancel(); });  // another request: ignored
  Send(3, [](FrontToWorker& request) { request.mutable_get_stats(); });
  EXPECT_TRUE(Receive().has_stats()) << "the worker listens while it works";
  Send(4, [](FrontToWorker& request) { request.mutable_check_integrity(); });
  EXPECT_TRUE(Receive().has_error()) << "one at a time";
  Send(2, [](FrontToWorker& request) { request.mutable_cancel(); });
  WorkerToFront answer = Receive();
  EXPECT_EQ(answer.request_id(), 2u);
  EXPECT_EQ(answer.error().reason(), static_cast<int>(Reason::kCancelled));
}

TEST_F(WorkerTest, SiblingsAreAskedOfTheBroker) {
  image_.wanted_sibling = "install2.swm";
  SendOpen(1);
  auto request = ReceiveFrom<internal::WorkerToBroker>(*broker_);
  EXPECT_EQ(request.open_sibling().name(), "install2.swm");
  UniqueFd sibling(memfd_create("sibling", MFD_CLOEXEC));
  ASSERT_EQ(write(sibling.get(), "part 2", 6), 6);
  internal::BrokerToWorker answer;
  answer.mutable_opened_sibling()->set_request_id(request.open_sibling().request_id());
  ASSERT_TRUE(broker_->Send(answer, {sibling.get()}).ok());
  EXPECT_TRUE(Receive().has_image_opened());
  EXPECT_EQ(image_.sibling_content, "part 2");
}

TEST_F(WorkerTest, SiblingErrorsAreTheAnswer) {
  image_.wanted_sibling = "install2.swm";
  SendOpen(1);
  auto request = ReceiveFrom<internal::WorkerToBroker>(*broker_);
  internal::BrokerToWorker answer;
  answer.mutable_opened_sibling()->set_request_id(request.open_sibling().request_id());
  answer.mutable_opened_sibling()->mutable_error()->set_reason(static_cast<int>(Reason::kPartMissing));
  ASSERT_TRUE(broker_->Send(answer).ok());
  EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kPartMissing));
}

TEST_F(WorkerTest, SiblingThatIsNoFileIsRefused) {
  image_.wanted_sibling = "install2.swm";
  SendOpen(1);
  auto request = ReceiveFrom<internal::WorkerToBroker>(*broker_);
  internal::BrokerToWorker answer;
  answer.mutable_opened_sibling()->set_request_id(request.open_sibling().request_id());
  UniqueFd device(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(broker_->Send(answer, {device.get()}).ok());
  EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kPartMissing));
}

TEST_F(WorkerTest, SiblingNamesStayInTheDirectory) {
  image_.wanted_sibling = "../install2.swm";
  SendOpen(1);
  EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kInvalidPath));
}

TEST_F(WorkerTest, CancelEndsTheWaitForASibling) {
  image_.wanted_sibling = "install2.swm";
  SendOpen(1);
  ReceiveFrom<internal::WorkerToBroker>(*broker_);
  Send(1, [](FrontToWorker& request) { request.mutable_cancel(); });
  EXPECT_EQ(Receive().error().reason(), static_cast<int>(Reason::kCancelled));
}

TEST_F(WorkerTest, CacheBudgetAndStatistics) {
  Serve();
  kernel_.Read(file_, 0, 4096);
  Send(0, [](FrontToWorker& request) { request.mutable_set_cache_budget()->set_bytes(777); });
  Send(8, [](FrontToWorker& request) { request.mutable_get_stats(); });
  WorkerToFront answer = Receive();
  EXPECT_EQ(image_.cache_budget, 777u);
  EXPECT_EQ(answer.request_id(), 8u);
  EXPECT_EQ(answer.stats().reads(), 1u);
  EXPECT_EQ(answer.stats().bytes_read(), 7u);
  EXPECT_EQ(answer.stats().cache_bytes(), 7u);
  EXPECT_EQ(answer.stats().chunks_decoded(), 8u);
  EXPECT_EQ(answer.stats().cache_hits(), 9u);
  EXPECT_GT(answer.stats().resident_bytes(), 1u << 20);
}

TEST_F(WorkerTest, DamageAndChangesAreTold) {
  Serve();
  image_.options.observer->OnDamage("Windows/\xff.exe", "its hash differs");
  image_.options.observer->OnImageChanged("it was truncated");
  WorkerToFront damage = Receive();
  EXPECT_EQ(damage.damage().path(), "Windows/\xef\xbf\xbd.exe");
  EXPECT_EQ(damage.damage().message(), "its hash differs");
  EXPECT_EQ(Receive().image_changed().message(), "it was truncated");
  // As long as directories can lie deep in an image.
  image_.options.observer->OnDamage(std::string(size_t{12} << 20, 'd'), "its hash differs");
  EXPECT_EQ(Receive().damage().path(), std::string(4096, 'd'));
}

TEST_F(WorkerTest, DamageIsToldSoOftenOnly) {
  Serve();
  for (int i = 0; i < 1000; ++i) image_.options.observer->OnDamage("file" + std::to_string(i), "bad");
  image_.options.observer->OnImageChanged("it was truncated");
  int damages = 0;
  while (Receive().has_damage()) ++damages;
  EXPECT_EQ(damages, 100);
}

TEST_F(WorkerTest, FrontGoneBeforeServingEndsTheWorker) {
  OpenImage();
  front_.reset();
  EXPECT_TRUE(WorkerEnds());
}

TEST_F(WorkerTest, FrontGoneWhileOpeningEndsTheWorker) {
  image_.wanted_sibling = "never";
  SendOpen(1);
  ReceiveFrom<internal::WorkerToBroker>(*broker_);
  front_.reset();
  EXPECT_TRUE(WorkerEnds());
}

TEST_F(WorkerTest, ServesOnWithoutFrontAndTellsTheNextOne) {
  Serve();
  front_.reset();
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, "content");
  image_.options.observer->OnDamage("file", "bad");
  auto control = Channel::CreatePair();
  internal::BrokerToWorker message;
  message.mutable_new_control();
  ASSERT_TRUE(broker_->Send(message, {control->second.get()}).ok());
  control->second.reset();
  front_.emplace(std::move(control->first));
  EXPECT_TRUE(Receive().has_serving());
  EXPECT_EQ(Receive().damage().path(), "file");
  Send(1, [](FrontToWorker& request) { request.mutable_get_stats(); });
  EXPECT_TRUE(Receive().has_stats());
}

TEST_F(WorkerTest, ServesOnWithoutBroker) {
  Serve();
  broker_.reset();
  Send(1, [](FrontToWorker& request) { request.mutable_get_stats(); });
  EXPECT_TRUE(Receive().has_stats());
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, "content");
}

TEST_F(WorkerTest, BrokerGoneBeforeServingEndsTheWorker) {
  broker_.reset();
  EXPECT_TRUE(WorkerEnds());
}

TEST_F(WorkerTest, ExitEndsServing) {
  Serve();
  Send(0, [](FrontToWorker& request) { request.mutable_exit(); });
  EXPECT_TRUE(WorkerEnds());
}

TEST_F(WorkerTest, ADescriptorWithoutAnImageEndsTheWorker) {
  SendFuse();
  EXPECT_TRUE(Receive().serving_ended().has_error());
  EXPECT_TRUE(WorkerEnds());
}

TEST_F(WorkerTest, NonsenseFromTheFrontDoesNotEndTheMount) {
  Serve();
  ASSERT_GT(write(front_->fd(), "nonsense", 8), 0);
  // The worker hangs up on that front.
  pollfd entry = {front_->fd(), POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, kPatienceMilliseconds), 1);
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, "content");
}

TEST(ToErrorTest, CarriesReasonAndMessage) {
  internal::Error error = ToError(MakeError(Reason::kPartMissing, "no part 2"));
  EXPECT_EQ(error.reason(), static_cast<int>(Reason::kPartMissing));
  EXPECT_EQ(error.message(), "no part 2");
}

TEST(CacheDemandTest, AsksWhenItWouldHelp) {
  CacheDemand demand(/*solid=*/false);
  EXPECT_EQ(demand.Judge({}, 0, 0), 0u) << "nothing was decoded";
  WimTree::Stats stats;
  stats.bytes_decoded = 100 << 20;
  EXPECT_EQ(demand.Judge(stats, 100 << 20, 0), size_t{8} << 20)
      << "work for an idle worker whose cache was called back";
  stats.bytes_decoded += 100 << 20;
  stats.cache_bytes = 8 << 20;
  EXPECT_EQ(demand.Judge(stats, 200 << 20, 8 << 20), 0u) << "each byte is decoded once";
  stats.bytes_decoded += 100 << 20;
  EXPECT_EQ(demand.Judge(stats, 201 << 20, 8 << 20), size_t{16} << 20) << "the same is decoded again";
  stats.bytes_decoded += 100 << 20;
  stats.cache_bytes = 64 << 20;
  EXPECT_EQ(demand.Judge(stats, 202 << 20, 64 << 20), 0u) << "more would not help";
}

}  // namespace
}  // namespace dismd
