// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/options.h"

#include <unistd.h>

#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dismd {
namespace {

constexpr char kSystemSocket[] = "/run/dismd/dismd.sock";
constexpr char kSystemStateDir[] = "/var/lib/dismd";

absl::Status SetDefaults(BrokerOptions* options,
                         const std::function<std::optional<std::string>(const char*)>& environment) {
  if (!options->rootless) {
    if (options->socket_path.empty()) options->socket_path = kSystemSocket;
    if (options->state_dir.empty()) options->state_dir = kSystemStateDir;
    return absl::OkStatus();
  }
  if (options->socket_path.empty()) {
    std::optional<std::string> runtime_dir = environment("XDG_RUNTIME_DIR");
    if (!runtime_dir.has_value() || runtime_dir->empty()) {
      return absl::InvalidArgumentError(
          "XDG_RUNTIME_DIR is not set; say where the socket should be with --socket PATH");
    }
    options->socket_path = *runtime_dir + "/dismd/dismd.sock";
  }
  if (options->state_dir.empty()) {
    std::optional<std::string> state_home = environment("XDG_STATE_HOME");
    std::optional<std::string> home = environment("HOME");
    if (state_home.has_value() && !state_home->empty()) {
      options->state_dir = *state_home + "/dismd";
    } else if (home.has_value() && !home->empty()) {
      options->state_dir = *home + "/.local/state/dismd";
    } else {
      return absl::InvalidArgumentError(
          "neither XDG_STATE_HOME nor HOME is set; say where state should be kept with --state-dir DIR");
    }
  }
  return absl::OkStatus();
}

absl::Status SetOption(BrokerOptions* options, std::string_view name, const std::string& value) {
  int64_t number;
  if (name == "--socket") {
    options->socket_path = value;
  } else if (name == "--state-dir") {
    options->state_dir = value;
  } else if (name == "--user") {
    options->front_user = value;
  } else if (name == "--parents") {
    options->parent_directories.push_back(value);
  } else if (name == "--grace") {
    if (!absl::SimpleAtoi(value, &number) || number < 0 || number > kMaxGrace.count()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--grace takes a number of seconds from 0 to ", kMaxGrace.count(), ", not \"", value, "\""));
    }
    options->grace = std::chrono::seconds(number);
#ifdef DISMD_TEST_SEAMS
  } else if (name == "--test-path-deadline-ms") {
    if (!absl::SimpleAtoi(value, &number) || number < 1) return absl::InvalidArgumentError("bad deadline");
    options->path_deadline = std::chrono::milliseconds(number);
  } else if (name == "--test-front") {
    options->front_program = value;
  } else if (name == "--test-worker") {
    options->worker_program = value;
#endif
  } else {
    return absl::InvalidArgumentError(absl::StrFormat("unknown option %s; see dismd --help", name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ParsedOptions> ParseOptions(absl::Span<const char* const> arguments, bool rootless,
                                           const std::function<std::optional<std::string>(const char*)>& environment) {
  ParsedOptions parsed;
  parsed.options.rootless = rootless;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (argument == "--help" || argument == "-h") return ParsedOptions{OptionsAction::kHelp, {}};
    if (argument == "--version") return ParsedOptions{OptionsAction::kVersion, {}};
    if (argument == "--foreground") continue;  // there is no other way to run; accepted for clarity in scripts
    if (argument == "--verbose") {
      parsed.options.verbose = true;
      continue;
    }
    if (!argument.starts_with("--")) {
      return absl::InvalidArgumentError(absl::StrFormat("unexpected argument \"%s\"; see dismd --help", argument));
    }
    size_t equals = argument.find('=');
    std::string value;
    if (equals != std::string_view::npos) {
      value = argument.substr(equals + 1);
      argument = argument.substr(0, equals);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    } else {
      // An unknown option is told as such, not as one that lacks its value.
      absl::Status known = SetOption(&parsed.options, argument, "0");
      if (!known.ok()) return known;
      return absl::InvalidArgumentError(absl::StrFormat("%s needs a value; see dismd --help", argument));
    }
    absl::Status set = SetOption(&parsed.options, argument, value);
    if (!set.ok()) return set;
  }
  absl::Status defaults = SetDefaults(&parsed.options, environment);
  if (!defaults.ok()) return defaults;
  std::vector<std::string> paths = parsed.options.parent_directories;
  paths.insert(paths.end(), {parsed.options.socket_path, parsed.options.state_dir});
  for (const std::string& path : paths) {
    if (!path.starts_with('/')) {
      return absl::InvalidArgumentError(absl::StrCat("not an absolute path: \"", path, "\""));
    }
  }
  if (rootless && !parsed.options.front_user.empty()) {
    return absl::InvalidArgumentError(
        "--user is for a dismd run by root: an ordinary user's dismd has only its own user");
  }
  return parsed;
}

absl::StatusOr<std::string> FindProgram(const std::string& own_path, const std::string& name) {
  std::string directory = own_path.substr(0, own_path.rfind('/'));
  std::string beside = absl::StrCat(directory, "/", name);
  std::string libexec = absl::StrCat(directory, "/../libexec/dismd/", name);
  for (const std::string& candidate : {beside, libexec}) {
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return absl::NotFoundError(
      absl::StrCat("the program ", name, " is neither ", beside, " nor ", libexec, "; install it beside dismd"));
}

}  // namespace dismd
