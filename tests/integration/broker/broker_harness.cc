// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/integration/broker/broker_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/integration/end_of_log.h"

namespace dismd {

using internal::BrokerReply;
using internal::BrokerToFront;
using internal::FrontToBroker;
using libmount::UniqueFd;

namespace {

constexpr int kPatienceMilliseconds = 20'000;

bool BecomeUid(uint32_t uid) {
  return setgroups(0, nullptr) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0;
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

}  // namespace

Helper::Helper(uint32_t uid, const std::function<int()>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) abort();
  UniqueFd results(ends[0]), writer(ends[1]);
  pid_ = fork();
  if (pid_ == 0) {
    int result = BecomeUid(uid) ? body() : -2;
    if (write(writer.get(), &result, sizeof(result)) < 0) _exit(1);
    for (;;) pause();
  }
  writer.reset();
  if (read(results.get(), &result_, sizeof(result_)) != sizeof(result_)) result_ = -3;
}

void Helper::End() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Helper::~Helper() { End(); }

int RunAs(uint32_t uid, const std::function<int()>& body) { return Helper(uid, body).result(); }

bool Eventually(const std::function<bool()>& condition) {
  auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMilliseconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    poll(nullptr, 0, 2);
  }
  return true;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string ReadAs(uint32_t uid, const std::string& path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) abort();
  UniqueFd reader(ends[0]), writer(ends[1]);
  int error = RunAs(uid, [&] {
    UniqueFd file(open(path.c_str(), O_RDONLY));
    char text[4096];
    ssize_t n = file ? read(file.get(), text, sizeof(text)) : -1;
    if (n < 0) return errno;
    return write(writer.get(), text, static_cast<size_t>(n)) == n ? 0 : EIO;
  });
  if (error != 0) return "errno " + std::to_string(error);
  writer.reset();
  char text[4096];
  ssize_t n = read(reader.get(), text, sizeof(text));
  return std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
}

bool IsMounted(const std::string& path) {
  return ReadFile("/proc/self/mountinfo").find(" " + path + " ") != std::string::npos;
}

