// SPDX-License-Identifier: Apache-2.0
//
// What dism prints, in dism.exe's layout: scripts read it.

#ifndef CLIENT_DISM_OUTPUT_H_
#define CLIENT_DISM_OUTPUT_H_

#include <string>

#include "client/common/call_status.h"
#include "client/dismapi/include/DismAPI.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd::dism {

std::string Banner();

// "[=====      12.5%      ]", 60 characters wide.
std::string ProgressBar(double percent);

std::string ImageList(const std::string& file, const v1::GetImageInfoResponse& images, bool table);
std::string ImageDetails(const std::string& file, const v1::ImageInfo& image);
std::string MountedImages(const v1::ListMountsResponse& mounts, bool table);

// The code that dism.exe ends with: of a Win32 error its plain number, else the HRESULT.
uint32_t ErrorOf(const CallStatus& status, bool is_remount);
uint32_t ErrorOf(HRESULT result);

// "87", "0xc1420127".
std::string ErrorText(uint32_t error);

// What of it fits into an exit status: never 0.
int ExitStatusOf(uint32_t error);

}  // namespace dismd::dism

#endif  // CLIENT_DISM_OUTPUT_H_
