// SPDX-License-Identifier: GPL-3.0-or-later
//
// FrontProcess: dismd-front, started, talked to, and started again when it dies.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_FRONT_PROCESS_H_
#define DAEMON_BROKER_FRONT_PROCESS_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/broker/event_loop.h"
#include "daemon/broker/message_queue.h"
#include "daemon/broker/process.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

// Between a death of the front and its next start; doubled each time, until it has been ready.
inline constexpr std::chrono::milliseconds kFirstRestartDelay{50};
inline constexpr std::chrono::milliseconds kMaxRestartDelay{5'000};
// So many deaths in a row without having been ready, and the service gives up.
inline constexpr int kMaxFailedStarts = 8;
// How long a front that was told to end may take.
inline constexpr std::chrono::milliseconds kFrontExitDeadline{3'000};

class FrontProcess {
 public:
  struct Events {
    std::function<void()> started;  // a new process: tell it what it must know
    std::function<void(const internal::FrontToBroker&)> message;
    std::function<void()> lost;     // it has died; everything it knew is lost. Comes before `started` of the next one
    std::function<void()> gave_up;  // no next one
  };

  FrontProcess(EventLoop* loop, ProgramStart program, Events events);
  ~FrontProcess();

  void Start();
  // Dropped where there is no front.
  void Send(const internal::BrokerToFront& message, std::vector<libmount::UniqueFd> fds = {});
  // It serves: the next death is not a failed start.
  void WasReady();
  // Counts the starts: an answer to an earlier front's request must not reach the next one.
  uint64_t generation() const { return generation_; }

  // The service stops: a front that ends is not started again, and need not have failed.
  void DoNotRestart() { last_ = true; }
  // Closes its socket, which makes it end; `done` when it has, or was killed.
  void Stop(std::function<void()> done);

 private:
  void OnExit(int status);
  void Restart();

  EventLoop* const loop_;
  const ProgramStart program_;
  const Events events_;
  Process process_;
  std::unique_ptr<MessageQueue> queue_;
  uint64_t generation_ = 0;
  int failed_starts_ = 0;
  bool last_ = false;
  std::function<void()> when_stopped_;
};

// The user that the front runs as: `name`, else "dismd" where that user exists, else kFrontUid. NOT_FOUND: no such
// user; INVALID_ARGUMENT: root, which the front must not be.
struct FrontUser {
  uint32_t uid;
  uint32_t gid;
};
absl::StatusOr<FrontUser> FindFrontUser(const std::string& name);

}  // namespace dismd

#endif  // DAEMON_BROKER_FRONT_PROCESS_H_
