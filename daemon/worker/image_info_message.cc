// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/image_info_message.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dismd {
namespace {

// Numbers of dismd.v1.ImageType and dismd.v1.Bootable, whose headers need the full protobuf runtime.
constexpr int kTypeUnspecified = 0, kTypeWim = 1, kTypeVhd = 2;
constexpr int kBootableYes = 1, kBootableNo = 2, kBootableUnknown = 3;

int BootableNumber(std::optional<bool> bootable) {
  if (!bootable.has_value()) return kBootableUnknown;
  return *bootable ? kBootableYes : kBootableNo;
}

// The length of the well-formed UTF-8 sequence at the start of `text`; 0 where there is none.
size_t SequenceLength(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  uint8_t first = byte(0);
  if (first < 0x80) return 1;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  bool surrogate = first == 0xed && byte(1) >= 0xa0;
  bool too_large = first == 0xf4 && byte(1) >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

std::string ToValidUtf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    size_t length = SequenceLength(text);
    if (length == 0) {
      valid.append("\xef\xbf\xbd");
      length = 1;
    } else {
      valid.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  return valid;
}

int ImageTypeNumber(libmount::ImageType type) {
  switch (type) {
    case libmount::ImageType::kWim: return kTypeWim;
    case libmount::ImageType::kVhd: return kTypeVhd;
    case libmount::ImageType::kUnsupported: break;
  }
  return kTypeUnspecified;
}

internal::ImageInfo ToMessage(const libmount::ImageInfo& info) {
  internal::ImageInfo message;
  message.set_image_type(ImageTypeNumber(info.type));
  message.set_image_index(info.index);
  message.set_image_name(ToValidUtf8(info.name));
  message.set_image_description(ToValidUtf8(info.description));
  message.set_image_size(info.size);
  message.set_architecture(info.architecture);
  message.set_product_name(ToValidUtf8(info.product_name));
  message.set_edition_id(ToValidUtf8(info.edition_id));
  message.set_installation_type(ToValidUtf8(info.installation_type));
  message.set_hal(ToValidUtf8(info.hal));
  message.set_product_type(ToValidUtf8(info.product_type));
  message.set_product_suite(ToValidUtf8(info.product_suite));
  message.set_major_version(info.major_version);
  message.set_minor_version(info.minor_version);
  message.set_build(info.build);
  message.set_service_pack_build(info.service_pack_build);
  message.set_service_pack_level(info.service_pack_level);
  message.set_bootable(BootableNumber(info.bootable));
  message.set_system_root(ToValidUtf8(info.system_root));
  for (const std::string& language : info.languages) message.add_languages(ToValidUtf8(language));
  message.set_default_language_index(info.default_language);
  message.set_directory_count(info.directory_count);
  message.set_file_count(info.file_count);
  message.set_creation_time(info.creation_time);
  message.set_modification_time(info.modification_time);
  return message;
}

}  // namespace dismd
