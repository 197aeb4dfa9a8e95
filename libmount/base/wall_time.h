// SPDX-License-Identifier: GPL-3.0-or-later
//
// WallTime: absl::Now() for processes that have only just begun. The first absl::Now() of a process (and the first wait
// with a timeout, rather than a deadline) measures the frequency of the CPU's cycle counter, asleep for 3 ms, and who
// waits for a lock that the caller holds waits along: a quarter of what a mount takes.

#ifndef LIBMOUNT_BASE_WALL_TIME_H_
#define LIBMOUNT_BASE_WALL_TIME_H_

#include <time.h>

#include "absl/time/time.h"

namespace libmount {

inline absl::Time WallTime() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return absl::TimeFromTimespec(now);
}

}  // namespace libmount

#endif  // LIBMOUNT_BASE_WALL_TIME_H_
