// SPDX-License-Identifier: Apache-2.0

#include "client/dism/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "client/common/dism_log.h"
#include "client/common/paths.h"
#include "client/common/service.h"
#include "client/dism/options.h"
#include "client/dism/output.h"
#include "client/dismctl/format.h"
#include "client/dismctl/interrupt.h"

namespace dismd::dism {
namespace {

constexpr uint32_t kPathNotFound = 3;

// Where the log is unless /LogPath says: "" without a home directory.
std::string DefaultLogPath() {
  const char* state = secure_getenv("XDG_STATE_HOME");
  const char* home = secure_getenv("HOME");
  std::string directory = state != nullptr && state[0] == '/' ? state : "";
  if (directory.empty() && home != nullptr && home[0] == '/') {
    directory = std::string(home) + "/.local";
    mkdir(directory.c_str(), 0700);
    directory += "/state";
    mkdir(directory.c_str(), 0700);
  }
  if (directory.empty()) return "";
  directory += "/dismd";
  mkdir(directory.c_str(), 0700);
  return directory + "/dism.log";
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options) {}

  int Run() {
    OpenLog();
    Log(DismLog::Level::kInfo, "dism " DISMD_VERSION " begins");
    if (options_.scratch_dir) {
      struct stat info;
      if (!TranslatePath(*options_.scratch_dir, &scratch_directory_).ok() ||
          stat(scratch_directory_.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
        return Fail(kPathNotFound, "The scratch directory " + *options_.scratch_dir + " does not exist.");
      }
    }
    const CallStatus status = Dispatch();
    if (status.ok()) {
      Print("The operation completed successfully.\n");
      Log(DismLog::Level::kInfo, "the operation completed successfully");
      return 0;
    }
    return Fail(ErrorOf(status, options_.command == Command::kRemountImage), status.message());
  }

  int Fail(uint32_t error, const std::string& message) {
    EndBar();
    printf("\nError: %s\n\n%s\n", ErrorText(error).c_str(), Printable(message).c_str());
    if (log_ != nullptr) printf("\nThe DISM log file can be found at %s\n", Printable(log_path_).c_str());
    Log(DismLog::Level::kError, message + " HRESULT=" + ErrorText(error));
    return ExitStatusOf(error);
  }

 private:
  CallStatus Dispatch() {
    switch (options_.command) {
      case Command::kMountImage: return MountImage();
      case Command::kUnmountImage: return UnmountImage();
      case Command::kCommitImage: return CommitImage();
      case Command::kRemountImage: return RemountImage();
      case Command::kGetImageInfo: return GetImageInfo();
      case Command::kGetMountedImageInfo: return GetMountedImageInfo();
      case Command::kCleanupMountpoints: {
        v1::CleanupMountpointsResponse response;
        CallStatus status = service_.CleanupMountpoints(v1::CleanupMountpointsRequest(), &interrupt_, &response);
        for (const v1::Mount& mount : response.kept()) {
          Log(DismLog::Level::kWarning, mount.mount_path() + " is kept, for its edits: " + mount.status_message() +
                                            " (/Unmount-Image with /Discard throws them away)");
        }
        return status;
      }
      case Command::kNone: break;
    }
    return CallStatus();
  }

  CallStatus MountImage();
  CallStatus UnmountImage();
  CallStatus CommitImage();
  CallStatus RemountImage();
  CallStatus GetImageInfo();
  CallStatus GetMountedImageInfo();

  void OpenLog() {
    const bool given = options_.log_path.has_value();
    if (!given) {
      log_path_ = DefaultLogPath();
    } else if (!TranslatePath(*options_.log_path, &log_path_).ok()) {
      log_path_ = *options_.log_path;
    }
    if (log_path_.empty()) return;
    log_ = DismLog::Open(log_path_, static_cast<DismLog::Level>(options_.log_level - 1), "DISM.EXE");
    // As dism.exe: no reason not to go on.
    if (log_ == nullptr && given) {
      Print("WARNING: the log file " + Printable(log_path_) + " cannot be written (" + strerror(errno) + ").\n\n");
    }
  }

  void Log(DismLog::Level level, const std::string& text) {
    if (log_ != nullptr) log_->Write(level, text);
  }

  void Print(const std::string& text) {
    if (options_.quiet) return;
    fputs(text.c_str(), stdout);
    fflush(stdout);
  }

  // The file and the index of what is mounted there: the first lines of a commit and an unmount.
  CallStatus PrintMount(const std::string& mount_path) {
    if (options_.quiet) return CallStatus();
    v1::GetMountRequest request;
    request.set_mount_path(mount_path);
    v1::GetMountResponse response;
    CallStatus status = service_.GetMount(request, &interrupt_, &response);
    if (status.ok()) PrintImage(response.mount().image_path(), response.mount().image_index());
    return status;
  }

  void PrintImage(const std::string& file, uint32_t index) {
    Print("Image File : " + Printable(file) + "\nImage Index : " + std::to_string(index) + "\n");
  }

  // An activity with a bar of its own; it ends when the next begins.
  void BeginBar(const std::string& activity) {
    EndBar();
    Print(activity + "\n");
    activity_ = activity;
    shown_ = -1;
    ShowBar(0);
  }

  void ShowBar(double percent) {
    const int tenths = static_cast<int>(percent * 10);
    if (activity_.empty() || tenths <= shown_) return;
    shown_ = tenths;
    Print("\r" + ProgressBar(percent) + " ");
  }

  void EndBar() {
    if (!activity_.empty()) Print("\n");
    activity_.clear();
  }

  // Saving is shown by the bytes that are done: the whole operation's progress goes on in the bar of unmounting.
  void Show(const v1::Operation& operation, bool saves) {
    const v1::Progress& progress = operation.progress();
    const double percent = 100.0 * progress.current() / std::max(1u, progress.total());
    const bool done = operation.state() == v1::OPERATION_STATE_SUCCEEDED;
    if (saves && activity_ == kSaving && (done || progress.phase() == v1::PHASE_UNMOUNTING)) {
      ShowBar(100);
      if (options_.command == Command::kUnmountImage) BeginBar(kUnmounting);
    }
    ShowBar(done ? 100 : percent);
  }

  OperationOptions WithBar(bool saves) {
    OperationOptions options;
    options.cancel = &interrupt_;
    options.on_snapshot = [this, saves](const v1::Operation& operation) { Show(operation, saves); };
    return options;
  }

  static constexpr char kSaving[] = "Saving image";
  static constexpr char kUnmounting[] = "Unmounting image";

  const Options& options_;
  Service service_;
  Interrupt interrupt_;
  std::string log_path_, scratch_directory_;
  std::unique_ptr<DismLog> log_;
  std::string activity_;
  int shown_ = -1;
};

CallStatus Runner::MountImage() {
  v1::MountImageRequest request;
  CallStatus status = TranslatePath(*options_.image_file, request.mutable_image_path());
  if (status.ok()) {
    status = TranslateMountPoint(*options_.mount_dir, request.image_path(), request.mutable_mount_path());
  }
  if (!status.ok()) return status;
  if (options_.name) {
    request.set_image_name(*options_.name);
  } else {
    request.set_image_index(*options_.index);
  }
  request.set_read_only(options_.read_only);
  request.set_check_integrity(options_.check_integrity);
  if (!options_.read_only) request.set_scratch_directory(scratch_directory_);
  BeginBar("Mounting image");
  v1::Operation outcome;
  status = service_.MountImage(request, WithBar(false), &outcome);
  EndBar();
  return status;
}

CallStatus Runner::UnmountImage() {
  v1::UnmountImageRequest request;
  CallStatus status = TranslatePath(*options_.mount_dir, request.mutable_mount_path());
  if (status.ok()) status = PrintMount(request.mount_path());
  if (!status.ok()) return status;
  request.set_changes(options_.commit ? v1::CHANGES_COMMIT : v1::CHANGES_DISCARD);
  if (options_.commit) {
    request.mutable_commit()->set_append(options_.append);
    request.mutable_commit()->set_generate_integrity(options_.check_integrity);
  }
  BeginBar(options_.commit ? kSaving : kUnmounting);
  v1::Operation outcome;
  status = service_.UnmountImage(request, WithBar(options_.commit), &outcome);
  EndBar();
  return status;
}

CallStatus Runner::CommitImage() {
  v1::CommitImageRequest request;
  CallStatus status = TranslatePath(*options_.mount_dir, request.mutable_mount_path());
  if (status.ok()) status = PrintMount(request.mount_path());
  if (!status.ok()) return status;
  request.mutable_options()->set_append(options_.append);
  request.mutable_options()->set_generate_integrity(options_.check_integrity);
  BeginBar(kSaving);
  v1::Operation outcome;
  status = service_.CommitImage(request, WithBar(true), &outcome);
  EndBar();
  return status;
}

CallStatus Runner::RemountImage() {
  v1::RemountImageRequest request;
  CallStatus status = TranslatePath(*options_.mount_dir, request.mutable_mount_path());
  if (!status.ok()) return status;
  BeginBar("Remounting image");
  v1::Operation outcome;
  status = service_.RemountImage(request, WithBar(false), &outcome);
  EndBar();
  return status;
}

CallStatus Runner::GetImageInfo() {
  v1::GetImageInfoRequest request;
  CallStatus status = TranslatePath(*options_.image_file, request.mutable_image_path());
  v1::GetImageInfoResponse response;
  if (status.ok()) status = service_.GetImageInfo(request, &interrupt_, &response);
  if (!status.ok()) return status;
  if (!options_.index && !options_.name) {
    Print(ImageList(*options_.image_file, response, options_.table));
    return CallStatus();
  }
  for (const v1::ImageInfo& image : response.images()) {
    const bool wanted = options_.index ? image.image_index() == *options_.index
                                       : strcasecmp(image.image_name().c_str(), options_.name->c_str()) == 0;
    if (!wanted) continue;
    Print(ImageDetails(*options_.image_file, image));
    return CallStatus();
  }
  if (options_.name) {
    return CallStatus(Code::kInvalidArgument, v1::INVALID_IMAGE_NAME,
                      request.image_path() + " holds no image named " + *options_.name);
  }
  return CallStatus(Code::kInvalidArgument, v1::INVALID_IMAGE_INDEX,
                    request.image_path() + " holds no image with index " + std::to_string(*options_.index));
}

CallStatus Runner::GetMountedImageInfo() {
  v1::ListMountsResponse response;
  CallStatus status = service_.ListMounts(&interrupt_, &response);
  if (status.ok()) Print(MountedImages(response, options_.table));
  return status;
}

}  // namespace

int Main(const std::vector<std::string>& arguments) {
  Options options;
  std::string error;
  const bool parsed = ParseOptions(arguments, &options, &error);
  if (!options.quiet || !parsed) fputs(Banner().c_str(), stdout);
  if (!parsed) {
    printf("\nError: %d\n\n%s\n\n%s", ERROR_INVALID_PARAMETER, Printable(error).c_str(),
           HelpText(options.command).c_str());
    return ExitStatusOf(ERROR_INVALID_PARAMETER);
  }
  if (options.help) {
    fputs(HelpText(options.command).c_str(), stdout);
    return 0;
  }
  return Runner(options).Run();
}

}  // namespace dismd::dism
