// SPDX-License-Identifier: Apache-2.0
//
// CallStatus: how a call to the service ended, gRPC left out. An error is a gRPC code, the service's reason where it
// gave one (or the client found the same fault itself), and a message for people.

#ifndef CLIENT_COMMON_CALL_STATUS_H_
#define CLIENT_COMMON_CALL_STATUS_H_

#include <map>
#include <string>
#include <utility>

#include "dismd/v1/errors.pb.h"

namespace dismd {

// The gRPC codes that decide something here; their numbers are gRPC's.
enum class Code : int {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
};

class CallStatus {
 public:
  CallStatus() = default;  // success
  CallStatus(Code code, v1::Reason reason, std::string message)
      : code_(code), reason_(reason), message_(std::move(message)) {}

  // Of a gRPC call's trailers: grpc-status, grpc-message, and the ErrorReason out of grpc-status-details-bin.
  static CallStatus FromTrailers(const std::map<std::string, std::string>& trailers);

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  v1::Reason reason() const { return reason_; }
  const std::string& message() const { return message_; }

  bool cancelled() const { return reason_ == v1::CANCELLED || (!reason_ && code_ == Code::kCancelled); }
  // The service is not there (any more).
  bool unavailable() const { return reason_ == v1::SHUTTING_DOWN || (!reason_ && code_ == Code::kUnavailable); }

 private:
  Code code_ = Code::kOk;
  v1::Reason reason_ = v1::REASON_UNSPECIFIED;
  std::string message_;
};

inline CallStatus InvalidPath(std::string message) {
  return CallStatus(Code::kInvalidArgument, v1::INVALID_PATH, std::move(message));
}

inline CallStatus CancelledStatus(std::string message) {
  return CallStatus(Code::kCancelled, v1::CANCELLED, std::move(message));
}

}  // namespace dismd

#endif  // CLIENT_COMMON_CALL_STATUS_H_
