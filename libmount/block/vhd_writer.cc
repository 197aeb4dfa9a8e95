// SPDX-License-Identifier: GPL-3.0-or-later
//
// Writes into dynamic and differencing VHDs.
//
// A tool finds the disk by the footer at the file's end, so there is one at every moment: before blocks are added, a
// footer is written behind the room they need, and synced; only then is the old one written over.

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/block/big_endian.h"
#include "libmount/block/sparse_writer.h"
#include "libmount/block/vhd_format.h"
#include "libmount/block/vhd_layer.h"

namespace libmount {
namespace {

// Room made with one sync of the footer.
constexpr uint64_t kGrowBlocks = 16;
// Blocks' data begin at such multiples, as Windows 8 and later put them: pages of the cache and of flash.
constexpr uint64_t kDataAlignment = 4096;
// Blocks of a disk that is written into: what is remembered to see that none overlap.
constexpr uint64_t kMaxWritableBlocks = uint64_t{16} << 20;

class VhdWriter final : public SparseWriter {
 public:
  VhdWriter(VhdSparseLayer* layer, std::unique_ptr<ContainerFile> file)
      : SparseWriter(layer, std::move(file)), layer_(*layer) {}

  // Looks for the end of what is used, and that nothing overlaps.
  absl::Status Survey();

 protected:
  absl::Status Begin() override { return absl::OkStatus(); }
  absl::StatusOr<Place> Allocate(uint64_t block) override;
  absl::Status Enter(uint64_t block, uint64_t data_offset) override;
  absl::Status End() override { return room_ == end_ ? absl::OkStatus() : CutToEnd(); }

 private:
  absl::Status FindFooter(uint64_t file_size, uint64_t* footer_offset);
  // Puts the footer behind what is used, and the file's end behind it.
  absl::Status CutToEnd();
  absl::Status MakeRoom(uint64_t end);

