// SPDX-License-Identifier: GPL-3.0-or-later
//
// Siblings: files beneath the image's directory, which the sandboxed worker cannot open, make or rename itself: it asks
// the broker.
//
// A request waits on the thread that needs the file; the thread that receives from the broker hands the answer in.
//
// Thread safety: requests from one thread at a time; OnOpened, AskAgain and GiveUp from any other.

#ifndef DAEMON_WORKER_SIBLINGS_H_
#define DAEMON_WORKER_SIBLINGS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/ipc/channel.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class Siblings {
 public:
  // `broker` must outlive the object.
  explicit Siblings(Channel* broker) : broker_(broker) {}

  // kCancelled within milliseconds of the monitor's; kPathTimedOut when the broker does not answer in time.
  absl::StatusOr<libmount::UniqueFd> Open(std::string_view name, const libmount::OperationMonitor& monitor);

  // An empty file in the image's directory, which nobody else knows. kAccessDenied, kOutOfResources.
  absl::StatusOr<libmount::UniqueFd> CreateTemporary(const libmount::OperationMonitor& monitor);
  // Puts the file in the image's place, under its name, owner, mode and attributes. It cannot be cancelled any more. An
  // error says that the image is as it was, but for kPathTimedOut and kShuttingDown: then it is not known.
  absl::Status ReplaceImage(const libmount::UniqueFd& file);
  // Nothing came of the temporary file.
  void DropTemporary();

  // Another broker or front: what is asked may have got lost, and is asked again.
  void AskAgain();

  // An answer of the broker's. One that nobody waits for is dropped, with its descriptor.
  void OnOpened(const internal::OpenedSibling& answer, std::vector<libmount::UniqueFd> fds);

  // The broker has gone: fails the waiting request and all later ones.
  void GiveUp();

 private:
  // Sends the request and waits for the answer. The descriptor is invalid where none is
  // expected.
  absl::StatusOr<libmount::UniqueFd> Ask(internal::WorkerToBroker request, const std::string& what,
                                         const libmount::UniqueFd* fd, const libmount::OperationMonitor& monitor);

  Channel* const broker_;
  absl::Mutex mutex_;
  uint64_t last_request_ ABSL_GUARDED_BY(mutex_) = 0;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool again_ ABSL_GUARDED_BY(mutex_) = false;
  bool expects_file_ ABSL_GUARDED_BY(mutex_) = true;
  std::optional<absl::StatusOr<libmount::UniqueFd>> answer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dismd

#endif  // DAEMON_WORKER_SIBLINGS_H_
