// SPDX-License-Identifier: GPL-3.0-or-later
//
// The command line of dismd, parsed once into a struct.

#ifndef DAEMON_BROKER_OPTIONS_H_
#define DAEMON_BROKER_OPTIONS_H_

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace dismd {

// How long one step on a caller's file system may take before the caller is told PATH_TIMED_OUT.
inline constexpr std::chrono::milliseconds kDefaultPathDeadline{10'000};
// How long SIGTERM waits for mounts that are in use.
inline constexpr std::chrono::seconds kDefaultGrace{10};
inline constexpr std::chrono::seconds kMaxGrace{3600};

struct BrokerOptions {
  std::string socket_path;
  std::string state_dir;
  std::string front_user;                       // empty: the user "dismd" where there is one, else kFrontUid
  std::vector<std::string> parent_directories;  // where parents of differencing disks may lie, too
  std::chrono::milliseconds grace = kDefaultGrace;
  std::chrono::milliseconds path_deadline = kDefaultPathDeadline;
  std::string front_program;   // empty: found beside dismd or in libexec
  std::string worker_program;  // likewise
  bool rootless = false;       // not run by root: no identities but our own, mounts by fusermount3
  bool verbose = false;
};

// What to do instead of serving: print and end.
enum class OptionsAction { kServe, kHelp, kVersion };

struct ParsedOptions {
  OptionsAction action = OptionsAction::kServe;
  BrokerOptions options;
};

// Parses the arguments without the program's name. `rootless` chooses the defaults; `environment` looks up a variable.
// An error is worth exit code 2; its message is complete.
absl::StatusOr<ParsedOptions> ParseOptions(absl::Span<const char* const> arguments, bool rootless,
                                           const std::function<std::optional<std::string>(const char*)>& environment);

// The manual that --help prints.
const char* HelpText();

// Where a program of the service is: beside `own_path`, else in PREFIX/libexec/dismd. NOT_FOUND names both places.
absl::StatusOr<std::string> FindProgram(const std::string& own_path, const std::string& name);

}  // namespace dismd

#endif  // DAEMON_BROKER_OPTIONS_H_
