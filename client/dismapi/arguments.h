// SPDX-License-Identifier: Apache-2.0
//
// What callers pass to the exported functions, read and checked as far as the library can.

#ifndef CLIENT_DISMAPI_ARGUMENTS_H_
#define CLIENT_DISMAPI_ARGUMENTS_H_

#include <memory>
#include <string>

#include "client/common/call_status.h"
#include "client/dismapi/event.h"
#include "client/dismapi/include/DismAPI.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

inline constexpr DWORD kCommitBits = DISM_COMMIT_GENERATE_INTEGRITY | DISM_COMMIT_APPEND | DISM_COMMIT_SUPPORT_EA;

CallStatus InvalidFlags(std::string message);

// "0x00020000"
std::string Hex(DWORD value);

// Makes a path absolute. `what`: "image path", for the message.
CallStatus ReadPath(PCWSTR wide, const char* what, std::string* absolute);

// Where the image is to be mounted; of a disk at a free drive letter the directory is made.
CallStatus ReadMountPoint(PCWSTR wide, const std::string& image_path, std::string* absolute);

// The event of `handle`; none for NULL. False: `*result` is the failure.
bool ReadCancelEvent(HANDLE handle, std::shared_ptr<Event>* event, HRESULT* result);

void ReadCommitBits(DWORD flags, v1::CommitOptions* options);

// A call whose event is signalled already is cancelled before its arguments are looked at.
HRESULT FailCancelledEarly();

// A session is open on the mount point.
HRESULT FailOpenSession(HRESULT code, const std::string& path);

}  // namespace dismd

#endif  // CLIENT_DISMAPI_ARGUMENTS_H_