void BrokerHarness::SetUp() {
  ASSERT_EQ(geteuid(), 0U) << "these tests mount, and need root";
  ASSERT_EQ(access("/dev/fuse", R_OK | W_OK), 0) << "these tests mount, and need /dev/fuse";
  char directory[] = "/tmp/dismd-broker-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  base_ = directory;
  chmod(base_.c_str(), 0755);
  mkdir((base_ + "/seams").c_str(), 0777);
  chmod((base_ + "/seams").c_str(), 0777);
  for (uint32_t uid : {0U, kAlice, kBob}) {
    mkdir(Home(uid).c_str(), 0755);
    ASSERT_EQ(chown(Home(uid).c_str(), uid, uid), 0);
  }
  image_ = Home(kAlice) + "/image.wim";
  WriteFile(image_, "what the image holds");
  chmod(image_.c_str(), 0600);
  ASSERT_EQ(chown(image_.c_str(), kAlice, kAlice), 0);

  front_listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  std::string path = base_ + "/seams/front.sock";
  sockaddr_un address = AddressOf(path);
  ASSERT_EQ(bind(front_listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  ASSERT_EQ(listen(front_listener_.get(), 5), 0);
  StartBroker();
  TakeFront();
}

void BrokerHarness::StartBroker() {
  broker_ = fork();
  if (broker_ == 0) {
    setenv("DISMD_TEST_SEAM_DIR", (base_ + "/seams").c_str(), 1);
    int log = open((base_ + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(log, 2);
    std::string socket_path = base_ + "/run/dismd.sock", state = base_ + "/state";
    execl(DISMD_PROGRAM, "dismd", "--socket", socket_path.c_str(), "--state-dir", state.c_str(), "--test-front",
          FAKE_FRONT_PROGRAM, "--test-worker", FAKE_WORKER_PROGRAM, "--test-path-deadline-ms", "1500", "--grace", "2",
          nullptr);
    _exit(127);
  }
  ASSERT_GT(broker_, 0);
}

void BrokerHarness::TakeFront(std::vector<internal::KnownSlot>* known) {
  front_.reset();
  pollfd entry = {front_listener_.get(), POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, kPatienceMilliseconds), 1) << "the broker starts no front";
  front_life_.reset(accept4(front_listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  char byte;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ASSERT_EQ(recvmsg(front_life_.get(), &message, MSG_CMSG_CLOEXEC), 1);
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  front_ = std::make_unique<Channel>(UniqueFd(fd));
  events_.clear();
  BrokerToFront config = WaitEvent([](const BrokerToFront& event) { return event.has_config(); });
  EXPECT_FALSE(config.config().rootless());
  FrontToBroker ready;
  ready.mutable_ready();
  Send(ready);
  if (known == nullptr) return;
  // What it was told came before the answer to anything asked.
  FrontToBroker probe;
  probe.mutable_release_slot()->set_slot_id(~uint64_t{0});
  Call(probe);
  for (auto& [event, fds] : events_) {
    if (event.has_known_slot()) known->push_back(event.known_slot());
  }
}

void BrokerHarness::EndFront() {
  shutdown(front_life_.get(), SHUT_RDWR);  // helpers hold copies of the descriptor
  front_life_.reset();
}

int BrokerHarness::WaitBroker() {
  int status = 0;
  bool ended = Eventually([&] { return waitpid(broker_, &status, WNOHANG) == broker_; });
  EXPECT_TRUE(ended) << "dismd does not end";
  if (!ended) {
    kill(broker_, SIGKILL);
    waitpid(broker_, &status, 0);
  }
  broker_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

void BrokerHarness::StopBroker() {
  kill(broker_, SIGTERM);
  WaitEvent([](const BrokerToFront& event) { return event.has_stop(); });
  FrontToBroker done;
  done.mutable_stop_done();
  Send(done);
  EXPECT_EQ(WaitBroker(), 0);
}

void BrokerHarness::TearDown() {
  if (broker_ > 0 && front_) StopBroker();
  if (broker_ > 0) {
    kill(broker_, SIGKILL);
    WaitBroker();
  }
  helpers_.clear();
  EXPECT_EQ(ReadFile("/proc/self/mountinfo").find(base_), std::string::npos) << "a mount is left";
  EXPECT_NE(access((base_ + "/run/dismd.sock").c_str(), F_OK), 0) << "the socket is left";
  for (auto& entry : std::filesystem::directory_iterator(base_ + "/state/broker")) {
    EXPECT_EQ(entry.path().filename().string().rfind("slot-", 0), std::string::npos) << "a record is left";
  }
  for (int pid : workers_) EXPECT_NE(kill(pid, 0), 0) << "worker " << pid << " is left";
  if (HasFailure()) {
    printf("%s\n", EndOfLog(Log()).c_str());
  } else {
    std::filesystem::remove_all(base_);
  }
}

uint64_t BrokerHarness::Send(FrontToBroker request) {
  request.set_request_id(next_request_++);
  EXPECT_TRUE(front_->Send(request).ok());
  return request.request_id();
}

BrokerToFront BrokerHarness::WaitEvent(const std::function<bool(const BrokerToFront&)>& wanted) {
  for (auto event = events_.begin(); event != events_.end(); ++event) {
    if (!wanted(event->first)) continue;
    BrokerToFront found = event->first;
    events_.erase(event);
    return found;
  }
  for (;;) {
    pollfd entry = {front_->fd(), POLLIN, 0};
    if (poll(&entry, 1, kPatienceMilliseconds) != 1) break;
    BrokerToFront message;
    std::vector<UniqueFd> fds;
    auto received = front_->Receive(&message, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) break;
    if (wanted(message)) return message;
    events_.emplace_back(std::move(message), std::move(fds));
  }
  ADD_FAILURE() << "the broker did not say what was waited for";
  return BrokerToFront();
}

BrokerReply BrokerHarness::WaitReply(uint64_t request_id, std::vector<UniqueFd>* fds) {
  auto is_it = [request_id](const BrokerToFront& event) {
    return event.has_reply() && event.reply().request_id() == request_id;
  };
  for (;;) {
    for (auto event = events_.begin(); event != events_.end(); ++event) {
      if (!is_it(event->first)) continue;
      BrokerReply reply = event->first.reply();
      if (fds != nullptr) *fds = std::move(event->second);
      events_.erase(event);
      return reply;
    }
    pollfd entry = {front_->fd(), POLLIN, 0};
    BrokerToFront message;
    std::vector<UniqueFd> received_fds;
    if (poll(&entry, 1, kPatienceMilliseconds) != 1) break;
    auto received = front_->Receive(&message, &received_fds);
    if (!received.ok() || *received != Channel::Received::kMessage) break;
    events_.emplace_back(std::move(message), std::move(received_fds));
  }
  ADD_FAILURE() << "no reply";
  return BrokerReply();
}

BrokerReply BrokerHarness::Call(FrontToBroker request, std::vector<UniqueFd>* fds) {
  return WaitReply(Send(std::move(request)), fds);
}

internal::NewConnection BrokerHarness::Connect(uint32_t uid, bool other_namespace) {
  std::string path = base_ + "/run/dismd.sock";
  helpers_.push_back(std::make_unique<Helper>(other_namespace ? 0 : uid, [&] {
    if (other_namespace && (unshare(CLONE_NEWNS) != 0 || !BecomeUid(uid))) return 2;
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = AddressOf(path);
    return connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0 : 1;
  }));
  EXPECT_EQ(helpers_.back()->result(), 0);
  return WaitEvent([](const BrokerToFront& event) { return event.has_new_connection(); }).new_connection();
}

std::string BrokerHarness::MakeDirectory(uint32_t uid, const std::string& name) {
  std::string path = Home(uid) + "/" + name;
  EXPECT_EQ(mkdir(path.c_str(), 0755), 0);
  EXPECT_EQ(chown(path.c_str(), uid, uid), 0);
  return path;
}

internal::PathFacts BrokerHarness::Inspect(uint64_t connection, const std::string& image,
                                           const std::string& mount_point) {
  FrontToBroker request;
  request.mutable_inspect_paths()->set_connection_id(connection);
  request.mutable_inspect_paths()->set_image_path(image);
  request.mutable_inspect_paths()->set_mount_path(mount_point);
  BrokerReply reply = Call(request);
  EXPECT_FALSE(reply.has_error()) << reply.error().message();
  return reply.path_facts();
}

BrokerHarness::Mounted BrokerHarness::Mount(uint64_t connection, const std::string& image,
                                            const std::string& mount_point,
                                            const std::function<void()>& before_attach) {
  Mounted mounted;
  mounted.path = mount_point;
  mounted.slot = Inspect(connection, image, mount_point).slot_id();
  FrontToBroker start;
  start.mutable_start_worker()->set_slot_id(mounted.slot);
  start.mutable_start_worker()->set_mount_id("m-" + std::to_string(mounted.slot));
  std::vector<UniqueFd> fds;
  mounted.result = Call(start, &fds);
  if (mounted.result.has_error() || fds.size() != 1) return mounted;
  mounted.worker_pid = mounted.result.worker_started().pid();
  workers_.push_back(mounted.worker_pid);
  mounted.control = std::make_unique<Channel>(std::move(fds[0]));

  FrontToBroker create;
  create.mutable_create_mount()->set_slot_id(mounted.slot);
  create.mutable_create_mount()->set_read_only(true);
  create.mutable_create_mount()->set_description("image.wim,allow_other");
  mounted.result = Call(create);
  if (mounted.result.has_error()) return mounted;
  internal::WorkerToFront serving;
  std::vector<UniqueFd> none;
  auto received = mounted.control->Receive(&serving, &none);
  EXPECT_TRUE(received.ok() && serving.has_serving());

  if (before_attach) before_attach();
  FrontToBroker attach;
  attach.mutable_attach_mount()->set_slot_id(mounted.slot);
  attach.mutable_attach_mount()->set_registry_record("the front's own");
  mounted.result = Call(attach);
  return mounted;
}

BrokerReply BrokerHarness::Unmount(uint64_t slot, bool detach) {
  FrontToBroker request;
  request.mutable_unmount()->set_slot_id(slot);
  request.mutable_unmount()->set_detach(detach);
  return Call(request);
}

BrokerReply BrokerHarness::Release(uint64_t slot) {
  FrontToBroker request;
  request.mutable_release_slot()->set_slot_id(slot);
  return Call(request);
}

}  // namespace dismd
