// SPDX-License-Identifier: GPL-3.0-or-later
//
// ChildRunner: runs a function in a short-lived forked child with a deadline, and hands back what it answered.
//
// Whatever can block on a caller's file system happens in such a child, so that the loop never waits:
//
//   loop ── fork ──► child: takes an identity, opens, looks, sends one message with descriptors, exits
//    ▲                                   │
//    └──── message, or "timed out" ◄─────┘
//
// fork is safe here because the broker has no threads. The child keeps only the descriptors that it is told to keep:
// one that hangs in the kernel beyond SIGKILL (a FUSE server may hold it so) must not hold anything of ours. Such a
// child is reported as timed out at the deadline, is counted against its user until it goes, and nobody else waits for
// it.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_CHILD_H_
#define DAEMON_BROKER_CHILD_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "daemon/broker/event_loop.h"
#include "daemon/ipc/channel.h"
#include "google/protobuf/message_lite.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// How many children may run at once, and how many more may wait their turn (which counts towards the deadline). One
// user's stuck children fill that user's share only.
inline constexpr int kMaxChildrenOfUser = 8;
inline constexpr int kMaxChildren = 128;
inline constexpr size_t kMaxWaitingOfUser = 128;

struct ChildOutcome {
  enum class End {
    kAnswered,   // the message is filled
    kTimedOut,   // no answer by the deadline; killed
    kFailed,     // ended without an answer, or could not be started
    kRefused,    // the user has too many waiting already
    kAbandoned,  // nobody wants the answer any more; killed
  };
  End end = End::kFailed;
  std::vector<libmount::UniqueFd> fds;
};

class ChildRunner {
 public:
  struct Job {
    uint32_t uid = 0;  // whose share it is
    // Runs in the child. Fills the answer and the descriptors (it need not close anything).
    std::function<void(google::protobuf::MessageLite* answer, std::vector<int>* fds)> work;
    std::vector<int> keep;  // descriptors of the broker's that `work` uses
    std::shared_ptr<google::protobuf::MessageLite> answer;
    std::chrono::milliseconds deadline{0};
    // Runs in the loop, once. The child has ended (or was given up): nothing it held is held any more, unless
    // kTimedOut or kAbandoned.
    std::function<void(ChildOutcome)> done;
    // Runs in the loop when a child that timed out, or was abandoned, has ended at last.
    std::function<void()> ended_late;
    bool unlimited = false;  // not counted: the broker's own cleaning up
    uint64_t ticket = 0;     // for Abandon; 0: cannot be abandoned
  };

  explicit ChildRunner(EventLoop* loop) : loop_(loop) {}
  ~ChildRunner();
  ChildRunner(const ChildRunner&) = delete;
  ChildRunner& operator=(const ChildRunner&) = delete;

  void Run(Job job);

  // Ends the job with this ticket now, running or waiting; does nothing if it is over.
  void Abandon(uint64_t ticket);
  // All that have a ticket.
  void AbandonAll();

  // Children that were killed but have not ended.
  int stuck() const;

 private:
  struct Running {
    Job job;
    pid_t pid = -1;
    libmount::UniqueFd pidfd;
    std::unique_ptr<Channel> channel;
    EventLoop::TimerId timer;
    bool given_up = false;  // killed; `done` was called
  };
  struct Waiting {
    Job job;
    EventLoop::TimerId timer;
    EventLoop::Clock::time_point latest;
  };

  bool HasRoom(const Job& job) const;
  void Start(Job job);
  void StartWaiting();
  void OnEnd(std::list<Running>::iterator child);
  void GiveUp(std::list<Running>::iterator child, ChildOutcome::End why);
  void CountOut(const Job& job);
  void GiveUp(std::list<Waiting>::iterator waiting, ChildOutcome::End why);

  EventLoop* const loop_;
  std::list<Running> running_;
  std::list<Waiting> waiting_;
  std::map<uint32_t, int> running_of_user_;
  std::map<uint32_t, size_t> waiting_of_user_;
  int counted_ = 0;
};

// In a forked child: closes every descriptor above 2 that is not in `keep`.
void CloseAllBut(std::vector<int> keep);

}  // namespace dismd

#endif  // DAEMON_BROKER_CHILD_H_
