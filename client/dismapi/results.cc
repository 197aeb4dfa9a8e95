// SPDX-License-Identifier: Apache-2.0

#include "client/dismapi/results.h"

#include <time.h>

#include <algorithm>
#include <limits>

#include "client/dismapi/result_block.h"

namespace dismd {
namespace {

// The layout of Windows x64 (dism-api.md and Microsoft's header agree), apart from what pointers point to.
static_assert(sizeof(void*) != 8 || sizeof(DismString) == 8);
static_assert(sizeof(SYSTEMTIME) == 16);
static_assert(sizeof(DismWimCustomizedInfo) == 44);
static_assert(sizeof(void*) != 8 || sizeof(DismImageInfo) == 140);
static_assert(sizeof(void*) != 8 || sizeof(DismMountedImageInfo) == 28);

UINT ClampToUint(uint64_t value) {
  return static_cast<UINT>(std::min<uint64_t>(value, std::numeric_limits<UINT>::max()));
}

size_t AddCustomizedInfo(const v1::ImageInfo& from, ResultBlock* block) {
  DismWimCustomizedInfo info = {};
  info.Size = sizeof(info);
  info.DirectoryCount = ClampToUint(from.directory_count());
  info.FileCount = ClampToUint(from.file_count());
  info.CreatedTime = MakeSystemTime(from.creation_time());
  info.ModifiedTime = MakeSystemTime(from.modification_time());
  const size_t offset = block->Reserve(sizeof(info));
  block->Put(offset, info);
  return offset;
}

DismImageType TypeOf(v1::ImageType type) {
  switch (type) {
    case v1::IMAGE_TYPE_WIM: return DismImageTypeWim;
    case v1::IMAGE_TYPE_VHD: return DismImageTypeVhd;
    default: return DismImageTypeUnsupported;
  }
}

DismImageBootable BootableOf(v1::Bootable bootable) {
  switch (bootable) {
    case v1::BOOTABLE_YES: return DismImageBootableYes;
    case v1::BOOTABLE_NO: return DismImageBootableNo;
    default: return DismImageBootableUnknown;
  }
}

DismMountStatus StatusOf(v1::MountStatus status) {
  switch (status) {
    case v1::MOUNT_STATUS_OK: return DismMountStatusOk;
    case v1::MOUNT_STATUS_NEEDS_REMOUNT: return DismMountStatusNeedsRemount;
    default: return DismMountStatusInvalid;
  }
}

void PutImageInfo(const v1::ImageInfo& from, size_t at, ResultBlock* block) {
  DismImageInfo info = {};
  info.ImageType = TypeOf(from.image_type());
  info.ImageIndex = from.image_index();
  info.ImageSize = from.image_size();
  info.Architecture = from.architecture();
  info.MajorVersion = from.major_version();
  info.MinorVersion = from.minor_version();
  info.Build = from.build();
  info.SpBuild = from.service_pack_build();
  info.SpLevel = from.service_pack_level();
  info.Bootable = BootableOf(from.bootable());
  info.LanguageCount = static_cast<UINT>(from.languages_size());
  info.DefaultLanguageIndex = from.default_language_index();
  block->Put(at, info);
  block->PutString(at + offsetof(DismImageInfo, ImageName), from.image_name());
  block->PutString(at + offsetof(DismImageInfo, ImageDescription), from.image_description());
  block->PutString(at + offsetof(DismImageInfo, ProductName), from.product_name());
  block->PutString(at + offsetof(DismImageInfo, EditionId), from.edition_id());
  block->PutString(at + offsetof(DismImageInfo, InstallationType), from.installation_type());
  block->PutString(at + offsetof(DismImageInfo, Hal), from.hal());
  block->PutString(at + offsetof(DismImageInfo, ProductType), from.product_type());
  block->PutString(at + offsetof(DismImageInfo, ProductSuite), from.product_suite());
  block->PutString(at + offsetof(DismImageInfo, SystemRoot), from.system_root());
  if (from.languages_size() > 0) {
    const size_t languages = block->Reserve(sizeof(DismLanguage) * static_cast<size_t>(from.languages_size()));
    block->PutPointer(at + offsetof(DismImageInfo, Language), languages);
    for (int i = 0; i < from.languages_size(); ++i) {
      block->PutString(languages + sizeof(DismLanguage) * static_cast<size_t>(i), from.languages(i));
    }
  }
  if (info.ImageType == DismImageTypeWim) {
    block->PutPointer(at + offsetof(DismImageInfo, CustomizedInfo), AddCustomizedInfo(from, block));
  }
}

}  // namespace

SYSTEMTIME MakeSystemTime(uint64_t filetime) {
  constexpr uint64_t kTicksPerSecond = 10'000'000;
  constexpr int64_t kSecondsTo1970 = 11'644'473'600;
  SYSTEMTIME result = {};
  const time_t seconds = static_cast<time_t>(filetime / kTicksPerSecond) - kSecondsTo1970;
  tm parts = {};
  // A SYSTEMTIME's year ends at 30827; an image may claim any.
  if (filetime == 0 || gmtime_r(&seconds, &parts) == nullptr || parts.tm_year + 1900 > 30827) return result;
  result.wYear = static_cast<WORD>(parts.tm_year + 1900);
  result.wMonth = static_cast<WORD>(parts.tm_mon + 1);
  result.wDayOfWeek = static_cast<WORD>(parts.tm_wday);
  result.wDay = static_cast<WORD>(parts.tm_mday);
  result.wHour = static_cast<WORD>(parts.tm_hour);
  result.wMinute = static_cast<WORD>(parts.tm_min);
  result.wSecond = static_cast<WORD>(parts.tm_sec);
  result.wMilliseconds = static_cast<WORD>(filetime % kTicksPerSecond / 10'000);
  return result;
}

DismString* MakeString(std::string_view utf8) {
  ResultBlock block;
  block.Reserve(sizeof(DismString));
  block.PutString(offsetof(DismString, Value), utf8);
  return static_cast<DismString*>(block.Release());
}

DismImageInfo* MakeImageInfo(const v1::GetImageInfoResponse& response) {
  if (response.images_size() == 0) return nullptr;
  ResultBlock block;
  block.Reserve(sizeof(DismImageInfo) * static_cast<size_t>(response.images_size()));
  for (int i = 0; i < response.images_size(); ++i) {
    PutImageInfo(response.images(i), sizeof(DismImageInfo) * static_cast<size_t>(i), &block);
  }
  return static_cast<DismImageInfo*>(block.Release());
}

DismMountedImageInfo* MakeMountedImageInfo(const v1::ListMountsResponse& response) {
  if (response.mounts_size() == 0) return nullptr;
  ResultBlock block;
  block.Reserve(sizeof(DismMountedImageInfo) * static_cast<size_t>(response.mounts_size()));
  for (int i = 0; i < response.mounts_size(); ++i) {
    const v1::Mount& from = response.mounts(i);
    const size_t at = sizeof(DismMountedImageInfo) * static_cast<size_t>(i);
    DismMountedImageInfo info = {};
    info.ImageIndex = from.image_index();
    info.MountMode = from.read_only() ? DismReadOnly : DismReadWrite;
    info.MountStatus = StatusOf(from.status());
    block.Put(at, info);
    block.PutString(at + offsetof(DismMountedImageInfo, MountPath), from.mount_path());
    block.PutString(at + offsetof(DismMountedImageInfo, ImageFilePath), from.image_path());
  }
  return static_cast<DismMountedImageInfo*>(block.Release());
}

}  // namespace dismd
