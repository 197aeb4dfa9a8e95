// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/commands.h"

#include <stdio.h>
#include <unistd.h>

#include <chrono>

#include "client/common/paths.h"
#include "client/common/service.h"
#include "client/dismctl/format.h"
#include "client/dismctl/interrupt.h"
#include "client/dismctl/json.h"
#include "client/dismctl/progress_view.h"

namespace dismd {
namespace {

void PrintLine(const std::string& text) {
  printf("%s\n", text.c_str());
  fflush(stdout);  // a reader at the other end of a pipe waits for it
}

void PrintLine(const JsonWriter& json) { PrintLine(json.text()); }

class Runner {
 public:
  Runner(const Options& options, const std::string& program)
      : options_(options), program_(program), service_(options.address) {}

  int Run() {
    switch (options_.command) {
      case Command::kMount: return Mount();
      case Command::kUnmount: return Unmount();
      case Command::kList: return List();
      case Command::kInfo: return Info();
      case Command::kWatch: return Watch();
      case Command::kCleanup: return Cleanup();
      case Command::kStatus: return Status();
      case Command::kHelp:
      case Command::kVersion: break;
    }
    return kUsage;
  }

 private:
  int Mount();
  int Unmount();
  int List();
  int Info();
  int Watch();
  int Cleanup();
  int Status();

  // Says what went wrong and gives the exit code for it.
  int Fail(const CallStatus& status);
  // What to do next in terms of this program; empty where the message says it all.
  std::string HintFor(const CallStatus& status) const;
  OperationOptions WithProgress(ProgressView* view);

