// SPDX-License-Identifier: GPL-3.0-or-later
//
// dismd: see help.cc for what it does, broker.h for how.

#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "daemon/broker/broker.h"
#include "daemon/broker/notify.h"
#include "daemon/broker/options.h"
#include "libmount/base/log.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

std::optional<std::string> Variable(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::string OwnPath() {
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "";
}

absl::Status FindPrograms(dismd::BrokerOptions* options) {
  for (auto [path, name] :
       {std::pair(&options->front_program, "dismd-front"), std::pair(&options->worker_program, "dismd-worker")}) {
    if (!path->empty()) continue;
    absl::StatusOr<std::string> found = dismd::FindProgram(OwnPath(), name);
    if (!found.ok()) return found.status();
    *path = *found;
  }
  return absl::OkStatus();
}

int Fail(int code, const absl::Status& status) {
  std::string message(status.message());
  fprintf(stderr, "dismd: %s\n", message.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  bool rootless = geteuid() != 0;
  auto parsed = dismd::ParseOptions(absl::MakeConstSpan(argv + 1, static_cast<size_t>(argc - 1)), rootless, Variable);
  if (!parsed.ok()) return Fail(kExitUsage, parsed.status());
  if (parsed->action == dismd::OptionsAction::kHelp) return fputs(dismd::HelpText(), stdout) < 0;
  if (parsed->action == dismd::OptionsAction::kVersion) return puts("dismd " DISMD_VERSION) < 0;

  libmount::InitLogging("broker", parsed->options.verbose ? libmount::Severity::kDebug : libmount::Severity::kInfo);
  dismd::InitNotify();
  absl::Status found = FindPrograms(&parsed->options);
  if (!found.ok()) return Fail(kExitFailed, found);
  dismd::Broker broker(parsed->options);
  absl::Status started = broker.Start();
  if (!started.ok()) return Fail(kExitFailed, started);
  absl::Status stopped = broker.Run();
  return stopped.ok() ? 0 : Fail(kExitFailed, stopped);
}
