// SPDX-License-Identifier: GPL-3.0-or-later
//
// Broker: the service's root process from its start to its end. Wires the listener, the front and the slots together.
//
//   start:  locks, mounts of a dead broker adopted, socket, front; connections are accepted once the front is ready
//   hand-over (SIGHUP): mounts in the making end, the front goes, and Run returns with handing_over(): whoever starts
//           dismd again adopts the mounts
//   stop:   no connections, the front unmounts (StopService), what is left is detached, the front ends, the socket goes
//
// Not thread-safe; blocks SIGTERM, SIGINT and SIGHUP of the thread.

#ifndef DAEMON_BROKER_BROKER_H_
#define DAEMON_BROKER_BROKER_H_

#include <memory>

#include "absl/status/status.h"
#include "daemon/broker/event_loop.h"
#include "daemon/broker/front_process.h"
#include "daemon/broker/listener.h"
#include "daemon/broker/options.h"
#include "daemon/broker/records.h"
#include "daemon/broker/slots.h"
#include "daemon/broker/staging_store.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// Beyond --grace, for the front to tell that it has finished.
inline constexpr std::chrono::milliseconds kStopSlack{1'000};
// How long detaching everything may take before the broker ends all the same, naming what is left.
inline constexpr std::chrono::milliseconds kDetachDeadline{15'000};

class Broker {
 public:
  explicit Broker(BrokerOptions options);
  ~Broker();

  // Everything up to serving. An error is worth exit code 1.
  absl::Status Start();
  // Serves until stopped. OK: stopped by a signal.
  absl::Status Run();
  bool handing_over() const { return handing_over_; }

 private:
  absl::Status TakeSignals();
  void OnSignal();
  void StartFront();

  void OnFrontStarted();
  void OnFrontMessage(const internal::FrontToBroker& message);
  void OnFrontLost();
  void OnReady();
  const Peer* PeerOf(uint64_t connection_id, const Reply& reply) const;
  Reply ReplyTo(uint64_t request_id);
  void SaveOperation(const internal::SaveOperation& request, const Reply& reply);

  void HandOver();
  void BeginStop();
  void DetachRest(const char* why);
  void EndFront();

  const BrokerOptions options_;
  EventLoop loop_;
  libmount::UniqueFd socket_lock_, state_lock_, signals_;
  std::unique_ptr<RecordStore> records_;
  std::unique_ptr<StagingStore> staging_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<FrontProcess> front_;
  std::unique_ptr<Slots> slots_;
  enum class Phase { kServing, kStopping, kDetaching, kEnding } phase_ = Phase::kServing;
  bool handing_over_ = false;
  absl::Status result_;
};

}  // namespace dismd

#endif  // DAEMON_BROKER_BROKER_H_
