// SPDX-License-Identifier: Apache-2.0
//
// ProgressView: an operation's progress on stderr. On a terminal one line that is drawn again and again:
//
//   checking integrity  [#########           ]  42%  1.2 GiB of 2.9 GiB  310 MiB/s  0:05 left
//
// elsewhere a plain line for each phase.

#ifndef CLIENT_DISMCTL_PROGRESS_VIEW_H_
#define CLIENT_DISMCTL_PROGRESS_VIEW_H_

#include <chrono>
#include <string>

#include "dismd/v1/types.pb.h"

namespace dismd {

class ProgressView {
 public:
  using Clock = std::chrono::steady_clock;

  explicit ProgressView(bool is_terminal) : is_terminal_(is_terminal) {}
  // Takes the bar off the terminal.
  ~ProgressView();

  void Show(const v1::Progress& progress);

  // The text of the line, without control sequences; `now` is when `progress` came.
  std::string Line(const v1::Progress& progress, Clock::time_point now);

 private:
  const bool is_terminal_;
  bool drawn_ = false;
  v1::Phase phase_ = v1::PHASE_UNSPECIFIED;
  uint64_t bytes_at_start_ = 0;  // of the phase, when it was first seen
  Clock::time_point phase_start_;
};

}  // namespace dismd

#endif  // CLIENT_DISMCTL_PROGRESS_VIEW_H_
