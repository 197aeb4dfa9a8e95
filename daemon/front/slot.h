// SPDX-License-Identifier: GPL-3.0-or-later
//
// Slot: what the broker holds for one image being looked at or mounted (opened files, a worker, a kernel mount), and
// the steps asked of it. Unless it is kept, the destructor has the broker take all of it away, and waits until that is
// done: whoever hears of a failure or a cancellation afterwards finds nothing left.
//
// Thread safety: none; used by one thread at a time, not the loop's.

#ifndef DAEMON_FRONT_SLOT_H_
#define DAEMON_FRONT_SLOT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/front/broker_link.h"
#include "daemon/front/event_loop.h"
#include "daemon/front/worker_link.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

class Slot {
 public:
  // Has the paths opened as the connection's identity.
  static absl::StatusOr<std::unique_ptr<Slot>> Inspect(BrokerLink& broker, const internal::InspectPaths& paths,
                                                       CancelToken& cancel);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  uint64_t id() const { return id_; }
  const internal::PathFacts& facts() const { return facts_; }

  // `request` without the slot's id.
  absl::Status StartWorker(EventLoop& loop, internal::StartWorker request, WorkerLink::EventHandler on_event);
  // REQUIRES: StartWorker succeeded.
  const std::shared_ptr<WorkerLink>& worker() const { return worker_; }
  int worker_pid() const { return worker_pid_; }
  // Real path; empty: the edits are in the service's own directory, or there are none.
  const std::string& scratch_directory() const { return scratch_directory_; }

  absl::Status CreateMount(const internal::CreateMount& mount);
  // `record`: what a front that replaces this one is given back.
  absl::Status AttachMount(const std::string& record);

  // The slot is a mount now and outlives this object.
  void Keep() { kept_ = true; }

 private:
  Slot(BrokerLink& broker, internal::PathFacts facts)
      : broker_(broker), id_(facts.slot_id()), facts_(std::move(facts)) {}

  BrokerLink& broker_;
  const uint64_t id_;
  const internal::PathFacts facts_;
  std::shared_ptr<WorkerLink> worker_;
  int worker_pid_ = 0;
  std::string scratch_directory_;
  bool kept_ = false;
};

// Has the broker end whatever there is of a slot, and waits until its worker is gone. Staged edits are thrown away.
void ReleaseSlot(BrokerLink& broker, uint64_t slot_id);

// The same, but staged edits, where there are any, are kept for a remount. `record` as of AttachMount; empty: as it
// was.
void ReleaseSlotKeepingStaging(BrokerLink& broker, uint64_t slot_id, const std::string& record);

}  // namespace dismd

#endif  // DAEMON_FRONT_SLOT_H_
