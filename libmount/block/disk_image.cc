// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/disk_image.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "libmount/base/reason.h"
#include "libmount/block/disk_file.h"
#include "libmount/block/disk_image_impl.h"
#include "libmount/block/parent_paths.h"
#include "libmount/block/vhd_layer.h"
#include "libmount/block/vhdx_layer.h"

namespace libmount {
namespace {

constexpr uint32_t kRawSectorSize = 512;

absl::StatusOr<std::unique_ptr<DiskLayer>> OpenRawLayer(std::unique_ptr<DiskFile> file) {
  DiskFileInfo info;
  info.name = file->name();
  info.file_size = file->size();
  info.virtual_size = file->size() / kRawSectorSize * kRawSectorSize;
  if (info.virtual_size == 0) return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is empty", info.name));
  return std::make_unique<FlatLayer>(std::move(file), std::move(info));
}

absl::StatusOr<std::unique_ptr<DiskLayer>> OpenLayer(std::unique_ptr<DiskFile> file, bool may_be_raw) {
  absl::StatusOr<bool> is_vhdx = LooksLikeVhdx(*file);
  if (!is_vhdx.ok()) return is_vhdx.status();
  if (*is_vhdx) return OpenVhdxLayer(std::move(file));
  absl::StatusOr<bool> is_vhd = LooksLikeVhd(*file);
  if (!is_vhd.ok()) return is_vhd.status();
  if (*is_vhd) return OpenVhdLayer(std::move(file));
  if (may_be_raw) return OpenRawLayer(std::move(file));
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s is neither a VHD nor a VHDX", file->name()));
}

// Finds the parents of a differencing disk, one behind the other.
class ChainOpener {
 public:
  ChainOpener(const ParentOpener& open_parent, OperationMonitor& monitor)
      : open_parent_(open_parent), monitor_(monitor) {}

  absl::StatusOr<std::unique_ptr<DiskImage>> Open(std::unique_ptr<DiskLayer> image) {
    layers_.push_back(std::move(image));
    while (layers_.back()->info().type == DiskType::kDifferencing) {
      if (layers_.size() >= kMaxDiskChain) {
        return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: more than %d parents behind each other",
                                                                  layers_.front()->info().name, kMaxDiskChain));
      }
      absl::StatusOr<std::unique_ptr<DiskLayer>> parent = FindParent(*layers_.back());
      if (!parent.ok()) return parent.status();
      layers_.back()->set_parent(parent->get());
      layers_.push_back(*std::move(parent));
    }
    return std::make_unique<LayeredImage>(std::move(layers_));
  }

 private:
  absl::StatusOr<std::unique_ptr<DiskLayer>> FindParent(const DiskLayer& child) {
    const std::vector<std::string> paths = ParentPaths(child.info().parent_locators, child.info().name);
    absl::Status refused;  // why a file that was there is not the parent
    for (const std::string& path : paths) {
      if (absl::Status status = CheckCancelled(monitor_); !status.ok()) return status;
      absl::StatusOr<UniqueFd> fd = open_parent_(path);
      if (!fd.ok()) {
        const Reason reason = ReasonOf(fd.status());
        const bool go_on =
            reason == Reason::kImageNotFound || reason == Reason::kAccessDenied || reason == Reason::kInvalidPath;
        if (!go_on) return fd.status();
        if (reason == Reason::kAccessDenied && refused.ok()) refused = fd.status();
        continue;
      }
      absl::StatusOr<std::unique_ptr<DiskLayer>> parent = OpenParent(*std::move(fd), path, child);
      if (parent.ok()) return parent;
      if (ReasonOf(parent.status()) == Reason::kCancelled) return parent.status();
      refused = parent.status();
    }
    if (!refused.ok()) return refused;
    return MakeError(Reason::kPartMissing,
                     absl::StrFormat("%s is a differencing disk, and its parent was not found beneath its directory "
                                     "(looked for %s); put it there, or into a directory that dismd's --parents names",
                                     child.info().name, paths.empty() ? "nothing" : absl::StrJoin(paths, ", ")));
  }

