// SPDX-License-Identifier: Apache-2.0
//
// JsonWriter: one JSON object on one line. Field names are part of dismctl's interface (--help lists them).

#ifndef CLIENT_DISMCTL_JSON_H_
#define CLIENT_DISMCTL_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace dismd {

class JsonWriter {
 public:
  // Objects and arrays; `key` is left out inside an array and at the top.
  JsonWriter& Begin(char bracket) { return Separate(), text_ += bracket, fresh_ = true, *this; }
  JsonWriter& Begin(std::string_view key, char bracket) { return Key(key), text_ += bracket, fresh_ = true, *this; }
  JsonWriter& End(char bracket) { return text_ += bracket, fresh_ = false, *this; }

  JsonWriter& String(std::string_view key, std::string_view value) { return Key(key), Quote(value), *this; }
  JsonWriter& String(std::string_view value) { return Separate(), Quote(value), *this; }
  JsonWriter& Number(std::string_view key, uint64_t value) { return Key(key), text_ += std::to_string(value), *this; }
  JsonWriter& Bool(std::string_view key, bool value) { return Key(key), text_ += value ? "true" : "false", *this; }
  // null for an empty value.
  JsonWriter& StringOrNull(std::string_view key, std::string_view value) {
    if (!value.empty()) return String(key, value);
    return Key(key), text_ += "null", *this;
  }

  const std::string& text() const { return text_; }

 private:
  void Separate();
  void Key(std::string_view key);
  void Quote(std::string_view value);

  std::string text_;
  bool fresh_ = true;
};

}  // namespace dismd

#endif  // CLIENT_DISMCTL_JSON_H_
