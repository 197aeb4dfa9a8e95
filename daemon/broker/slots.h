// SPDX-License-Identifier: GPL-3.0-or-later
//
// Slots: what the broker holds for each image being mounted, and the steps that it takes for the front.
//
//   InspectPaths ─► StartWorker ─► CreateMount ─► AttachMount ─► Unmount ─► ReleaseSlot
//   (descriptors)   (process)      (/dev/fuse)     (visible)      (gone)     (nothing left)
//
// A worker that dies under a mount is replaced (slots_worker.cc). A read-write mount whose edits are kept when it goes
// becomes a dormant one: a record and a staging directory (slots_dormant.cc, slots_staging.cc).
//
// ReleaseSlot may come at any point. Requests for one slot run one after the other, in the order they came; those for
// different slots do not wait for each other. A request is answered exactly once, through its `reply`.
//
// The front is not trusted with more than it needs: a slot acts for the identity that it was made for, and what matters
// for safety is checked here again.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_SLOTS_H_
#define DAEMON_BROKER_SLOTS_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/broker/child.h"
#include "daemon/broker/event_loop.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/message_queue.h"
#include "daemon/broker/options.h"
#include "daemon/broker/process.h"
#include "daemon/broker/records.h"
#include "daemon/broker/spare_worker.h"
#include "daemon/broker/staging_store.h"
#include "daemon/broker/unmount.h"
#include "dismd/internal/broker.pb.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/log.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

