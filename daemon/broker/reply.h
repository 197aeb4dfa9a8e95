// SPDX-License-Identifier: GPL-3.0-or-later
//
// Small helpers for answering the front.

#ifndef DAEMON_BROKER_REPLY_H_
#define DAEMON_BROKER_REPLY_H_

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/broker/child.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/slots.h"

namespace dismd {

inline void ReplyError(const Reply& reply, const internal::Error& error) {
  internal::BrokerReply message;
  *message.mutable_error() = error;
  reply(std::move(message), {});
}

inline void ReplyError(const Reply& reply, const absl::Status& status) {
  internal::Error error;
  SetError(status, &error);
  ReplyError(reply, error);
}

// What became of a child, as far as it is not an answer. `path` is what it worked on.
inline absl::Status StatusOf(const ChildOutcome& outcome, const std::string& path) {
  using libmount::MakeError;
  using libmount::Reason;
  switch (outcome.end) {
    case ChildOutcome::End::kAnswered: return absl::OkStatus();
    case ChildOutcome::End::kTimedOut:
      return MakeError(Reason::kPathTimedOut, absl::StrCat("the file system of ", path, " does not answer"));
    case ChildOutcome::End::kRefused:
      return MakeError(
          Reason::kTooManyOperations,
          absl::StrCat("too many steps on this user's file systems wait already; ", path, " is not tried"));
    case ChildOutcome::End::kAbandoned: return MakeError(Reason::kCancelled, "cancelled");
    case ChildOutcome::End::kFailed: break;
  }
  return MakeError(Reason::kOutOfResources, absl::StrCat("a child process for ", path, " could not do its work"));
}

}  // namespace dismd

#endif  // DAEMON_BROKER_REPLY_H_
