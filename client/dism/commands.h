// SPDX-License-Identifier: Apache-2.0
//
// dism: the command of the same name on Windows. Returns the exit status; all output, errors too, goes to stdout, as
// dism.exe's.

#ifndef CLIENT_DISM_COMMANDS_H_
#define CLIENT_DISM_COMMANDS_H_

#include <string>
#include <vector>

namespace dismd::dism {

int Main(const std::vector<std::string>& arguments);

}  // namespace dismd::dism

#endif  // CLIENT_DISM_COMMANDS_H_