inline constexpr size_t kMaxSlots = 4096;
inline constexpr size_t kMaxRequestsWaiting = 16;  // for one slot
// How often a worker may ask for a file beside its image: a split set has at most 999 parts, each tried once or twice.
inline constexpr int kMaxSiblingRequests = 4096;
inline constexpr size_t kMaxRegistryRecord = size_t{64} << 10;
inline constexpr size_t kMaxMountIdLength = 64;
// How long a killed worker's end is waited for. One that the kernel does not let go (a read from a file system that
// does not answer) is left behind, and named in the log.
inline constexpr std::chrono::milliseconds kWorkerExitDeadline{5'000};

// A mount is given up when so many workers have died in a row without having answered a single request of the kernel.
inline constexpr int kMaxFruitlessDeaths = 5;
inline constexpr size_t kMaxServingState = size_t{64} << 10;

using Reply = std::function<void(internal::BrokerReply reply, std::vector<libmount::UniqueFd> fds)>;

class Slots {
 public:
  struct Events {
    std::function<void(uint64_t slot_id, int status)> worker_exited;  // and is not replaced
    std::function<void(uint64_t slot_id, int pid, libmount::UniqueFd control)> worker_replaced;
    std::function<void(uint64_t slot_id)> mount_gone;
  };

  Slots(EventLoop* loop, const BrokerOptions* options, const RecordStore* records, const StagingStore* staging,
        Events events);
  ~Slots();
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  // The two requests that are about a connection; the others are about a slot.
  // `request_id`, unless 0, is for Abandon.
  void InspectPaths(const internal::Identity& caller, uint64_t request_id, const internal::InspectPaths& request,
                    Reply reply);
  void ResolvePath(const internal::Identity& caller, uint64_t request_id, const internal::ResolvePath& request,
                   Reply reply);
  // As the owner of the dormant mount that the request names.
  void InspectDormant(uint64_t request_id, const internal::InspectPaths& request, Reply reply);
  // Answers one of these two with CANCELLED now, if it is not answered yet.
  void Abandon(uint64_t request_id) { children_.Abandon(request_id); }
  // StartWorker, CreateMount, AttachMount, Unmount, ReleaseSlot.
  void Handle(const internal::FrontToBroker& request, Reply reply);

  // A front has died: releases what is not mounted, nor held for a commit.
  void ReleaseUnfinished();
  // A front was started: gives each mount's worker a new control socket, and calls `tell` with what the front must
  // know.
  void Introduce(const std::function<void(const internal::KnownSlot&, std::vector<libmount::UniqueFd>)>& tell);

  // Starts a worker beforehand, for the next mount, unless one is there. Done by itself when a mount is complete, or
  // given up.
  void PrepareWorker() {
    if (!when_empty_) spare_.Prepare();
  }

  // Detaches and aborts every mount, and ends every worker, naming each mount in the log; `done` when nothing is left.
  void DetachAll(std::function<void()> done);
  bool empty() const { return slots_.empty(); }
  // A hand-over: lets go of everything without ending anything, for the next broker to adopt.
  void LetGo();

  // Adopts the mounts that a dead broker's records tell of, where their workers live; takes away the others, keeping
  // staged edits. `done` when that is over.
  void TakeOver(std::function<void()> done);

 private:
  enum class State {
    kInspected,  // descriptors only
    kCreated,    // a kernel mount that is not visible
    kMounted,    // visible (its worker may have died)
    kUnmounted,
  };

  struct Pending {
    internal::FrontToBroker request;
    Reply reply;
  };

  struct Slot {
    uint64_t id = 0;
    State state = State::kInspected;
    internal::Identity owner;
    internal::SlotRecord record;  // paths, mount, worker: also what is told to a new front
    std::string mount_name;
    libmount::UniqueFd image, image_directory, mount_point, mount_parent;
    libmount::UniqueFd staging;
    bool keep_staging = false;          // when the slot goes
    bool held = false;                  // once unmounted, for a commit: also when the front dies
    uint64_t remounted_from = 0;        // the id of the dormant record that it takes the place of, once it is mounted
    libmount::UniqueFd fuse;            // keeps the connection alive beside the worker's
    libmount::UniqueFd detached_mount;  // parked, until it is attached
    // Of a mount that is served: what a replacement of its worker needs.
    libmount::UniqueFd recovery;
    std::string operation_id;
    int fruitless_deaths = 0;
    uint64_t answered = 0;  // requests, when the last worker died
    Process worker;
    std::unique_ptr<MessageQueue> worker_queue;
    int sibling_requests = 0;
    bool replacing = false;          // its image file, by another one (slots_image.cc)
    bool image_unknown = false;      // which one of the two it is: nobody can take the worker's place
    std::optional<int> exit_status;  // of the worker that died meanwhile
    bool busy = false;               // with a step; further requests wait
    std::deque<Pending> waiting;
    bool release_unless_mounted = false;  // after this step: the front that began it has died
    std::function<void()> when_worker_ended;
    std::optional<EventLoop::TimerId> worker_exit_timer;
  };

  Slot* Find(uint64_t id);
  libmount::LogContext ContextOf(const Slot& slot) const;
  std::vector<OwnMount> OwnMounts() const;

  void Begin(Slot* slot, Pending pending);
  void UpdateRecord(Slot* slot, const internal::UpdateRecord& request, const Reply& reply);
  void EndStep(uint64_t slot_id);  // the next request's turn

  // `dormant`: that of the mount it is about, if it needs a remount.
  void Inspect(const internal::Identity& caller, uint64_t request_id, const internal::InspectPaths& request,
               const internal::SlotRecord* dormant, const Reply& reply);
  void OnInspected(const internal::Identity& caller, const internal::InspectAnswer& answer, ChildOutcome outcome,
                   const Reply& reply);
  void StartWorker(Slot* slot, const internal::StartWorker& request, const Reply& reply);
  void StartWorkerNow(Slot* slot, const Reply& reply);
  // The front's end of its control socket.
  absl::StatusOr<libmount::UniqueFd> StartWorkerProcess(Slot* slot);
  void WatchWorker(Slot* slot, libmount::UniqueFd socket);
  bool IsReplaceableNow(const Slot& slot) const;
  bool IsReplaceable(Slot* slot) const;
  bool ReplaceWorker(Slot* slot);
  static uint64_t AnsweredRequests(int recovery_fd);
  void OnServingState(Slot* slot, const internal::ServingState& state, std::vector<libmount::UniqueFd> fds);

  // Staging directories, the service's and those in directories of callers' (slots_staging.cc).
  using StagingDone = std::function<void(const absl::Status&)>;
  void TakeStaging(Slot* slot, const internal::StartWorker& request, const StagingDone& done);
  void TakeDormant(Slot* slot, const std::string& mount_id, const StagingDone& done);
  void MakeScratch(Slot* slot, const std::string& path, const StagingDone& done);
  void ForgetRecord(const Slot& slot);
  void DropStaging(Slot* slot, const std::function<void()>& done);
  void RemoveScratch(internal::SlotRecord record, std::function<void()> done);
  void RemoveStaging(const std::string& mount_id, uint32_t uid, const std::function<void()>& done);

  // Mounts that need a remount.
  void DiscardStaging(const internal::DiscardStaging& request, const Reply& reply);
  void BecomeDormant(Slot* slot);
  void ForgetDormant(uint64_t record_id);
  bool Adopt(const internal::SlotRecord& record);
  void TakeAwayLeftover(const internal::SlotRecord& record, std::function<void()> done);
  void KeepLeftover(internal::SlotRecord record);
  void ForgetStrayStaging();
  void CreateMount(Slot* slot, const internal::CreateMount& request, const Reply& reply);
  void OnCreated(Slot* slot, const internal::CreateAnswer& answer, ChildOutcome outcome, const Reply& reply);
  void AttachMount(Slot* slot, const internal::AttachMount& request, const Reply& reply);
  void OnAttached(Slot* slot, const internal::AttachAnswer& answer, const ChildOutcome& outcome, const Reply& reply);
  void DetachLateMount(const Slot& slot, ChildRunner::Job* job);
  using UnmountDone = std::function<void(const internal::UnmountAnswer&, const absl::Status&)>;
  void Unmount(Slot* slot, bool detach, UnmountDone done);
  void RunUnmount(const UnmountRequest& request, uint32_t uid, UnmountDone done);
  bool IsVisible(const Slot& slot) const;
  static bool IsHeld(const Slot& slot) { return slot.held && slot.state == State::kUnmounted && !slot.busy; }
  void HandleUnmount(Slot* slot, const internal::Unmount& request, const Reply& reply);
  void Release(Slot* slot, std::function<void()> done);
  void QueueRelease(uint64_t slot_id);
  void RunQueuedReleases();
  void EndWorker(Slot* slot, std::function<void()> done);
  void Erase(uint64_t slot_id);
  void MarkUnmounted(Slot* slot);

  void OnWorkerExit(uint64_t slot_id, int status);
  void OnWorkerSocketClosed(uint64_t slot_id);
  void OnWorkerMessage(uint64_t slot_id, const internal::WorkerToBroker& message, std::vector<libmount::UniqueFd> fds);
  void OpenSibling(Slot* slot, const internal::OpenSibling& request);
  absl::Status SetTemporary(Slot* slot, bool temporary);
  void CreateTemporary(Slot* slot, const internal::CreateTemporary& request);
  void ReplaceImage(Slot* slot, const internal::ReplaceImage& request, std::vector<libmount::UniqueFd> fds);
  void OnReplaced(Slot* slot, libmount::UniqueFd file, internal::BrokerToWorker message,
                  const internal::TemporaryAnswer& answer, const ChildOutcome& outcome);
  void DropTemporary(Slot* slot);
  void RemoveTemporary(const internal::SlotRecord& record);

  EventLoop* const loop_;
  const BrokerOptions* const options_;
  const RecordStore* const records_;
  const StagingStore* const staging_;
  const Events events_;
  std::map<uint64_t, std::unique_ptr<Slot>> slots_;
  std::map<std::string, internal::SlotRecord> dormant_;  // by mount id
  std::list<Process> dying_;                             // workers that count as dead already
  SpareWorker spare_;
  uint64_t next_id_ = 1;
  std::vector<uint64_t> to_release_;
  std::function<void()> when_empty_;  // set once everything is being taken away
  ChildRunner children_;              // last: its children's callbacks use the others
};

}  // namespace dismd

#endif  // DAEMON_BROKER_SLOTS_H_
