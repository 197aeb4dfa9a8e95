// SPDX-License-Identifier: GPL-3.0-or-later
//
// dismd: see help.cc for what it does, broker.h for how.

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

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

// Where this program was started from, and where an upgrade has put its successor.
std::string InstalledPath() {
  constexpr std::string_view kDeleted = " (deleted)";
  std::string path = OwnPath();
  if (path.ends_with(kDeleted)) path.resize(path.size() - kDeleted.size());
  return path;
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
  absl::Status stopped;
  bool hand_over;
  {
    dismd::Broker broker(parsed->options);
    absl::Status started = broker.Start();
    if (!started.ok()) return Fail(kExitFailed, started);
    stopped = broker.Run();
    hand_over = broker.handing_over();
  }
  // The program that is installed now, under the same process id: what watches over us need not notice.
  if (hand_over) dismd::RestoreNotify();
  if (hand_over) execv(InstalledPath().c_str(), argv);
  if (hand_over) return Fail(kExitFailed, absl::ErrnoToStatus(errno, "cannot start dismd again"));
  return stopped.ok() ? 0 : Fail(kExitFailed, stopped);
}
