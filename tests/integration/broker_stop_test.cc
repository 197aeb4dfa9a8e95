// SPDX-License-Identifier: GPL-3.0-or-later
//
// How the broker ends and begins: signals, a front that dies, a broker that was killed, a second one.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "gmock/gmock.h"
#include "tests/integration/broker/broker_harness.h"

namespace dismd {
namespace {

using internal::BrokerToFront;
using internal::FrontToBroker;
using libmount::UniqueFd;
using ::testing::HasSubstr;

class BrokerStopTest : public BrokerHarness {};

TEST_F(BrokerStopTest, SigtermLeavesNothing) {
  uint64_t alice = Connect(kAlice).connection_id();
  Mounted idle = Mount(alice, image_, MakeDirectory(kAlice, "idle"));
  Mounted busy = Mount(alice, image_, MakeDirectory(kAlice, "busy"));
  ASSERT_FALSE(idle.result.has_error() || busy.result.has_error());
  Helper holder(kAlice, [&] { return open((busy.path + "/hello").c_str(), O_RDONLY) >= 0 ? 0 : 1; });
  StopBroker();
  EXPECT_FALSE(IsMounted(idle.path));
  EXPECT_FALSE(IsMounted(busy.path));
  EXPECT_THAT(Log(), HasSubstr("detaching " + busy.path));
  EXPECT_THAT(Log(), HasSubstr("(" + std::to_string(holder.pid()) + ")"));
  EXPECT_THAT(Log(), ::testing::Not(HasSubstr("detaching " + idle.path)));
}

TEST_F(BrokerStopTest, AFrontThatDoesNotAnswerIsNotWaitedForBeyondTheGrace) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  auto start = std::chrono::steady_clock::now();
  kill(broker_, SIGTERM);
  EXPECT_EQ(WaitBroker(), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST_F(BrokerStopTest, ASecondSignalDoesNotWait) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  kill(broker_, SIGTERM);
  BrokerToFront stop = WaitEvent([](const BrokerToFront& event) { return event.has_stop(); });
  EXPECT_EQ(stop.stop().grace_milliseconds(), 2000U);
  auto start = std::chrono::steady_clock::now();
  kill(broker_, SIGINT);
  EXPECT_EQ(WaitBroker(), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST_F(BrokerStopTest, AFrontThatDiesIsReplacedAndMountsGoOn) {
  uint64_t alice = Connect(kAlice).connection_id();
  Mounted mounted = Mount(alice, image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  uint64_t unfinished = Inspect(alice, image_, MakeDirectory(kAlice, "other")).slot_id();
  FrontToBroker start;
  start.mutable_start_worker()->set_slot_id(unfinished);
  std::vector<UniqueFd> control;
  int unfinished_worker = Call(start, &control).worker_started().pid();
  workers_.push_back(unfinished_worker);

  EndFront();
  std::vector<internal::KnownSlot> known;
  TakeFront(&known);
  ASSERT_EQ(known.size(), 1U);
  EXPECT_EQ(known[0].slot_id(), mounted.slot);
  EXPECT_EQ(known[0].owner().uid(), kAlice);
  EXPECT_EQ(known[0].mount_path(), mounted.path);
  EXPECT_EQ(known[0].image_path(), image_);
  EXPECT_EQ(known[0].worker_pid(), mounted.worker_pid);
  EXPECT_EQ(known[0].registry_record(), "the front's own");
  EXPECT_TRUE(known[0].read_only());
  // The new control socket leads to the worker: it greets there.
  for (auto& [event, fds] : events_) {
    if (!event.has_known_slot()) continue;
    ASSERT_EQ(fds.size(), 1U);
    Channel fresh(std::move(fds[0]));
    internal::WorkerToFront hello;
    std::vector<UniqueFd> none;
    ASSERT_TRUE(fresh.Receive(&hello, &none).ok());
    EXPECT_TRUE(hello.has_serving());
  }
  EXPECT_EQ(ReadAs(kAlice, mounted.path + "/hello"), "what the image holds");
  EXPECT_TRUE(Eventually([&] { return kill(unfinished_worker, 0) != 0; }));
  EXPECT_GT(Connect(kBob).connection_id(), alice);
  EXPECT_FALSE(Unmount(mounted.slot).has_error());
}

TEST_F(BrokerStopTest, WhatAKilledBrokerLeftIsCleanedUpByTheNext) {
  Mounted mounted = Mount(Connect(kAlice).connection_id(), image_, MakeDirectory(kAlice, "mnt"));
  ASSERT_FALSE(mounted.result.has_error());
  kill(broker_, SIGKILL);
  EXPECT_EQ(WaitBroker(), 1000 + SIGKILL);
  EndFront();
  EXPECT_TRUE(IsMounted(mounted.path));
  StartBroker();
  TakeFront();
  EXPECT_FALSE(IsMounted(mounted.path));
  EXPECT_THAT(Log(), HasSubstr("left by a dismd that died: " + mounted.path));
  EXPECT_TRUE(Eventually([&] { return kill(mounted.worker_pid, 0) != 0; }));
}

TEST_F(BrokerStopTest, ASecondServiceIsRefused) {
  std::string socket_path = base_ + "/run/dismd.sock", other_socket = base_ + "/run/other.sock";
  std::string state = base_ + "/state", other_state = base_ + "/other";
  auto run = [&](const std::string& socket_argument, const std::string& state_argument) {
    std::string log = base_ + "/second";
    pid_t pid = fork();
    if (pid == 0) {
      dup2(open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
      execl(DISMD_PROGRAM, "dismd", "--socket", socket_argument.c_str(), "--state-dir", state_argument.c_str(),
            "--test-front", FAKE_FRONT_PROGRAM, "--test-worker", FAKE_WORKER_PROGRAM, nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return std::to_string(WEXITSTATUS(status)) + " " + ReadFile(log);
  };
  EXPECT_THAT(run(socket_path, other_state), HasSubstr("1 dismd: another dismd is using the socket " + socket_path));
  EXPECT_THAT(run(other_socket, state), HasSubstr("1 dismd: another dismd is using the state directory " + state));
  EXPECT_EQ(Connect(kAlice).identity().uid(), kAlice);
}

TEST_F(BrokerStopTest, AStaleSocketIsReplaced) {
  kill(broker_, SIGKILL);
  EXPECT_EQ(WaitBroker(), 1000 + SIGKILL);
  EndFront();
  ASSERT_EQ(access((base_ + "/run/dismd.sock").c_str(), F_OK), 0);
  StartBroker();
  TakeFront();
  EXPECT_EQ(Connect(kAlice).identity().uid(), kAlice);
}

TEST_F(BrokerStopTest, FrontIsNobodyWithoutRights) {
  std::string children =
      ReadFile("/proc/" + std::to_string(broker_) + "/task/" + std::to_string(broker_) + "/children");
  std::string status = ReadFile("/proc/" + children.substr(0, children.find(' ')) + "/status");
  EXPECT_THAT(status, HasSubstr("\nCapBnd:\t0000000000000000\n"));
  EXPECT_THAT(status, HasSubstr("\nCapEff:\t0000000000000000\n"));
  EXPECT_THAT(status, HasSubstr("\nNoNewPrivs:\t1\n"));
  EXPECT_THAT(status, ::testing::Not(HasSubstr("\nUid:\t0\t")));
}

}  // namespace
}  // namespace dismd
