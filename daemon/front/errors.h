// SPDX-License-Identifier: GPL-3.0-or-later
//
// How failures and times look in the public messages.

#ifndef DAEMON_FRONT_ERRORS_H_
#define DAEMON_FRONT_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "dismd/v1/types.pb.h"

namespace dismd {

v1::OperationError ToOperationError(const absl::Status& status);
absl::Status FromOperationError(const v1::OperationError& error);

// The same for a call's status, with a message that fits into its trailers.
v1::OperationError ToCallError(const absl::Status& status);

// What goes into the "grpc-status-details-bin" trailer: a serialized google.rpc.Status with one ErrorReason.
std::string ToErrorDetails(const absl::Status& status);

void SetTimestamp(absl::Time time, google::protobuf::Timestamp* out);

}  // namespace dismd

#endif  // DAEMON_FRONT_ERRORS_H_
