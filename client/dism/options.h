// SPDX-License-Identifier: Apache-2.0
//
// The command line of dism, as dism.exe takes it, parsed once: /Option, /Option:value or /Option=value, names without
// case, quotes around a value stripped.

#ifndef CLIENT_DISM_OPTIONS_H_
#define CLIENT_DISM_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dismd::dism {

enum class Command {
  kNone,
  kMountImage,
  kUnmountImage,
  kCommitImage,
  kRemountImage,
  kGetImageInfo,
  kGetMountedImageInfo,
  kCleanupMountpoints,
};

struct Options {
  Command command = Command::kNone;
  bool help = false;

  // As they were given; paths of either kind.
  std::optional<std::string> image_file, mount_dir, name, log_path, scratch_dir;
  std::optional<uint32_t> index;
  int log_level = 3;  // 1 errors, 2 and warnings, 3 and information, 4 and debugging
  bool read_only = false;
  bool optimize = false;
  bool check_integrity = false;
  bool support_ea = false;
  bool commit = false;
  bool discard = false;
  bool append = false;
  bool quiet = false;
  bool table = false;
};

// `arguments` without the program's name. False: `*error` says what is wrong with them.
bool ParseOptions(const std::vector<std::string>& arguments, Options* options, std::string* error);

// The help of a command, or for kNone that of all.
std::string HelpText(Command command);

}  // namespace dismd::dism

#endif  // CLIENT_DISM_OPTIONS_H_
