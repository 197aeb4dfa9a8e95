// SPDX-License-Identifier: Apache-2.0
//
// The command line of dismctl, parsed once.

#ifndef CLIENT_DISMCTL_OPTIONS_H_
#define CLIENT_DISMCTL_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dismd/v1/dismd.pb.h"

namespace dismd {

enum class Command { kHelp, kVersion, kMount, kUnmount, kCommit, kRemount, kList, kInfo, kWatch, kCleanup, kStatus };

struct Options {
  Command command = Command::kHelp;
  // For kHelp: the command asked about; empty: all.
  std::string help_topic;

  std::string address;  // empty: DISMD_ADDRESS and the usual places
  bool json = false;

  std::string image;      // mount, info
  std::string directory;  // mount, unmount, commit, remount; cleanup: may be empty
  std::optional<uint32_t> index;
  std::optional<std::string> name;
  bool read_only = false;
  bool check_integrity = false;  // mount: compare; commit: write the table
  bool allow_other = false;
  std::optional<uint32_t> partition;
  std::optional<std::string> scratch_directory;
  bool unix_data = false;
  bool discard = false;
  bool commit = false;
  // Of a commit.
  bool append = false;
  bool rebuild = false;
  v1::Compression recompress = v1::COMPRESSION_UNSPECIFIED;
  bool force = false;
};

// `arguments` without the program's name. False: `*error` says what is wrong with them.
bool ParseOptions(const std::vector<std::string>& arguments, Options* options, std::string* error);

// The manual of a command, or of all for an empty or unknown one. `program` is the name it was called by.
std::string HelpText(const std::string& program, const std::string& topic);

}  // namespace dismd

#endif  // CLIENT_DISMCTL_OPTIONS_H_
