// SPDX-License-Identifier: GPL-3.0-or-later
//
// SpareWorker: a worker that was started before anybody needs it.
//
// A worker's libraries take the loader 3 to 4 ms: a third of what mounting a disk takes. So one worker waits with that
// behind it, holding nothing but a socket to us, until it is told whose it is and gets its descriptors
// (daemon/worker/spare.h); the next is started when that mount is there. It runs as root, since it is yet to become a
// user, with the three capabilities that this takes and no new privileges; no byte of an image or of a client's reaches
// it before it has given them up.
//
// It ends when its socket closes, however the broker ends. Where there is none, or it has died, or does not answer at
// once, a worker is started as if there were no spare ones.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_SPARE_WORKER_H_
#define DAEMON_BROKER_SPARE_WORKER_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "daemon/broker/event_loop.h"
#include "daemon/broker/process.h"
#include "daemon/ipc/channel.h"

namespace dismd {

// Started at once it would take a core from the client that is just being told of its mount: where the kernel puts both
// on one, that costs 3 ms.
inline constexpr std::chrono::milliseconds kSpareWorkerDelay{20};

// How long it may take to take what it is given: mostly a tenth of a millisecond. The broker stands still meanwhile.
inline constexpr std::chrono::milliseconds kSpareWorkerPatience{250};

class SpareWorker {
 public:
  // `program` outlives the object.
  SpareWorker(EventLoop* loop, const std::string& program) : loop_(loop), program_(program) {}
  ~SpareWorker() { Dismiss(); }
  SpareWorker(const SpareWorker&) = delete;
  SpareWorker& operator=(const SpareWorker&) = delete;

  // Starts one after kSpareWorkerDelay, unless there is one. That it could not be done is logged, and does no harm.
  void Prepare();

  // Makes it the worker that `start` would start. Not running: there is none, start one.
  Process Become(const ProgramStart& start);

  // Ends it, if there is one.
  void Dismiss();

 private:
  void Start();
  // Whether it has taken what was sent.
  bool IsTaken();

  EventLoop* const loop_;
  const std::string& program_;
  std::optional<EventLoop::TimerId> timer_;
  Process process_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace dismd

#endif  // DAEMON_BROKER_SPARE_WORKER_H_
