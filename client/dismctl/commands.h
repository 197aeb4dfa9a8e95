// SPDX-License-Identifier: Apache-2.0
//
// What dismctl does, a function a command.

#ifndef CLIENT_DISMCTL_COMMANDS_H_
#define CLIENT_DISMCTL_COMMANDS_H_

#include <string>

#include "client/dismctl/options.h"

namespace dismd {

// Part of the interface (--help).
enum ExitCode : int { kDone = 0, kFailed = 1, kUsage = 2, kUnavailable = 3, kCancelled = 4 };

// Runs the command. Output goes to stdout, progress and errors to stderr.
int RunCommand(const Options& options, const std::string& program);

}  // namespace dismd

#endif  // CLIENT_DISMCTL_COMMANDS_H_
