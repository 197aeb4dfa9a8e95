// SPDX-License-Identifier: GPL-3.0-or-later
//
// ControlLink: the worker's way to tell the front, which may die and be replaced while the worker serves on.
//
// Answers go to whoever is there now. Events that stay true (serving, the image changed, a blob is damaged) are kept, a
// bounded number of them, and told again to a front that takes over.
//
// Thread safety: all methods may be called from any thread.

#ifndef DAEMON_WORKER_CONTROL_LINK_H_
#define DAEMON_WORKER_CONTROL_LINK_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

class ControlLink {
 public:
  explicit ControlLink(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}

  // A front takes over: tells it the kept events. A null channel: the front has gone.
  void Replace(std::shared_ptr<Channel> channel);

  // Sends; what the front cannot take any more is dropped (it has died, or will be told by its broker).
  void Send(const internal::WorkerToFront& message);
  void SendError(uint64_t request_id, const absl::Status& status);

  // Sends, and keeps the event for later fronts. Only the first kMostKeptEvents are kept and sent.
  void SendKept(const internal::WorkerToFront& event);

 private:
  static constexpr size_t kMostKeptEvents = 128;

  std::shared_ptr<Channel> channel() const;

  mutable absl::Mutex mutex_;
  std::shared_ptr<Channel> channel_ ABSL_GUARDED_BY(mutex_);
  std::vector<internal::WorkerToFront> kept_ ABSL_GUARDED_BY(mutex_);
};

// A status as it travels.
internal::Error ToError(const absl::Status& status);

}  // namespace dismd

#endif  // DAEMON_WORKER_CONTROL_LINK_H_
