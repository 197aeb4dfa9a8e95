// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/request_monitor.h"

#include "absl/time/clock.h"

namespace dismd {

void RequestMonitor::Report(const libmount::ProgressUpdate& update) {
  bool new_phase = update.phase != last_phase_;
  bool finished = update.bytes_total != 0 && update.bytes_done >= update.bytes_total && last_done_ < update.bytes_total;
  absl::Time now = absl::Now();
  if (!new_phase && !finished && now < next_) return;
  next_ = now + absl::Seconds(1) / kMessagesPerSecond;
  last_phase_ = update.phase;
  last_done_ = update.bytes_done;

  internal::WorkerToFront message;
  message.set_request_id(request_id_);
  message.mutable_progress()->set_phase(static_cast<int>(update.phase));
  message.mutable_progress()->set_bytes_done(update.bytes_done);
  message.mutable_progress()->set_bytes_total(update.bytes_total);
  link_->Send(message);
}

}  // namespace dismd