  absl::StatusOr<std::unique_ptr<DiskLayer>> OpenParent(UniqueFd fd, const std::string& path, const DiskLayer& child) {
    absl::StatusOr<std::unique_ptr<DiskFile>> file = DiskFile::Open(std::move(fd), path);
    if (!file.ok()) return file.status();
    for (const std::unique_ptr<DiskLayer>& layer : layers_) {
      if (layer->file().device() == (*file)->device() && layer->file().inode() == (*file)->inode()) {
        return MakeError(Reason::kBadImageFormat,
                         absl::StrFormat("%s: the chain of parents comes back to %s", child.info().name, path));
      }
    }
    absl::StatusOr<std::unique_ptr<DiskLayer>> parent = OpenLayer(*std::move(file), false);
    if (!parent.ok()) return parent.status();
    if (absl::Status status = CheckLinkage(child.info(), (*parent)->info()); !status.ok()) return status;
    return parent;
  }

  static absl::Status CheckLinkage(const DiskFileInfo& child, const DiskFileInfo& parent) {
    if (child.format != parent.format) {
      return MakeError(Reason::kBadImageFormat,
                       absl::StrFormat("%s is a %s, its parent %s a %s", child.name, DiskFormatName(child.format),
                                       parent.name, DiskFormatName(parent.format)));
    }
    if (child.sector_size != parent.sector_size) {
      return MakeError(Reason::kBadImageFormat,
                       absl::StrFormat("%s has sectors of %d bytes, its parent %s of %d", child.name, child.sector_size,
                                       parent.name, parent.sector_size));
    }
    if (Expected(child, parent)) return absl::OkStatus();
    return MakeError(
        Reason::kBadImageFormat,
        absl::StrFormat("%s is not the parent that %s was made from, or was written to since then: its identifier is "
                        "%s, not %s",
                        parent.name, child.name,
                        parent.format == DiskFormat::kVhdx ? parent.data_write_identifier : parent.identifier,
                        child.parent_identifier));
  }

  static bool Expected(const DiskFileInfo& child, const DiskFileInfo& parent) {
    if (parent.format == DiskFormat::kVhd) return child.parent_identifier == parent.identifier;
    if (child.parent_identifier == parent.data_write_identifier) return true;
    // While a writer changes the parent's identifier together with its children's, the second one is right, too.
    return std::any_of(child.parent_locators.begin(), child.parent_locators.end(), [&](const ParentLocator& locator) {
      return locator.kind == "parent_linkage2" && locator.value.size() > 2 &&
             absl::EqualsIgnoreCase(locator.value.substr(1, locator.value.size() - 2), parent.data_write_identifier);
    });
  }

  const ParentOpener& open_parent_;
  OperationMonitor& monitor_;
  std::vector<std::unique_ptr<DiskLayer>> layers_;
};

}  // namespace

const char* DiskFormatName(DiskFormat format) {
  switch (format) {
    case DiskFormat::kRaw: return "raw";
    case DiskFormat::kVhd: return "VHD";
    case DiskFormat::kVhdx: return "VHDX";
  }
  return "";
}

const char* DiskTypeName(DiskType type) {
  switch (type) {
    case DiskType::kFixed: return "fixed";
    case DiskType::kDynamic: return "dynamic";
    case DiskType::kDifferencing: return "differencing";
  }
  return "";
}

LayeredImage::LayeredImage(std::vector<std::unique_ptr<DiskLayer>> layers) : layers_(std::move(layers)) {
  for (const std::unique_ptr<DiskLayer>& layer : layers_) {
    DiskFileInfo& info = chain_.emplace_back(layer->info());
    info.device = layer->file().device();
    info.inode = layer->file().inode();
  }
}

absl::Status LayeredImage::CheckUnchanged() const {
  for (const std::unique_ptr<DiskLayer>& layer : layers_) {
    if (absl::Status status = layer->file().CheckUnchanged(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DiskImage>> OpenDiskImage(UniqueFd fd, std::string name, const ParentOpener& open_parent,
                                                         OperationMonitor& monitor, bool may_be_raw) {
  if (absl::Status status = CheckCancelled(monitor); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DiskFile>> file = DiskFile::Open(std::move(fd), std::move(name));
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<DiskLayer>> image = OpenLayer(*std::move(file), may_be_raw);
  if (!image.ok()) return image.status();
  return ChainOpener(open_parent, monitor).Open(*std::move(image));
}

}  // namespace libmount
