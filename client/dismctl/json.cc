// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/json.h"

#include <cstdio>

namespace dismd {

void JsonWriter::Separate() {
  if (!fresh_) text_ += ',';
  fresh_ = false;
}

void JsonWriter::Key(std::string_view key) {
  Separate();
  Quote(key);
  text_ += ':';
}

void JsonWriter::Quote(std::string_view value) {
  text_ += '"';
  for (char c : value) {
    switch (c) {
      case '"': text_ += "\\\""; break;
      case '\\': text_ += "\\\\"; break;
      case '\n': text_ += "\\n"; break;
      case '\t': text_ += "\\t"; break;
      case '\r': text_ += "\\r"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          char escaped[8];
          snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
          text_ += escaped;
        } else {
          text_ += c;  // UTF-8, as the messages of the service are
        }
    }
  }
  text_ += '"';
}

}  // namespace dismd
