// SPDX-License-Identifier: GPL-3.0-or-later
//
// BrokerHarness: a real dismd with a front that the test plays and workers that serve two files (fake_worker.cc).
// What is left behind at the end (mounts, processes, socket, records) fails the test.

#ifndef TESTS_INTEGRATION_BROKER_BROKER_HARNESS_H_
#define TESTS_INTEGRATION_BROKER_BROKER_HARNESS_H_

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "gtest/gtest.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

inline constexpr uint32_t kAlice = 21001;
inline constexpr uint32_t kBob = 21002;

// Another process of the test's: runs `body` as uid and gid, and then waits until it is ended.
class Helper {
 public:
  Helper(uint32_t uid, const std::function<int()>& body);
  ~Helper();
  // What `body` returned; the process goes on.
  int result() const { return result_; }
  pid_t pid() const { return pid_; }
  // SIGKILL, and waits.
  void End();

 private:
  pid_t pid_ = -1;
  int result_ = -1;
  libmount::UniqueFd alive_;
};

// Runs `body` as uid and gid in a process of its own, which ends; what it returned.
int RunAs(uint32_t uid, const std::function<int()>& body);

// Waits until `condition`, or for ten seconds.
bool Eventually(const std::function<bool()>& condition);

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, const std::string& text);
// read(2) of the whole file as that user: its text, or "errno N".
std::string ReadAs(uint32_t uid, const std::string& path);
bool IsMounted(const std::string& path);

class BrokerHarness : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  void StartBroker();
  // The front that the broker has just started, up to Ready. `known` gets the mounts that it was told.
  void TakeFront(std::vector<internal::KnownSlot>* known = nullptr);
  void EndFront();    // as if it had died
  void StopBroker();  // SIGTERM; answers StopService; waits; expects exit code 0
  int WaitBroker();   // the exit code

  // As the front: sends and waits for the answer. Other messages are kept in events_.
  internal::BrokerReply Call(internal::FrontToBroker request, std::vector<libmount::UniqueFd>* fds = nullptr);
  uint64_t Send(internal::FrontToBroker request);
  internal::BrokerReply WaitReply(uint64_t request_id, std::vector<libmount::UniqueFd>* fds = nullptr);
  internal::BrokerToFront WaitEvent(const std::function<bool(const internal::BrokerToFront&)>& wanted);

  // A connection of that user, as the broker tells of it.
  internal::NewConnection Connect(uint32_t uid, bool other_namespace = false);

  // Directories of the user's below base_/UID, an image in it.
  std::string Home(uint32_t uid) const { return base_ + "/" + std::to_string(uid); }
  std::string MakeDirectory(uint32_t uid, const std::string& name);
  internal::PathFacts Inspect(uint64_t connection, const std::string& image, const std::string& mount_point);

  struct Mounted {
    uint64_t slot = 0;
    int worker_pid = 0;
    std::string path;
    std::unique_ptr<Channel> control;
    internal::BrokerReply result;  // of the step that failed, or of AttachMount
  };
  // All the steps; stops at the first that fails.
  Mounted Mount(uint64_t connection, const std::string& image, const std::string& mount_point,
                const std::function<void()>& before_attach = nullptr);
  internal::BrokerReply Unmount(uint64_t slot, bool detach = false);
  internal::BrokerReply Release(uint64_t slot);
  std::string Log() const { return ReadFile(base_ + "/log"); }

  std::string base_;
  std::string image_;  // Alice's
  pid_t broker_ = -1;
  libmount::UniqueFd front_listener_;
  libmount::UniqueFd front_life_;  // closing it ends the fake front
  std::unique_ptr<Channel> front_;
  std::deque<std::pair<internal::BrokerToFront, std::vector<libmount::UniqueFd>>> events_;
  std::vector<std::unique_ptr<Helper>> helpers_;
  std::vector<int> workers_;
  uint64_t next_request_ = 1;
};

}  // namespace dismd

#endif  // TESTS_INTEGRATION_BROKER_BROKER_HARNESS_H_