  VhdSparseLayer& layer_;
  std::string footer_;
  uint64_t end_ = 0;   // where the next block may begin
  uint64_t room_ = 0;  // where the footer is
  bool cut_ = false;   // what lies between the two is zeros
};

absl::Status VhdWriter::FindFooter(uint64_t file_size, uint64_t* footer_offset) {
  footer_.resize(kVhdFooterSize);
  *footer_offset = file_size < kVhdFooterSize ? 0 : file_size - kVhdFooterSize;
  for (const uint64_t offset : {*footer_offset, uint64_t{0}}) {
    if (absl::Status status = ReadFile(offset, absl::MakeSpan(footer_)); !status.ok()) return status;
    absl::StatusOr<VhdFooter> footer = ParseVhdFooter(footer_);
    if (footer.ok() && footer->type != VhdType::kFixed) return absl::OkStatus();
    *footer_offset = file_size;
  }
  return Bad("its footer has gone");
}

absl::Status VhdWriter::Survey() {
  const absl::StatusOr<uint64_t> file_size = FileSize();
  if (!file_size.ok()) return file_size.status();
  uint64_t footer_offset = 0;
  if (absl::Status status = FindFooter(*file_size, &footer_offset); !status.ok()) return status;
  if (layer_.block_count() > kMaxWritableBlocks) {
    return Bad(
        absl::StrFormat("has %d blocks; writing is done to at most %d", layer_.block_count(), kMaxWritableBlocks));
  }
  std::vector<uint32_t> sectors;
  uint32_t last_block_sector = kVhdUnusedEntry;
  for (uint64_t block = 0; block < layer_.block_count(); ++block) {
    uint32_t sector;
    if (int error = layer_.LoadEntry(block, &sector); error != 0) return Error(error, "reading the BAT");
    if (sector != kVhdUnusedEntry) sectors.push_back(sector);
    last_block_sector = sector;
  }
  std::sort(sectors.begin(), sectors.end());
  // Behind the headers, the BAT and the parent locators, which stand in front of the first block.
  uint64_t end =
      std::max(kVhdFooterSize + kVhdDynamicHeaderSize, layer_.bat_offset() + layer_.block_count() * sizeof(uint32_t));
  for (const uint32_t sector : sectors) {
    const uint64_t begin = uint64_t{sector} * kVhdSectorSize;
    if (begin < end) return Bad(absl::StrFormat("two things stand at offset %d", begin));
    uint64_t data = layer_.block_size();
    if (sector == last_block_sector) data = layer_.size() - (layer_.block_count() - 1) * data;
    end = begin + layer_.bitmap_size() + data;
    if (end > footer_offset) return Bad(absl::StrFormat("the block at offset %d lies beyond the end", begin));
    // The last block's part behind the disk's end counts as far as the file has it.
    end_ = std::max(end_, std::min(begin + layer_.bitmap_size() + layer_.block_size(), footer_offset));
  }
  end = std::max({end, end_, layer_.locators_end()});
  if (end > footer_offset) return Bad("its headers lie beyond the end");
  end_ = (end + kVhdSectorSize - 1) / kVhdSectorSize * kVhdSectorSize;
  room_ = footer_offset;
  return absl::OkStatus();
}

absl::Status VhdWriter::CutToEnd() {
  if (absl::Status status = WriteFile(end_, footer_); !status.ok()) return status;
  if (absl::Status status = SyncFile(); !status.ok()) return status;
  if (absl::Status status = ResizeFile(end_ + kVhdFooterSize); !status.ok()) return status;
  room_ = end_;
  return SyncFile();
}

absl::Status VhdWriter::MakeRoom(uint64_t end) {
  const uint64_t size = room_ + kVhdFooterSize;
  absl::Status status = WriteFile(end, footer_);
  if (status.ok()) status = SyncFile();
  if (!status.ok()) {
    (void)ResizeFile(size);  // back behind the old footer, which nothing was written over
    return status;
  }
  // The old one would otherwise lie in a new block.
  return WriteFile(std::exchange(room_, end), std::string(kVhdFooterSize, '\0'));
}

absl::StatusOr<SparseWriter::Place> VhdWriter::Allocate(uint64_t block) {
  if (!cut_) {
    // What a broken-off attempt has left behind the last block goes, so that new blocks begin as zeros.
    if (absl::Status status = CutToEnd(); !status.ok()) return status;
    cut_ = true;
  }
  const uint64_t data = (end_ + layer_.bitmap_size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
  const uint64_t begin = data - layer_.bitmap_size();
  if (begin / kVhdSectorSize >= kVhdUnusedEntry) return Error(EFBIG, "adding a block at the format's end");
  const uint64_t end = data + layer_.block_size();
  const uint64_t stride = layer_.bitmap_size() + kDataAlignment + layer_.block_size();
  if (end > room_) {
    if (absl::Status status = MakeRoom(end + (kGrowBlocks - 1) * stride); !status.ok()) return status;
  }
  // All of the block's sectors are in it.
  const std::string bitmap(layer_.bitmap_size(), '\xff');
  if (absl::Status status = WriteFile(begin, bitmap); !status.ok()) return status;
  end_ = end;
  return Place{data, true};
}

absl::Status VhdWriter::Enter(uint64_t block, uint64_t data_offset) {
  const auto sector = static_cast<uint32_t>((data_offset - layer_.bitmap_size()) / kVhdSectorSize);
  if (int error = layer_.KeepEntry(block); error != 0) return Error(error, "reading the BAT");
  char entry[sizeof sector];
  StoreBe32(sector, entry);
  if (absl::Status status = WriteFile(layer_.bat_offset() + block * sizeof sector, entry); !status.ok()) return status;
  layer_.StoreEntry(block, sector);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ContainerWriter>> MakeVhdWriter(VhdSparseLayer* layer,
                                                               std::unique_ptr<ContainerFile> file) {
  auto writer = std::make_unique<VhdWriter>(layer, std::move(file));
  if (absl::Status status = writer->Survey(); !status.ok()) return status;
  return writer;
}

}  // namespace libmount
