// SPDX-License-Identifier: GPL-3.0-or-later
//
// DiskLayer: one file of a chain, as a disk: where each byte is, in the file, nowhere, or in the parent.
//
// Thread safety: const methods may be called from any number of threads; none waits for another.

#ifndef LIBMOUNT_BLOCK_DISK_LAYER_H_
#define LIBMOUNT_BLOCK_DISK_LAYER_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "libmount/block/block_device.h"
#include "libmount/block/disk_file.h"
#include "libmount/block/disk_image.h"

namespace libmount {

// A piece of the disk that lies in one place.
struct DiskExtent {
  enum class Source { kFile, kZeros, kParent };
  Source source = Source::kZeros;
  uint64_t file_offset = 0;  // kFile
  uint64_t size = 0;
};

class DiskLayer : public BlockDevice {
 public:
  DiskLayer(std::unique_ptr<DiskFile> file, DiskFileInfo info) : file_(std::move(file)), info_(std::move(info)) {}

  const DiskFileInfo& info() const { return info_; }
  DiskFileInfo& mutable_info() { return info_; }
  DiskFile& file() const { return *file_; }

  uint64_t size() const final { return info_.virtual_size; }
  uint32_t sector_size() const final { return info_.sector_size; }
  int Read(uint64_t offset, absl::Span<char> out) const final;

  // What kParent means; without it: zeros, and so behind the parent's end.
  // REQUIRES: set before threads read. `parent` must outlive the layer.
  void set_parent(const DiskLayer* parent) { parent_ = parent; }

  // The longest piece at `offset`, up to `limit` bytes, that lies in one place: adjacent blocks become one piece.
  // 0 or an errno. REQUIRES: 0 < limit <= size() - offset.
  int Map(uint64_t offset, uint64_t limit, DiskExtent* extent) const;

 protected:
  // The same within one block (or less).
  virtual int MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const = 0;

 private:
  int ReadParent(uint64_t offset, absl::Span<char> out) const;

  const std::unique_ptr<DiskFile> file_;
  DiskFileInfo info_;
  const DiskLayer* parent_ = nullptr;
};

// The whole disk in one piece at the start of its file: a raw file, a fixed VHD.
class FlatLayer final : public DiskLayer {
 public:
  using DiskLayer::DiskLayer;

 private:
  int MapInBlock(uint64_t offset, uint64_t limit, DiskExtent* extent) const override {
    *extent = {DiskExtent::Source::kFile, offset, limit};
    return 0;
  }
};

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_DISK_LAYER_H_
