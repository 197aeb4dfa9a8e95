// SPDX-License-Identifier: GPL-3.0-or-later
//
// RequestMonitor: carries the progress of one request to the front, at most kMessagesPerSecond times a second, and a
// cancel to the work.
//
// Thread safety: as OperationMonitor says; Cancel and BeFor from any thread.

#ifndef DAEMON_WORKER_REQUEST_MONITOR_H_
#define DAEMON_WORKER_REQUEST_MONITOR_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "daemon/worker/control_link.h"
#include "libmount/base/monitor.h"

namespace dismd {

class RequestMonitor final : public libmount::OperationMonitor {
 public:
  static constexpr int kMessagesPerSecond = 20;

  // `link` must outlive the monitor.
  RequestMonitor(uint64_t request_id, ControlLink* link) : request_id_(request_id), link_(link) {}

  uint64_t request_id() const { return request_id_; }
  // The work is for another request from now on: one of a front that has taken over.
  void BeFor(uint64_t request_id) { request_id_ = request_id; }
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

  // The first and last of a phase always go out; others when the last one is long enough ago.
  void Report(const libmount::ProgressUpdate& update) override;
  bool cancelled() const override { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> request_id_;
  ControlLink* const link_;
  std::atomic<bool> cancelled_{false};
  libmount::Phase last_phase_ = libmount::Phase::kUnspecified;
  uint64_t last_done_ = 0;
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace dismd

#endif  // DAEMON_WORKER_REQUEST_MONITOR_H_
