// SPDX-License-Identifier: GPL-3.0-or-later
//
// ImageInfo: what an image file says of each image in it; everything that DismImageInfo holds.
// Sources: the WIM's XML data (element names beside the fields); for disks, the SOFTWARE hive of the volume.

#ifndef LIBMOUNT_TREE_IMAGE_INFO_H_
#define LIBMOUNT_TREE_IMAGE_INFO_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace libmount {

enum class ImageType { kUnsupported = -1, kWim = 0, kVhd = 1 };

// PROCESSOR_ARCHITECTURE_* of winnt.h; kUnknownArchitecture where the image does not say.
inline constexpr uint32_t kUnknownArchitecture = 0xffff;

struct ImageInfo {
  ImageType type = ImageType::kUnsupported;
  uint32_t index = 0;              // from 1
  std::string name;                // NAME
  std::string description;         // DESCRIPTION
  uint64_t size = 0;               // TOTALBYTES, in bytes
  uint32_t architecture = kUnknownArchitecture;  // WINDOWS/ARCH
  std::string product_name;        // WINDOWS/PRODUCTNAME
  std::string edition_id;          // WINDOWS/EDITIONID
  std::string installation_type;   // WINDOWS/INSTALLATIONTYPE
  std::string hal;                 // WINDOWS/HAL
  std::string product_type;        // WINDOWS/PRODUCTTYPE
  std::string product_suite;       // WINDOWS/PRODUCTSUITE
  uint32_t major_version = 0;      // WINDOWS/VERSION/MAJOR ...
  uint32_t minor_version = 0;
  uint32_t build = 0;
  uint32_t service_pack_build = 0;  // SPBUILD
  uint32_t service_pack_level = 0;  // SPLEVEL
  std::optional<bool> bootable;    // WIM: the header's boot index is this image; unknown for a disk
  std::string system_root;         // WINDOWS/SYSTEMROOT
  std::vector<std::string> languages;  // WINDOWS/LANGUAGES/LANGUAGE
  uint32_t default_language = 0;   // index into languages
  uint64_t directory_count = 0;    // DIRCOUNT
  uint64_t file_count = 0;         // FILECOUNT
  uint64_t creation_time = 0;      // CREATIONTIME, Windows time: 100 ns since 1601-01-01 UTC; 0 where absent
  uint64_t modification_time = 0;  // LASTMODIFICATIONTIME
};

}  // namespace libmount

#endif  // LIBMOUNT_TREE_IMAGE_INFO_H_
