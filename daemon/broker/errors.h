// SPDX-License-Identifier: GPL-3.0-or-later
//
// absl::Status to and from the Error message that crosses the borders between processes.

#ifndef DAEMON_BROKER_ERRORS_H_
#define DAEMON_BROKER_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/reason.h"

namespace dismd {

inline void SetError(const absl::Status& status, internal::Error* error) {
  error->set_reason(static_cast<int>(libmount::ReasonOf(status)));
  error->set_message(std::string(status.message()));
}

}  // namespace dismd

#endif  // DAEMON_BROKER_ERRORS_H_
