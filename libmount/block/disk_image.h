// SPDX-License-Identifier: GPL-3.0-or-later
//
// DiskImage: an opened VHD or VHDX (or a raw file) with the chain of its parents, and the disk that it holds.
//
// Everything is read with pread from descriptors that the caller opened; nothing is opened by path here. A file is
// taken for what its contents say, not for what its name says. See README.md for the formats.
//
// Thread safety: const methods may be called from any number of threads.

#ifndef LIBMOUNT_BLOCK_DISK_IMAGE_H_
#define LIBMOUNT_BLOCK_DISK_IMAGE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/block_device.h"

namespace libmount {

enum class DiskFormat { kRaw, kVhd, kVhdx };
enum class DiskType { kFixed, kDynamic, kDifferencing };

const char* DiskFormatName(DiskFormat format);  // "raw", "VHD", "VHDX"
const char* DiskTypeName(DiskType type);        // "fixed", "dynamic", "differencing"

// Where a differencing disk says that its parent is; as it stands in the file, in WTF-8.
struct ParentLocator {
  std::string kind;   // VHDX: the key, such as "relative_path"; VHD: the platform code, such as "W2ru", or "name"
  std::string value;  // a path of Windows'
};

// What one file of the chain says about itself.
struct DiskFileInfo {
  std::string name;  // as it was opened: the image's name, or a parent's path beneath the image's directory
  dev_t device = 0;  // which file it is, whatever path led there
  ino_t inode = 0;
  DiskFormat format = DiskFormat::kRaw;
  DiskType type = DiskType::kFixed;
  uint64_t file_size = 0;
  uint64_t virtual_size = 0;
  uint32_t sector_size = 512;  // logical
  uint32_t physical_sector_size = 512;
  uint32_t block_size = 0;  // 0: fixed VHD, raw
  std::string creator;      // the program that made it, where it says so
  // GUIDs in lower case with dashes; empty where the format has none.
  std::string identifier;             // VHD: the disk's unique id; VHDX: the virtual disk id (page 83)
  std::string data_write_identifier;  // VHDX: changes with every session of writing; children hold on to it
  std::string parent_identifier;      // VHD: the parent's unique id; VHDX: its data_write_identifier
  std::vector<ParentLocator> parent_locators;
  bool log_replayed = false;          // VHDX: a log was waiting in the file, and is applied in memory
  std::vector<std::string> warnings;  // what is odd and does not keep the disk from being read
};

// Opens a parent: `path` is relative, with slashes and without "..", beneath the directory of the image. kImageNotFound
// and kAccessDenied (and kInvalidPath) let the search go on at the next place; any other error ends it.
using ParentOpener = std::function<absl::StatusOr<UniqueFd>(std::string_view path)>;

// Files of a chain, the image among them.
inline constexpr size_t kMaxDiskChain = 64;

class DiskImage {
 public:
  virtual ~DiskImage() = default;

  // The image first, then its parent, and so on. Never empty.
  virtual const std::vector<DiskFileInfo>& chain() const = 0;

  // The disk. Lives as long as the image. Reads give EIO once a file of the chain was found changed by others.
  virtual const BlockDevice& device() const = 0;

  // A commit into the image is announced: between these two, reads do not look whether the image's own file was
  // changed; RenewWatch takes it as it is then for what it should be. Calls nest. (Parents are watched all the time.)
  virtual void SuspendWatch() const = 0;
  virtual void RenewWatch() const = 0;
  // kImageChanged: some file of the chain was changed by somebody else.
  virtual absl::Status CheckUnchanged() const = 0;
};

// `name`: the file's name without directory. kBadImageFormat: not a disk image, or damaged (the message says what and
// where); kPartMissing: a parent was not found; kImageChanged; kCancelled.
//
// `may_be_raw`: a file that is neither VHD nor VHDX is taken for the disk itself (sectors of 512 bytes).
absl::StatusOr<std::unique_ptr<DiskImage>> OpenDiskImage(UniqueFd fd, std::string name, const ParentOpener& open_parent,
                                                         OperationMonitor& monitor, bool may_be_raw = false);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_DISK_IMAGE_H_