  const Options& options_;
  const std::string program_;
  Service service_;
  Interrupt interrupt_;
};

std::string Runner::HintFor(const CallStatus& status) const {
  switch (status.reason()) {
    case v1::NOT_IMPLEMENTED:
      if (options_.command == Command::kMount && !options_.read_only) return "mount it with --read-only";
      return "";
    case v1::INVALID_FLAGS:
      if (options_.command == Command::kUnmount && !options_.discard && !options_.commit) {
        return "choose --commit or --discard for the changes of this mount";
      }
      return "";
    case v1::MOUNT_READ_ONLY: return "unmount it without --commit";
    case v1::INVALID_IMAGE_INDEX:
    case v1::INVALID_IMAGE_NAME: return "see " + program_ + " info " + options_.image + " for the images in the file";
    case v1::NOT_MOUNTED: return "see " + program_ + " list for your mounts";
    default: return "";
  }
}

int Runner::Fail(const CallStatus& status) {
  const bool unavailable = status.unavailable();
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').String("event", "error");
    if (unavailable && status.reason() == v1::REASON_UNSPECIFIED) {
      json.String("reason", "UNAVAILABLE");
    } else {
      json.String("reason", v1::Reason_IsValid(status.reason()) ? v1::Reason_Name(status.reason()) : "UNKNOWN");
    }
    PrintLine(json.String("message", status.message()).End('}'));
  }
  std::string message = status.message();
  if (message.empty())
    message = "the service gave no reason (code " + std::to_string(static_cast<int>(status.code())) + ")";
  fprintf(stderr, "%s: %s\n", program_.c_str(), Printable(message).c_str());
  if (std::string hint = HintFor(status); !hint.empty()) fprintf(stderr, "hint: %s\n", Printable(hint).c_str());
  return status.cancelled() ? kCancelled : unavailable ? kUnavailable : kFailed;
}

OperationOptions Runner::WithProgress(ProgressView* view) {
  OperationOptions result;
  result.cancel = &interrupt_;
  result.on_snapshot = [this, view](const v1::Operation& operation) {
    const v1::Progress& progress = operation.progress();
    if (!options_.json) {
      if (operation.state() == v1::OPERATION_STATE_RUNNING) view->Show(progress);
      return;
    }
    JsonWriter json;
    PrintLine(json.Begin('{')
                  .String("event", "progress")
                  .String("operation_id", operation.operation_id())
                  .String("phase", PhaseName(progress.phase()))
                  .Number("current", progress.current())
                  .Number("total", progress.total())
                  .Number("bytes_done", progress.bytes_done())
                  .Number("bytes_total", progress.bytes_total())
                  .End('}'));
  };
  return result;
}

int Runner::Mount() {
  v1::MountImageRequest request;
  CallStatus status = TranslatePath(options_.image, request.mutable_image_path());
  if (status.ok()) status = TranslatePath(options_.directory, request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  if (options_.name) {
    request.set_image_name(*options_.name);
  } else {
    request.set_image_index(options_.index.value_or(1));
  }
  request.set_read_only(options_.read_only);
  request.set_check_integrity(options_.check_integrity);
  request.set_allow_other(options_.allow_other);

  const auto start = std::chrono::steady_clock::now();
  v1::Operation outcome;
  {
    ProgressView view(isatty(STDERR_FILENO) != 0);
    status = service_.MountImage(request, WithProgress(&view), &outcome);
  }
  if (!status.ok()) return Fail(status);
  const v1::Mount& mount = outcome.mount();
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').String("event", "mounted").Begin("mount", '{');
    WriteMount(mount, &json);
    PrintLine(json.End('}').End('}'));
    return kDone;
  }
  char seconds[32];
  snprintf(seconds, sizeof(seconds), "%.2f",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  PrintLine("Mounted image " + std::to_string(mount.image_index()) +
            (mount.image_name().empty() ? "" : " (" + Printable(mount.image_name()) + ")") + " of " +
            Printable(mount.image_path()) + " at " + Printable(mount.mount_path()) +
            (mount.read_only() ? " read-only" : " read-write") + " in " + seconds + " s");
  return kDone;
}

int Runner::Unmount() {
  v1::UnmountImageRequest request;
  CallStatus status = TranslatePath(options_.directory, request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  // Left open when neither is given: a read-only mount has no changes, and for a read-write one the service asks.
  if (options_.discard) request.set_changes(v1::CHANGES_DISCARD);
  if (options_.commit) request.set_changes(v1::CHANGES_COMMIT);
  v1::Operation outcome;
  {
    ProgressView view(isatty(STDERR_FILENO) != 0);
    status = service_.UnmountImage(request, WithProgress(&view), &outcome);
  }
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    PrintLine(json.Begin('{').String("event", "unmounted").String("mount_path", request.mount_path()).End('}'));
  } else {
    PrintLine("Unmounted " + Printable(request.mount_path()));
  }
  return kDone;
}

int Runner::List() {
  v1::ListMountsResponse response;
  CallStatus status = service_.ListMounts(&interrupt_, &response);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').Begin("mounts", '[');
    for (const v1::Mount& mount : response.mounts()) {
      json.Begin('{');
      WriteMount(mount, &json);
      json.End('}');
    }
    PrintLine(json.End(']').End('}'));
  } else if (response.mounts_size() == 0) {
    PrintLine("Nothing is mounted.");
  } else {
    printf("%s", MountTable(response).c_str());
  }
  return kDone;
}

int Runner::Info() {
  v1::GetImageInfoRequest request;
  CallStatus status = TranslatePath(options_.image, request.mutable_image_path());
  v1::GetImageInfoResponse response;
  if (status.ok()) status = service_.GetImageInfo(request, &interrupt_, &response);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').Begin("images", '[');
    for (const v1::ImageInfo& image : response.images()) {
      json.Begin('{');
      WriteImage(image, &json);
      json.End('}');
    }
    PrintLine(json.End(']').End('}'));
    return kDone;
  }
  PrintLine(Printable(request.image_path()) + ": " + std::to_string(response.images_size()) +
            (response.images_size() == 1 ? " image" : " images"));
  for (const v1::ImageInfo& image : response.images()) printf("\n%s", ImageText(image).c_str());
  return kDone;
}

int Runner::Watch() {
  const auto on_event = [this](const v1::WatchMountsResponse& response) {
    const v1::Mount& mount = response.mount();
    if (options_.json) {
      JsonWriter json;
      json.Begin('{').String("event", EventName(response.event()));
      if (response.has_mount()) {
        json.Begin("mount", '{');
        WriteMount(mount, &json);
        json.End('}');
      }
      PrintLine(json.End('}'));
    } else if (response.event() != v1::MOUNT_EVENT_SYNCED) {
      std::string line = IsoTime(time(nullptr)) + "  ";
      line += EventName(response.event());
      line.append(30 - line.size(), ' ');
      line += Printable(mount.mount_path()) + "  " + Printable(mount.image_path()) + " [" +
              std::to_string(mount.image_index()) + "]  " + StatusName(mount.status());
      if (!mount.status_message().empty()) line += ": " + Printable(mount.status_message());
      PrintLine(line);
    }
  };
  CallStatus status = service_.WatchMounts(&interrupt_, on_event);
  return status.ok() ? kDone : Fail(status);
}

int Runner::Cleanup() {
  v1::CleanupMountpointsResponse response;
  CallStatus status = service_.CleanupMountpoints(&interrupt_, &response);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').String("event", "cleaned").Begin("mounts", '[');
    for (const v1::Mount& mount : response.removed()) {
      json.Begin('{');
      WriteMount(mount, &json);
      json.End('}');
    }
    PrintLine(json.End(']').End('}'));
    return kDone;
  }
  for (const v1::Mount& mount : response.removed()) PrintLine("Removed " + Printable(mount.mount_path()));
  if (response.removed_size() == 0) PrintLine("There was nothing to clean up.");
  return kDone;
}

int Runner::Status() {
  v1::GetServerInfoResponse info;
  CallStatus status = service_.GetServerInfo(&interrupt_, &info);
  if (!status.ok()) return Fail(status);
  const v1::Limits& limits = info.limits();
  const std::pair<const char*, uint32_t> rows[] = {
      {"mounts", limits.mounts()},
      {"mounts_per_uid", limits.mounts_per_uid()},
      {"operations_per_uid", limits.operations_per_uid()},
      {"concurrent_mounts", limits.concurrent_mounts()},
      {"connections_per_uid", limits.connections_per_uid()},
      {"watches_per_uid", limits.watches_per_uid()},
      {"message_bytes", limits.message_bytes()},
  };
  if (options_.json) {
    JsonWriter json;
    json.Begin('{')
        .String("version", info.version())
        .Bool("rootless", info.rootless())
        .Number("caller_uid", info.caller_uid())
        .Number("operation_retention_seconds", info.operation_retention_seconds())
        .Begin("limits", '{');
    for (const auto& [name, value] : rows) json.Number(name, value);
    PrintLine(json.End('}').End('}'));
    return kDone;
  }
  std::vector<std::vector<std::string>> table = {
      {"Version:", Printable(info.version())},
      {"Runs as:", info.rootless() ? "an ordinary user (rootless)" : "root"},
      {"You are:", "uid " + std::to_string(info.caller_uid())},
      {"Operations kept:", Grouped(info.operation_retention_seconds()) + " s"},
  };
  for (const auto& [name, value] : rows) table.push_back({std::string("Limit ") + name + ":", Grouped(value)});
  printf("%s", Table(table).c_str());
  return kDone;
}

}  // namespace

int RunCommand(const Options& options, const std::string& program) { return Runner(options, program).Run(); }

}  // namespace dismd
