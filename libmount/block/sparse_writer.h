// SPDX-License-Identifier: GPL-3.0-or-later
//
// SparseWriter: what writing into VHD and VHDX has in common: a block that is there is written in place; one that is
// not gets a place at the file's end, is filled (with its parent's contents, where it has one), and is entered in the
// BAT once that is on the disk.
//
// Thread safety: as ContainerWriter.

#ifndef LIBMOUNT_BLOCK_SPARSE_WRITER_H_
#define LIBMOUNT_BLOCK_SPARSE_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libmount/block/container_writer.h"
#include "libmount/block/disk_layer.h"

namespace libmount {

class SparseWriter : public ContainerWriter {
 public:
  // Blocks that are filled and not yet in the BAT, at most: then one sync serves them all.
  static constexpr size_t kMaxPendingBlocks = 64;

  absl::Status Write(uint64_t offset, absl::Span<const char> data) final;
  absl::StatusOr<uint64_t> GrowthFor(uint64_t offset, uint64_t length) final;
  absl::Status Finish() final;

 protected:
  // Where a new block's data go, and whether the file reads as zeros there.
  struct Place {
    uint64_t offset = 0;
    bool zeros = false;
  };

  SparseWriter(DiskLayer* layer, std::unique_ptr<ContainerFile> file) : layer_(*layer), file_(std::move(file)) {}

  // Before the first change of the file.
  virtual absl::Status Begin() = 0;
  // REQUIRES: the block is not pending.
  virtual absl::StatusOr<Place> Allocate(uint64_t block) = 0;
  // The block's data are on the disk: enters them in the BAT.
  virtual absl::Status Enter(uint64_t block, uint64_t data_offset) = 0;
  // All is entered and on the disk.
  virtual absl::Status End() { return absl::OkStatus(); }

  absl::Status WriteFile(uint64_t offset, absl::Span<const char> data);
  absl::Status ResizeFile(uint64_t size);
  absl::Status SyncFile();
  absl::Status ReadFile(uint64_t offset, absl::Span<char> out);
  absl::StatusOr<uint64_t> FileSize();
  absl::Status Error(int error, const char* what) const;
  // "<file>: <text>", kBadImageFormat.
  absl::Status Bad(const std::string& text) const;

 private:
  absl::Status WriteInBlock(uint64_t block, uint64_t offset, absl::Span<const char> data);
  absl::Status AddBlock(uint64_t block, absl::Span<const char> data, uint64_t offset);
  // Writes to a new block what the disk holds there until now.
  absl::Status Fill(uint64_t block, const Place& place);
  absl::Status EnterPending();
  absl::Status DoWrite(uint64_t offset, absl::Span<const char> data);

  DiskLayer& layer_;
  const std::unique_ptr<ContainerFile> file_;
  bool begun_ = false;
  std::map<uint64_t, uint64_t> pending_;  // block, offset of its data
  absl::Status failed_;
};

std::unique_ptr<ContainerWriter> MakeFlatWriter(DiskLayer* layer, std::unique_ptr<ContainerFile> file);
class VhdSparseLayer;
absl::StatusOr<std::unique_ptr<ContainerWriter>> MakeVhdWriter(VhdSparseLayer* layer,
                                                               std::unique_ptr<ContainerFile> file);
class VhdxLayer;
absl::StatusOr<std::unique_ptr<ContainerWriter>> MakeVhdxWriter(VhdxLayer* layer, std::unique_ptr<ContainerFile> file);

}  // namespace libmount

#endif  // LIBMOUNT_BLOCK_SPARSE_WRITER_H_
