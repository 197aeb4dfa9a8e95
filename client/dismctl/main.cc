// SPDX-License-Identifier: Apache-2.0
//
// dismctl, and dism under its other name: that takes dism.exe's command line (/Mount-Image ...), and dismctl's
// commands, too.

#include <stdio.h>
#include <strings.h>

#include <exception>
#include <string>
#include <vector>

#include "client/dism/commands.h"
#include "client/dismctl/commands.h"
#include "client/dismctl/options.h"

namespace {

int Main(int argc, char** argv) {
  std::string program = argc > 0 ? argv[0] : "dismctl";
  program.erase(0, program.rfind('/') + 1);
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);

  const bool is_dism = strcasecmp(program.c_str(), "dism") == 0 || strcasecmp(program.c_str(), "dism.exe") == 0;
  if (is_dism && (arguments.empty() || arguments[0][0] == '/')) return dismd::dism::Main(arguments);
  dismd::Options options;
  std::string error;
  if (!dismd::ParseOptions(arguments, &options, &error)) {
    fprintf(stderr, "%s: %s\nhint: see %s --help\n", program.c_str(), error.c_str(), program.c_str());
    return dismd::kUsage;
  }
  if (options.command == dismd::Command::kHelp) {
    fputs(dismd::HelpText(program, options.help_topic).c_str(), stdout);
    return dismd::kDone;
  }
  if (options.command == dismd::Command::kVersion) {
    printf("%s %s\n", program.c_str(), DISMD_VERSION);
    return dismd::kDone;
  }
  return dismd::RunCommand(options, program);
}

}  // namespace

int main(int argc, char** argv) {
  int code = dismd::kFailed;
  try {
    code = Main(argc, argv);
  } catch (const std::exception& error) {
    fprintf(stderr, "dismctl: %s\n", error.what());
  }
  // Output that could not be written (a full disk) is a failure.
  if (fflush(stdout) != 0 && code == dismd::kDone) code = dismd::kFailed;
  return code;
}
