// SPDX-License-Identifier: GPL-3.0-or-later
//
// dismd-worker: serves one mount. Started by dismd only, with descriptors for everything that it may touch (sandbox.h).
//
//   dismd-worker --mount-id=ID --operation-id=ID [--adoptable]
//   dismd-worker --spare     waits until it is told these (spare.h)

#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "daemon/worker/opened_disk.h"
#include "daemon/worker/opened_wim.h"
#include "daemon/worker/sandbox.h"
#include "daemon/worker/spare.h"
#include "daemon/worker/worker.h"
#include "libmount/base/log.h"
#include "libmount/wim/wim_file.h"

#if defined(__SANITIZE_ADDRESS__)
// The leak checker would trace the process, which the sandbox forbids.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

namespace {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

// Each further heap costs its own free memory; the threads of a worker seldom allocate at once.
constexpr int kHeaps = 2;

libmount::LogContext ParseArguments(const std::vector<std::string>& arguments, bool* adoptable) {
  constexpr std::string_view kMountId = "--mount-id=", kOperationId = "--operation-id=";
  libmount::LogContext log;
  log.uid = getuid();
  for (std::string_view argument : arguments) {
    if (argument == "--adoptable") *adoptable = true;
    if (argument.starts_with(kMountId)) log.mount_id = argument.substr(kMountId.size());
    if (argument.starts_with(kOperationId)) log.operation_id = argument.substr(kOperationId.size());
  }
  return log;
}

int Fail(const libmount::LogContext& log, const absl::Status& status) {
  Log(Severity::kError, log, status.ToString());
  return EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  mallopt(M_ARENA_MAX, kHeaps);
#ifdef NDEBUG
  // Debian's Abseil looks for cycles of locks at every Lock: right for tests, too dear for each request of a mount.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  absl::StatusOr<std::vector<std::string>> arguments = dismd::AwaitArguments(argc, argv);
  if (!arguments.ok()) {
    libmount::InitLogging("worker");
    return Fail({}, arguments.status());
  }
  bool adoptable = false;
  libmount::LogContext log = ParseArguments(*arguments, &adoptable);
  bool with_staging = false;
  absl::Status checked = dismd::CheckDescriptors(&with_staging);
  libmount::InitLogging("worker");  // behind the check, which closes what it does not know
  if (!checked.ok()) return Fail(log, checked);

  dismd::WorkerOptions options;
  options.control = UniqueFd(dismd::kControlFd);
  options.broker = UniqueFd(dismd::kBrokerFd);
  options.image = UniqueFd(dismd::kImageFd);
  if (with_staging) options.staging = UniqueFd(dismd::kStagingFd);
  options.log = log;
  options.open_image = [](dismd::ImageSource source, libmount::OperationMonitor& monitor) {
    if (absl::EndsWithIgnoreCase(source.name, ".vhd") || absl::EndsWithIgnoreCase(source.name, ".vhdx")) {
      return dismd::OpenedDisk::Open(std::move(source), monitor);
    }
    return dismd::OpenedWim::Open(std::move(source), &libmount::WimFile::Open, monitor);
  };
  // Never destroyed: a thread may be waiting for a file system that does not answer, and the process can end without
  // it.
  auto* worker = new dismd::Worker(std::move(options));
  if (absl::Status status = dismd::EnterSandbox(with_staging, adoptable); !status.ok()) return Fail(log, status);
  if (absl::Status status = worker->Run(); !status.ok()) return Fail(log, status);
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) { _exit(Main(argc, argv)); }
