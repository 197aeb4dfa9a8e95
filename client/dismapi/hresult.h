// SPDX-License-Identifier: Apache-2.0
//
// The HRESULT of each failure. The comments of proto/dismd/v1/errors.proto are the table; a test compares.

#ifndef CLIENT_DISMAPI_HRESULT_H_
#define CLIENT_DISMAPI_HRESULT_H_

#include "client/common/call_status.h"
#include "client/dismapi/include/DismAPI.h"

namespace dismd {

// E_FAIL for REASON_UNSPECIFIED and for reasons that this version does not know.
HRESULT HresultOf(v1::Reason reason);

// By reason; without one, by gRPC code.
HRESULT HresultOf(const CallStatus& status);

}  // namespace dismd

#endif  // CLIENT_DISMAPI_HRESULT_H_
