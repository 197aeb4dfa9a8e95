// SPDX-License-Identifier: GPL-3.0-or-later
//
// A worker that was started before anybody needed it (daemon/broker/spare_worker.h), and becomes somebody's.
//
// Until then it may be root's process. It holds one socket, from which it takes one message of the broker; it has then
// the user, the descriptors and the command line of a worker that was started for that mount, and nothing else.
//
// Thread safety: called once, before threads.

#ifndef DAEMON_WORKER_SPARE_H_
#define DAEMON_WORKER_SPARE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dismd {

// The command line, without the program's name: of a spare worker what it is given when it is needed, of another one
// its own. Ends the process where the broker ends before a spare one is needed.
absl::StatusOr<std::vector<std::string>> AwaitArguments(int argc, char** argv);

}  // namespace dismd

#endif  // DAEMON_WORKER_SPARE_H_
