// SPDX-License-Identifier: GPL-3.0-or-later
//
// FakeBroker: plays the broker, and workers, to a front in the same process. Tests say what is found at paths, hold
// answers back, and see what is left.

#ifndef TESTS_UNIT_FRONT_FAKE_BROKER_H_
#define TESTS_UNIT_FRONT_FAKE_BROKER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// The names of requests, for Hold, WaitFor and journal: "inspect", "resolve", "start", "create", "attach", "unmount",
// "release", "closed", "ready", "stop-done", "abandon"; of a worker's: "open", "check", "info", "stats", "budget",
// "commit", "suspend", "renew".
class FakeBroker {
 public:
  FakeBroker();
  ~FakeBroker();

  // The front's end of the socket.
  libmount::UniqueFd TakeFrontEnd() { return std::move(front_end_); }
  void SendToFront(const internal::BrokerToFront& message, libmount::UniqueFd fd = {});
  // Has a client connect; the result is its end.
  libmount::UniqueFd Connect(uint64_t connection_id, uint32_t uid);
  // The broker dies.
  void Hangup();

  // What is found at paths. A slot id is filled in.
  std::function<internal::PathFacts(const internal::InspectPaths&)> facts = [](const auto& paths) {
    return GoodFacts(paths);
  };
  std::function<internal::PathsResolved(const std::string& path)> resolve = [](const std::string& path) {
    internal::PathsResolved resolved;
    resolved.set_real_path(path);
    return resolved;
  };
  // What the image is; an error fails OpenImage (or CheckIntegrity).
  internal::ImageOpened opened;
  libmount::Reason open_error = libmount::Reason::kUnspecified;
  libmount::Reason check_error = libmount::Reason::kUnspecified;
  internal::Committed committed;  // what a commit came to
  bool marks_serving = true;
  std::set<std::string> failing;  // requests that are answered with OUT_OF_RESOURCES
  static internal::PathFacts GoodFacts(const internal::InspectPaths& paths);

  void SetBusy(uint64_t slot, bool busy);

  // Requests of this name are not answered until Release (or until they are abandoned: then with CANCELLED).
  void Hold(const std::string& name);
  void Release(const std::string& name);
  // Waits until a request of this name has come (`count` of them in all).
  void WaitFor(const std::string& name, size_t count = 1);

  void SendFromWorker(uint64_t slot, const internal::WorkerToFront& message);
  void KillWorker(uint64_t slot);

  std::vector<std::string> journal();
  size_t slots();
  internal::StopDone stop_done();
  uint64_t last_budget(uint64_t slot);
  std::string record(uint64_t slot);
  // What the front has saved of an operation; these requests are not in the journal.
  std::string operation(const std::string& id);

 private:
  struct FakeWorker {
    explicit FakeWorker(libmount::UniqueFd end) : channel(std::move(end)) {}
    Channel channel;
    absl::Mutex joining;  // a worker that is killed is released at the same time
    std::thread thread ABSL_GUARDED_BY(joining);
    uint64_t budget = 0;
  };
  struct FakeSlot {
    std::shared_ptr<FakeWorker> worker;
    bool busy = false;
    std::string record;
  };

  void Run();
  void JoinThreads();
  void Serve(const internal::FrontToBroker& request);
  void SaveOperation(const internal::FrontToBroker& request);
  void RunWorker(const std::shared_ptr<FakeWorker>& worker);
  void AnswerWorkerRequest(FakeWorker& worker, const internal::FrontToWorker& request);
  void Note(const std::string& name, uint64_t request_id = 0);  // and waits while it is held
  void Reply(internal::BrokerReply reply, libmount::UniqueFd fd = {});
  static void EndWorker(const std::shared_ptr<FakeWorker>& worker);

  libmount::UniqueFd front_end_;
  std::unique_ptr<Channel> channel_;
  std::thread thread_;

  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::string> held_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> abandoned_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> journal_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, FakeSlot> slots_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> operations_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_slot_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  internal::StopDone stop_done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // TESTS_UNIT_FRONT_FAKE_BROKER_H_
