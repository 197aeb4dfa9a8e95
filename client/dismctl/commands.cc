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
      case Command::kCommit: return Commit();
      case Command::kRemount: return Remount();
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
  int Commit();
  int Remount();
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
  // Runs an operation with its progress shown.
  template <typename Request>
  CallStatus Operate(CallStatus (Service::*method)(const Request&, const OperationOptions&, v1::Operation*),
                     const Request& request, v1::Operation* outcome) {
    ProgressView view(isatty(STDERR_FILENO) != 0);
    return (service_.*method)(request, WithProgress(&view), outcome);
  }
  void ReadCommitOptions(v1::CommitOptions* commit) const;
  // {"event":EVENT,"mount":MOUNT}
  static void PrintMountEvent(const char* event, const v1::Mount& mount);

  const Options& options_;
  const std::string program_;
  Service service_;
  Interrupt interrupt_;
};

// "image 1 (Name) of /images/a.wim"
std::string ImageOf(const v1::Mount& mount) {
  return "image " + std::to_string(mount.image_index()) +
         (mount.image_name().empty() ? "" : " (" + Printable(mount.image_name()) + ")") + " of " +
         Printable(mount.image_path());
}

// " in 0.12 s"
std::string InSeconds(std::chrono::steady_clock::time_point start) {
  char text[32];
  snprintf(text, sizeof(text), " in %.2f s",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return text;
}

std::string Runner::HintFor(const CallStatus& status) const {
  switch (status.reason()) {
    case v1::NOT_IMPLEMENTED:
    case v1::IMAGE_READ_ONLY:
    case v1::SPLIT_IMAGE:
    case v1::SOLID_IMAGE:
      if (options_.command == Command::kMount && !options_.read_only) return "mount it with --read-only";
      return "";
    case v1::NEEDS_REMOUNT: {
      const std::string what = options_.command == Command::kCleanup ? "; cleanup --force throws its edits away"
                                                                     : "; unmount --discard throws its edits away";
      return "bring it back with " + program_ + " remount " + options_.directory + what;
    }
    case v1::MOUNT_BUSY:
      if (options_.command == Command::kCleanup) return "it is mounted and well; --force removes it all the same";
      return "";
    case v1::MOUNT_INVALID: return "free what is left of it with " + program_ + " cleanup, which keeps its changes";
    case v1::INVALID_FLAGS:
      if (options_.command == Command::kUnmount && !options_.discard && !options_.commit) {
        return "choose --commit or --discard for the changes of this mount";
      }
      return "";
    case v1::MOUNT_READ_ONLY:
      return options_.command == Command::kUnmount ? "unmount it without --commit" : "it has nothing to commit";
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
  if (status.ok()) {
    status = TranslateMountPoint(options_.directory, request.image_path(), request.mutable_mount_path());
  }
  if (status.ok() && options_.scratch_directory) {
    status = TranslatePath(*options_.scratch_directory, request.mutable_scratch_directory());
  }
  if (!status.ok()) return Fail(status);
  if (options_.name) {
    request.set_image_name(*options_.name);
  } else {
    request.set_image_index(options_.index.value_or(1));
  }
  request.set_read_only(options_.read_only);
  request.set_check_integrity(options_.check_integrity);
  request.set_allow_other(options_.allow_other);
  request.set_unix_data(options_.unix_data);
  request.set_partition(options_.partition.value_or(0));

  const auto start = std::chrono::steady_clock::now();
  v1::Operation outcome;
  status = Operate(&Service::MountImage, request, &outcome);
  if (!status.ok()) return Fail(status);
  const v1::Mount& mount = outcome.mount();
  if (options_.json) {
    PrintMountEvent("mounted", mount);
  } else {
    PrintLine("Mounted " + ImageOf(mount) + " at " + Printable(mount.mount_path()) +
              (mount.read_only() ? " read-only" : " read-write") + InSeconds(start));
  }
  return kDone;
}

void Runner::ReadCommitOptions(v1::CommitOptions* commit) const {
  commit->set_append(options_.append);
  commit->set_generate_integrity(options_.check_integrity);
  commit->set_rebuild(options_.rebuild);
  commit->set_recompress(options_.recompress);
}

void Runner::PrintMountEvent(const char* event, const v1::Mount& mount) {
  JsonWriter json;
  json.Begin('{').String("event", event).Begin("mount", '{');
  WriteMount(mount, &json);
  PrintLine(json.End('}').End('}'));
}

int Runner::Unmount() {
  v1::UnmountImageRequest request;
  CallStatus status = TranslatePath(options_.directory, request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  // Left open when neither is given: a read-only mount has no changes, and for a read-write one the service asks.
  if (options_.discard) request.set_changes(v1::CHANGES_DISCARD);
  if (options_.commit) {
    request.set_changes(v1::CHANGES_COMMIT);
    ReadCommitOptions(request.mutable_commit());
  }
  const auto start = std::chrono::steady_clock::now();
  v1::Operation outcome;
  status = Operate(&Service::UnmountImage, request, &outcome);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').String("event", "unmounted").String("mount_path", request.mount_path());
    if (options_.commit) json.Number("image_index", outcome.mount().image_index());
    PrintLine(json.End('}'));
  } else if (options_.commit) {
    PrintLine("Committed " + ImageOf(outcome.mount()) + " and unmounted " + Printable(request.mount_path()) +
              InSeconds(start));
  } else {
    PrintLine("Unmounted " + Printable(request.mount_path()));
  }
  return kDone;
}

int Runner::Commit() {
  v1::CommitImageRequest request;
  CallStatus status = TranslatePath(options_.directory, request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  ReadCommitOptions(request.mutable_options());
  const auto start = std::chrono::steady_clock::now();
  v1::Operation outcome;
  status = Operate(&Service::CommitImage, request, &outcome);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    PrintMountEvent("committed", outcome.mount());
  } else {
    PrintLine("Committed " + Printable(outcome.mount().mount_path()) + " to " + ImageOf(outcome.mount()) +
              InSeconds(start));
  }
  return kDone;
}

int Runner::Remount() {
  v1::RemountImageRequest request;
  CallStatus status = TranslatePath(options_.directory, request.mutable_mount_path());
  if (!status.ok()) return Fail(status);
  const auto start = std::chrono::steady_clock::now();
  v1::Operation outcome;
  status = Operate(&Service::RemountImage, request, &outcome);
  if (!status.ok()) return Fail(status);
  const v1::Mount& mount = outcome.mount();
  if (options_.json) {
    PrintMountEvent("remounted", mount);
  } else {
    PrintLine("Remounted " + ImageOf(mount) + " at " + Printable(mount.mount_path()) + InSeconds(start));
    if (mount.has_changes()) PrintLine("Kept: " + ChangesText(mount));
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
    json.End(']');
    if (response.has_disk()) WriteDisk(response.disk(), &json);
    PrintLine(json.End('}'));
    return kDone;
  }
  if (response.has_disk()) {
    printf("%s:\n%s", Printable(request.image_path()).c_str(), DiskText(response.disk()).c_str());
  } else {
    PrintLine(Printable(request.image_path()) + ": " + std::to_string(response.images_size()) +
              (response.images_size() == 1 ? " image" : " images"));
  }
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
  v1::CleanupMountpointsRequest request;
  CallStatus status;
  if (!options_.directory.empty()) status = TranslatePath(options_.directory, request.mutable_mount_path());
  request.set_force(options_.force);
  v1::CleanupMountpointsResponse response;
  if (status.ok()) status = service_.CleanupMountpoints(request, &interrupt_, &response);
  if (!status.ok()) return Fail(status);
  if (options_.json) {
    JsonWriter json;
    json.Begin('{').String("event", "cleaned").Begin("mounts", '[');
    for (const v1::Mount& mount : response.removed()) {
      json.Begin('{');
      WriteMount(mount, &json);
      json.End('}');
    }
    json.End(']').Begin("kept", '[');
    for (const v1::Mount& mount : response.kept()) {
      json.Begin('{');
      WriteMount(mount, &json);
      json.End('}');
    }
    PrintLine(json.End(']').End('}'));
    return kDone;
  }
  for (const v1::Mount& mount : response.kept()) {
    const std::string directory = Printable(mount.mount_path());
    PrintLine("Kept " + directory + ", for its edits: " + Printable(mount.status_message()) + "\n  (" + program_ +
              " remount, once what is missing is back; cleanup --force throws the edits away)");
  }
  for (const v1::Mount& mount : response.removed()) {
    PrintLine("Removed " + Printable(mount.mount_path()) +
              (mount.has_changes() ? "; thrown away: " + ChangesText(mount) : ""));
  }
  if (response.removed_size() + response.kept_size() == 0) PrintLine("There was nothing to clean up.");
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
