// SPDX-License-Identifier: Apache-2.0
//
// The service's answers as the structures of DismAPI.h. What is returned belongs to the caller of the API (DismDelete).

#ifndef CLIENT_DISMAPI_RESULTS_H_
#define CLIENT_DISMAPI_RESULTS_H_

#include <string_view>

#include "client/dismapi/include/DismAPI.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

DismString* MakeString(std::string_view utf8);

// An empty answer is a null pointer.
DismImageInfo* MakeImageInfo(const v1::GetImageInfoResponse& response);
DismMountedImageInfo* MakeMountedImageInfo(const v1::ListMountsResponse& response);

// A FILETIME (100 ns since 1601, UTC); 0 is all zero.
SYSTEMTIME MakeSystemTime(uint64_t filetime);

}  // namespace dismd

#endif  // CLIENT_DISMAPI_RESULTS_H_
