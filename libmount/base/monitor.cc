// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/base/monitor.h"

#include "libmount/base/reason.h"

namespace libmount {

absl::Status CheckCancelled(const OperationMonitor& monitor) {
  if (monitor.cancelled()) return MakeError(Reason::kCancelled, "the operation was cancelled");
  return absl::OkStatus();
}

}  // namespace libmount
