// SPDX-License-Identifier: Apache-2.0

#include "client/common/call_status.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/support/status.h>

namespace dismd {
namespace {

// google.rpc.Status: { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }. Read by hand:
// its .proto is not in Debian's packages, and a copy of ours could clash with the program's own.
constexpr uint32_t kDetailsTag = 3 << 3 | 2;

bool SkipField(google::protobuf::io::CodedInputStream* input, uint32_t tag) {
  uint64_t number = 0;
  uint32_t length = 0;
  switch (tag & 7) {
    case 0: return input->ReadVarint64(&number);
    case 1: return input->Skip(8);
    case 2: return input->ReadVarint32(&length) && input->Skip(static_cast<int>(length));
    case 5: return input->Skip(4);
    default: return false;
  }
}

v1::Reason ReasonFromDetails(const std::string& details) {
  google::protobuf::io::CodedInputStream input(reinterpret_cast<const uint8_t*>(details.data()),
                                               static_cast<int>(details.size()));
  while (uint32_t tag = input.ReadTag()) {
    if (tag != kDetailsTag) {
      if (!SkipField(&input, tag)) break;
      continue;
    }
    uint32_t length = 0;
    std::string bytes;
    google::protobuf::Any detail;
    if (!input.ReadVarint32(&length) || !input.ReadString(&bytes, static_cast<int>(length))) break;
    if (!detail.ParseFromString(bytes)) break;
    v1::ErrorReason reason;
    const std::string& type = detail.type_url();
    if (type.substr(type.rfind('/') + 1) == "dismd.v1.ErrorReason" && reason.ParseFromString(detail.value())) {
      return reason.reason();
    }
  }
  return v1::REASON_UNSPECIFIED;
}

}  // namespace

CallStatus CallStatus::FromGrpc(const grpc::Status& status) {
  if (status.ok()) return CallStatus();
  return CallStatus(static_cast<Code>(status.error_code()), ReasonFromDetails(status.error_details()),
                    status.error_message());
}

}  // namespace dismd
