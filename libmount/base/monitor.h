// SPDX-License-Identifier: GPL-3.0-or-later
//
// OperationMonitor: how a long call tells how far it is, and learns that it is no longer wanted.
//
// Code that works for long (opening an image, checking integrity, later committing) takes a monitor, reports through
// it, and asks it between steps of at most a few milliseconds whether it should go on.

#ifndef LIBMOUNT_BASE_MONITOR_H_
#define LIBMOUNT_BASE_MONITOR_H_

#include <cstdint>

#include "absl/status/status.h"

namespace libmount {

// What is being done. Numbers are those of dismd.v1.Phase.
enum class Phase : int {
  kUnspecified = 0,
  kOpening = 1,             // paths are checked, the image's header, tables and XML are read
  kCheckingIntegrity = 2,   // the whole file is hashed and compared with its integrity table
  kReadingMetadata = 3,     // the image's directory tree is read
  kMounting = 4,            // the kernel mount is made and attached
  kUnmounting = 5,
  kCommitting = 6,
  kWaiting = 7,             // a commit waits for another one of the same file
  kRebuilding = 8,          // the whole file is written anew
  kRecovering = 9,          // staged edits are read back and checked
};

struct ProgressUpdate {
  Phase phase = Phase::kUnspecified;
  // Bytes of work in this phase; total is 0 while unknown.
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
};

class OperationMonitor {
 public:
  virtual ~OperationMonitor() = default;

  // Cheap enough to be called for each MiB; the receiver thins out. Called from one thread at a time.
  virtual void Report(const ProgressUpdate& update) = 0;

  // True once the operation should stop; stays true. Thread-safe, a load.
  virtual bool cancelled() const = 0;
};

// A monitor for callers that neither watch nor cancel.
class NullMonitor final : public OperationMonitor {
 public:
  void Report(const ProgressUpdate&) override {}
  bool cancelled() const override { return false; }
};

// OK, or a kCancelled error once the monitor is cancelled.
absl::Status CheckCancelled(const OperationMonitor& monitor);

}  // namespace libmount

#endif  // LIBMOUNT_BASE_MONITOR_H_
