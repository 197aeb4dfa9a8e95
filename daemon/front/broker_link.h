// SPDX-License-Identifier: GPL-3.0-or-later
//
// BrokerLink: the front's side of its socket to the broker. Requests wait for their answers (the broker has deadlines
// for all that it does, and always answers); events go to a BrokerEvents.
//
// Thread safety: all methods are thread-safe. Events come on the loop's thread, in the broker's order.

#ifndef DAEMON_FRONT_BROKER_LINK_H_
#define DAEMON_FRONT_BROKER_LINK_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/front/cancel_token.h"
#include "daemon/front/event_loop.h"
#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class BrokerEvents {
 public:
  virtual ~BrokerEvents() = default;
  // Each must not block.
  virtual void OnConfig(const internal::ServerConfig& config) = 0;
  virtual void OnNewConnection(const internal::NewConnection& connection, libmount::UniqueFd socket) = 0;
  virtual void OnKnownSlot(const internal::KnownSlot& slot, libmount::UniqueFd control) = 0;
  // After the slots: what a front before this one has saved.
  virtual void OnKnownOperation(const internal::KnownOperation& operation) = 0;
  virtual void OnWorkerExited(const internal::WorkerExited& event) = 0;
  virtual void OnWorkerReplaced(const internal::WorkerReplaced& event, libmount::UniqueFd control) = 0;
  virtual void OnMountGone(const internal::MountGone& event) = 0;
  virtual void OnStop(const internal::StopService& event) = 0;
  // The broker is gone, or talks nonsense; the last event.
  virtual void OnBrokerEnd() = 0;
};

struct BrokerAnswer {
  internal::BrokerReply reply;  // without an error, unless it is MOUNT_BUSY
  std::vector<libmount::UniqueFd> fds;
};

class BrokerLink {
 public:
  // `socket` is the broker's; `events` outlives the link.
  BrokerLink(EventLoop& loop, libmount::UniqueFd socket, BrokerEvents& events);
  ~BrokerLink();
  BrokerLink(const BrokerLink&) = delete;
  BrokerLink& operator=(const BrokerLink&) = delete;

  // Begins to deliver events.
  void Start();

  // No event comes after it; calls that wait fail, and so do later ones. Not on the loop's thread.
  void Close();

  // Sends a request and waits for the answer; an error of the broker's comes as a status with its reason, except that
  // MOUNT_BUSY with its holders is left in the answer. Not on the loop's thread.
  //
  // When `cancel` is cancelled, the broker is asked to answer at once with CANCELLED; still its answer is waited for,
  // and may be that it worked. Only for what the broker can abandon (AbandonRequest): InspectPaths and ResolvePath.
  absl::StatusOr<BrokerAnswer> Call(internal::FrontToBroker request, CancelToken* cancel = nullptr);

  // Sends what has no answer.
  void Tell(const internal::FrontToBroker& message);

 private:
  struct Pending {
    bool done = false;
    bool cancelled = false;
    absl::StatusOr<BrokerAnswer> answer = absl::UnknownError("");
  };

  // Waits until it is answered; false: cancelled first.
  bool Await(Pending& pending);
  void OnReadable();
  void Handle(internal::BrokerToFront& message, std::vector<libmount::UniqueFd>& fds);
  void HandleReply(internal::BrokerReply& reply, std::vector<libmount::UniqueFd>& fds);
  void End(const absl::Status& why);
  void FailCalls();

  EventLoop& loop_;
  Channel channel_;
  BrokerEvents& events_;
  std::atomic<EventLoop::WatchId> watch_ = 0;

  absl::Mutex mutex_;
  absl::CondVar answered_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Pending*> pending_ ABSL_GUARDED_BY(mutex_);
};

// An error of another process of the service as a status; a reason that this build does not know is an internal error.
absl::Status FromWire(const internal::Error& error);

}  // namespace dismd

#endif  // DAEMON_FRONT_BROKER_LINK_H_
