// SPDX-License-Identifier: GPL-3.0-or-later
//
// VHD files as layers of a disk.
//
// Thread safety: as DiskLayer.

#ifndef LIBMOUNT_BLOCK_VHD_LAYER_H_
#define LIBMOUNT_BLOCK_VHD_LAYER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/block/disk_layer.h"
#include "libmount/block/lazy_pages.h"
#include "libmount/block/vhd_format.h"

namespace libmount {

// Whether the file says that it is a VHD, at its end or its start.
absl::StatusOr<bool> LooksLikeVhd(const DiskFile& file);

// kBadImageFormat, kImageChanged. The parent is the caller's to find.
absl::StatusOr<std::unique_ptr<DiskLayer>> OpenVhdLayer(std::unique_ptr<DiskFile> file);

// Blocks found through the BAT, each behind the bitmap of its sectors.
class VhdSparseLayer final : public DiskLayer {
 public:
  VhdSparseLayer(std::unique_ptr<DiskFile> file, DiskFileInfo info, const VhdDynamicHeader& header);

  uint64_t block_count() const { return block_count_; }
  uint32_t block_size() const { return info().block_size; }
  uint32_t bitmap_size() const { return bitmap_size_; }
  uint64_t bat_offset() const { return bat_offset_; }
  uint64_t locators_end() const { return locators_end_; }  // behind the last parent locator; 0: none

  // The entry of a block: the file's sector with its bitmap, or kVhdUnusedEntry.
  int LoadEntry(uint64_t block, uint32_t* sector) const;
  // For the writer, around its change of the file: see LazyPages.
  int KeepEntry(uint64_t block) { return bat_.Keep(PageOf(block), PlaceOf(block)); }
  void StoreEntry(uint64_t block, uint32_t sector);

 private:
  int MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const override;
  // How many sectors from `first` on (of the block whose bitmap is at `bitmap_place`) have the same bit, up to `limit`.
  int SameBits(uint64_t block, uint64_t bitmap_place, uint32_t first, uint32_t limit, bool* bit, uint32_t* count) const;
  uint64_t PageOf(uint64_t block) const { return block * sizeof(uint32_t) / bat_.page_size(); }
  uint64_t PlaceOf(uint64_t block) const { return bat_offset_ + PageOf(block) * bat_.page_size(); }

  const bool differencing_;
  const uint64_t bat_offset_;
  const uint64_t locators_end_;
  const uint64_t block_count_;
  const uint32_t bitmap_size_;
  LazyPages bat_;
  LazyPages bitmaps_;  // a differencing disk's; a page for each block
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_VHD_LAYER_H_
