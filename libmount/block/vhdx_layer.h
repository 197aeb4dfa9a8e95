// SPDX-License-Identifier: GPL-3.0-or-later
//
// VHDX files as layers of a disk.
//
// Thread safety: as DiskLayer.

#ifndef LIBMOUNT_BLOCK_VHDX_LAYER_H_
#define LIBMOUNT_BLOCK_VHDX_LAYER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libmount/block/disk_layer.h"
#include "libmount/block/lazy_pages.h"
#include "libmount/block/vhdx_format.h"

namespace libmount {

absl::StatusOr<bool> LooksLikeVhdx(const DiskFile& file);

// kBadImageFormat, kImageChanged. The parent is the caller's to find.
absl::StatusOr<std::unique_ptr<DiskLayer>> OpenVhdxLayer(std::unique_ptr<DiskFile> file);

class VhdxLayer final : public DiskLayer {
 public:
  // What was read when the file was opened, and does not change while it is.
  struct Tables {
    VhdxHeader header;
    VhdxRegions regions;
    VhdxGeometry geometry;
    bool leave_blocks_allocated = false;  // a fixed disk
  };

  VhdxLayer(std::unique_ptr<DiskFile> file, DiskFileInfo info, const Tables& tables);

  const Tables& tables() const { return tables_; }
  const VhdxGeometry& geometry() const { return tables_.geometry; }

  // An entry of the BAT, by its own number.
  int LoadEntry(uint64_t index, uint64_t* entry) const;
  // For the writer, around its change of the file: see LazyPages.
  int KeepEntry(uint64_t index) { return bat_.Keep(PageOf(index), PlaceOf(index)); }
  void StoreEntry(uint64_t index, uint64_t entry);
  uint64_t entry_offset(uint64_t index) const { return tables_.regions.bat.offset + index * sizeof(uint64_t); }

 private:
  int MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const override;
  int MapPartial(uint64_t block, uint64_t within, uint64_t limit, DiskExtent* extent) const;
  // The bit of a sector of the disk, and how many sectors from it on have the same, up to `limit`.
  int SameBits(uint64_t bitmap_place, uint64_t sector, uint64_t limit, bool* bit, uint64_t* count) const;
  uint64_t PageOf(uint64_t index) const { return index * sizeof(uint64_t) / bat_.page_size(); }
  uint64_t PlaceOf(uint64_t index) const { return tables_.regions.bat.offset + PageOf(index) * bat_.page_size(); }

  const Tables tables_;
  LazyPages bat_;
  LazyPages bitmaps_;  // of a differencing disk: all of them in one row
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_VHDX_LAYER_H_
