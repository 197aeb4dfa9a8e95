// SPDX-License-Identifier: Apache-2.0

#include "client/common/call_status.h"

#include <google/protobuf/io/coded_stream.h>
#include <stdlib.h>

#include <string_view>

namespace dismd {
namespace {

// google.rpc.Status: { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }. Read by hand:
// its .proto is not in Debian's packages, and a copy of ours could clash with the program's own.
constexpr uint32_t kDetailsTag = 3 << 3 | 2;
// google.protobuf.Any: { string type_url = 1; bytes value = 2; }.
constexpr uint32_t kTypeTag = 1 << 3 | 2;
constexpr uint32_t kValueTag = 2 << 3 | 2;

using google::protobuf::io::CodedInputStream;

bool SkipField(CodedInputStream* input, uint32_t tag) {
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

// Calls `field` with each field of length-delimited bytes, until that returns true.
template <typename Field>
void EachField(const std::string& message, Field field) {
  CodedInputStream input(reinterpret_cast<const uint8_t*>(message.data()), static_cast<int>(message.size()));
  while (uint32_t tag = input.ReadTag()) {
    if ((tag & 7) != 2) {
      if (!SkipField(&input, tag)) return;
      continue;
    }
    uint32_t length = 0;
    std::string bytes;
    if (!input.ReadVarint32(&length) || !input.ReadString(&bytes, static_cast<int>(length))) return;
    if (field(tag, bytes)) return;
  }
}

v1::Reason ReasonFromDetails(const std::string& details) {
  v1::Reason found = v1::REASON_UNSPECIFIED;
  EachField(details, [&found](uint32_t tag, const std::string& detail) {
    if (tag != kDetailsTag) return false;
    std::string type, value;
    EachField(detail, [&](uint32_t part, const std::string& bytes) {
      if (part == kTypeTag) type = bytes;
      if (part == kValueTag) value = bytes;
      return false;
    });
    v1::ErrorReason reason;
    if (type.substr(type.rfind('/') + 1) != "dismd.v1.ErrorReason" || !reason.ParseFromString(value)) return false;
    found = reason.reason();
    return true;
  });
  return found;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// grpc-message: %XX for what is not printable ASCII.
std::string PercentDecoded(const std::string& text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
    const int low = high >= 0 ? HexDigit(text[i + 2]) : -1;
    if (low >= 0) {
      decoded += static_cast<char>(high << 4 | low);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

// Base64, with or without padding; what is none ends it.
std::string Base64Decoded(const std::string& text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string decoded;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    const size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) break;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) decoded += static_cast<char>(bits >> (count -= 8) & 0xFF);
  }
  return decoded;
}

}  // namespace

CallStatus CallStatus::FromTrailers(const std::map<std::string, std::string>& trailers) {
  const auto value = [&trailers](const char* name) {
    auto found = trailers.find(name);
    return found == trailers.end() ? std::string() : found->second;
  };
  const auto code = static_cast<Code>(atoi(value("grpc-status").c_str()));
  if (code == Code::kOk) return CallStatus();
  return CallStatus(code, ReasonFromDetails(Base64Decoded(value("grpc-status-details-bin"))),
                    PercentDecoded(value("grpc-message")));
}

}  // namespace dismd
