// SPDX-License-Identifier: GPL-3.0-or-later
//
// What of a service's log goes into the output of a failed test, of which often only the end is seen.

#ifndef TESTS_INTEGRATION_END_OF_LOG_H_
#define TESTS_INTEGRATION_END_OF_LOG_H_

#include <string>

namespace dismd {

// The last 30 lines of `log`.
inline std::string EndOfLog(const std::string& log) {
  constexpr int kLines = 30;
  size_t begin = log.size();
  for (int lines = 0; begin > 0; --begin) {
    // The last line has its end behind it.
    if (log[begin - 1] == '\n' && begin != log.size() && ++lines == kLines) break;
  }
  return "\nend of the service's log:\n" + log.substr(begin);
}

}  // namespace dismd

#endif  // TESTS_INTEGRATION_END_OF_LOG_H_
