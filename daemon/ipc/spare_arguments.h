// SPDX-License-Identifier: GPL-3.0-or-later
//
// The argument that tells a worker to wait until it is told whose it is.

#ifndef DAEMON_IPC_SPARE_ARGUMENTS_H_
#define DAEMON_IPC_SPARE_ARGUMENTS_H_

#include <string>
#include <string_view>

namespace dismd {

inline constexpr std::string_view kSpareWorker = "--spare";

// With room behind it for the command line that ps is to show later.
inline std::string SpareArgument() {
  constexpr size_t kRoom = 160;
  std::string argument(kSpareWorker);
  argument.resize(kRoom, ' ');
  return argument;
}

inline bool IsSpareArgument(std::string_view argument) { return argument.starts_with(kSpareWorker); }

}  // namespace dismd

#endif  // DAEMON_IPC_SPARE_ARGUMENTS_H_
