// SPDX-License-Identifier: Apache-2.0
//
// Where the service is: DISMD_ADDRESS (unix:PATH or an absolute path), else the user's own service
// ($XDG_RUNTIME_DIR/dismd/dismd.sock, if that socket exists), else the system's, unix:/run/dismd/dismd.sock.

#ifndef CLIENT_COMMON_ADDRESS_H_
#define CLIENT_COMMON_ADDRESS_H_

#include <string>

namespace dismd {

// The path of the service's socket for `address` ("" asks the environment), empty when the address makes no sense.
std::string SocketPath(const std::string& address);

// What an error message says when nobody answers on the socket: why, and what to do.
std::string DescribeUnreachable(const std::string& socket_path);

}  // namespace dismd

#endif  // CLIENT_COMMON_ADDRESS_H_
