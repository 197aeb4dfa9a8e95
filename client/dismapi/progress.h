// SPDX-License-Identifier: Apache-2.0
//
// ProgressReporter: an operation's snapshots as calls of a DISM_PROGRESS_CALLBACK. Current never goes backwards, comes
// once for each value, and reaches Total exactly once, when the operation has succeeded.

#ifndef CLIENT_DISMAPI_PROGRESS_H_
#define CLIENT_DISMAPI_PROGRESS_H_

#include <algorithm>

#include "client/dismapi/include/DismAPI.h"
#include "dismd/v1/types.pb.h"

namespace dismd {

class ProgressReporter {
 public:
  // `callback` may be null.
  ProgressReporter(DISM_PROGRESS_CALLBACK callback, PVOID user_data) : callback_(callback), user_data_(user_data) {}

  void Report(const v1::Operation& operation) {
    if (callback_ == nullptr) return;
    UINT current = kTotal;
    if (operation.state() != v1::OPERATION_STATE_SUCCEEDED) {
      const uint64_t total = std::max<uint64_t>(operation.progress().total(), 1);
      current =
          static_cast<UINT>(std::min<uint64_t>(operation.progress().current() * uint64_t{kTotal} / total, kTotal - 1));
    }
    if (reported_ && current <= last_) return;
    reported_ = true;
    last_ = current;
    callback_(current, kTotal, user_data_);
  }

 private:
  // Most clients of DISM draw a bar from 0 to 100 without dividing.
  static constexpr UINT kTotal = 100;

  const DISM_PROGRESS_CALLBACK callback_;
  const PVOID user_data_;
  bool reported_ = false;
  UINT last_ = 0;
};

}  // namespace dismd

#endif  // CLIENT_DISMAPI_PROGRESS_H_
