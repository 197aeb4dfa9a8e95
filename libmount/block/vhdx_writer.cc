// SPDX-License-Identifier: GPL-3.0-or-later
//
// Writes into VHDXs. The log is not used: an entry of the BAT is 8 bytes inside one sector, which a disk writes whole
// or not at all, and nothing else of the tables is changed.

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/block/sparse_writer.h"
#include "libmount/block/vhdx_format.h"
#include "libmount/block/vhdx_layer.h"

namespace libmount {
namespace {

// Files that are written into are at most so large; a bit is kept for each unit of 1 MiB.
constexpr uint64_t kMaxWritableFileSize = uint64_t{256} << 40;
constexpr uint64_t kZeroPiece = uint64_t{1} << 20;

Guid NewGuid() {
  Guid guid;
  // No seed is as bad as none: a GUID that was there before would hide from children that their parent has changed.
  while (getrandom(guid.data(), guid.size(), 0) != static_cast<ssize_t>(guid.size())) {
  }
  guid[7] = static_cast<char>((guid[7] & 0x0f) | 0x40);  // version 4: random
  guid[8] = static_cast<char>((guid[8] & 0x3f) | 0x80);
  return guid;
}

class VhdxWriter final : public SparseWriter {
 public:
  VhdxWriter(VhdxLayer* layer, std::unique_ptr<ContainerFile> file)
      : SparseWriter(layer, std::move(file)), layer_(*layer) {}

  // Looks for the end of what is used, and that nothing overlaps.
  absl::Status Survey();

 protected:
  absl::Status Begin() override;
  absl::StatusOr<Place> Allocate(uint64_t block) override;
  absl::Status Enter(uint64_t block, uint64_t data_offset) override;

 private:
  // Units of 1 MiB, from that with `offset` on. False: they are taken, or not in the file.
  bool Take(uint64_t offset, uint64_t size);
  absl::Status TakeTables();
  absl::Status TakeBlocks();
  void KeepPlaces();
  uint64_t SizeInDisk(uint64_t block) const {
    return std::min<uint64_t>(layer_.geometry().block_size, layer_.size() - block * layer_.geometry().block_size);
  }
  absl::Status WriteLogToPlaces();
  absl::Status WriteHeaders();

  VhdxLayer& layer_;
  uint64_t file_size_ = 0;
  uint64_t end_ = 0;             // where the next block may begin
  bool cut_ = false;             // behind end_ is nothing
  std::vector<bool> taken_;      // units of the file; let go when surveyed
  std::vector<bool> has_place_;  // blocks without data whose entry names a place of their own in the file
};

bool VhdxWriter::Take(uint64_t offset, uint64_t size) {
  const uint64_t first = offset / kVhdxUnit;
  const uint64_t behind = (offset + size + kVhdxUnit - 1) / kVhdxUnit;
  if (offset > kVhdxMaxFileSize || behind > taken_.size()) return false;
  for (uint64_t unit = first; unit < behind; ++unit) {
    if (taken_[unit]) return false;
  }
  for (uint64_t unit = first; unit < behind; ++unit) taken_[unit] = true;
  end_ = std::max(end_, behind * kVhdxUnit);
  return true;
}

absl::Status VhdxWriter::TakeTables() {
  const VhdxLayer::Tables& tables = layer_.tables();
  if (!Take(0, kVhdxUnit)) return Bad("no headers");
  std::vector<VhdxRegion> regions = tables.regions.others;
  regions.push_back(tables.regions.bat);
  regions.push_back(tables.regions.metadata);
  regions.push_back({tables.header.log_offset, tables.header.log_size});
  for (const VhdxRegion& region : regions) {
    if (region.size == 0 || Take(region.offset, region.size)) continue;
    return Bad(absl::StrFormat("the region at offset %d overlaps another, or the end", region.offset));
  }
  return absl::OkStatus();
}

absl::Status VhdxWriter::TakeBlocks() {
  const VhdxGeometry& geometry = layer_.geometry();
  for (uint64_t block = 0; block < geometry.payload_blocks(); ++block) {
    uint64_t entry;
    if (int error = layer_.LoadEntry(geometry.payload_entry(block), &entry); error != 0) {
      return Error(error, "reading the BAT");
    }
    const VhdxBlockState state = VhdxStateOf(entry);
    if (state != VhdxBlockState::kFullyPresent && state != VhdxBlockState::kPartiallyPresent) continue;
    if (Take(VhdxOffsetOf(entry), SizeInDisk(block))) {
      // The last block's part behind the disk's end counts as far as the file has it.
      const uint64_t behind = VhdxOffsetOf(entry) + geometry.block_size;
      end_ = std::max(end_, std::min(behind, taken_.size() * kVhdxUnit));
      continue;
    }
    return Bad(absl::StrFormat("the block at offset %d overlaps something else, or the end", VhdxOffsetOf(entry)));
  }
  if (!geometry.has_parent) return absl::OkStatus();
  for (uint64_t bitmap = 0; bitmap < geometry.bitmap_blocks(); ++bitmap) {
    uint64_t entry;
    if (int error = layer_.LoadEntry(geometry.bitmap_entry(bitmap * geometry.ratio()), &entry); error != 0) {
      return Error(error, "reading the BAT");
    }
    if ((entry & 7) != kVhdxBitmapPresent || Take(VhdxOffsetOf(entry), kVhdxBitmapBlockSize)) continue;
    return Bad(absl::StrFormat("the bitmap at offset %d overlaps something else, or the end", VhdxOffsetOf(entry)));
  }
  return absl::OkStatus();
}

// A fixed disk's blocks have their places from the beginning, whatever their state. Those that are sound are used.
void VhdxWriter::KeepPlaces() {
  const VhdxGeometry& geometry = layer_.geometry();
  has_place_.resize(geometry.payload_blocks());
  for (uint64_t block = 0; block < geometry.payload_blocks(); ++block) {
    uint64_t entry;
    if (layer_.LoadEntry(geometry.payload_entry(block), &entry) != 0) continue;
    const VhdxBlockState state = VhdxStateOf(entry);
    if (state != VhdxBlockState::kUndefined && state != VhdxBlockState::kZero && state != VhdxBlockState::kUnmapped) {
      continue;
    }
    if (VhdxOffsetOf(entry) != 0) has_place_[block] = Take(VhdxOffsetOf(entry), SizeInDisk(block));
  }
}

absl::Status VhdxWriter::Survey() {
  const absl::StatusOr<uint64_t> file_size = FileSize();
  if (!file_size.ok()) return file_size.status();
  const FilePatches* patches = layer_.file().patches();
  file_size_ = patches == nullptr ? *file_size : std::max(*file_size, patches->file_size());
  if (file_size_ > kMaxWritableFileSize) return Bad("is too large to be written into");
  taken_.assign((file_size_ + kVhdxUnit - 1) / kVhdxUnit, false);
  if (absl::Status status = TakeTables(); !status.ok()) return status;
  if (absl::Status status = TakeBlocks(); !status.ok()) return status;
  KeepPlaces();
  taken_ = {};
  return absl::OkStatus();
}

absl::Status VhdxWriter::Begin() {
  if (layer_.file().patches() != nullptr) {
    if (absl::Status status = WriteLogToPlaces(); !status.ok()) return status;
  }
  return WriteHeaders();
}

absl::Status VhdxWriter::WriteLogToPlaces() {
  const FilePatches* patches = layer_.file().patches();
  const absl::StatusOr<uint64_t> file_size = FileSize();
  if (!file_size.ok()) return file_size.status();
  if (*file_size < patches->file_size()) {
    if (absl::Status status = ResizeFile(patches->file_size()); !status.ok()) return status;
  }
  const std::string zeros(kZeroPiece, '\0');
  absl::Status status;
  patches->ForEach([&](uint64_t offset, uint64_t size, const char* bytes) {
    if (bytes != nullptr) {
      status = WriteFile(offset, absl::MakeConstSpan(bytes, size));
      return status.ok() ? 0 : 1;
    }
    for (uint64_t done = 0; done < size && status.ok(); done += kZeroPiece) {
      status = WriteFile(offset + done, absl::MakeConstSpan(zeros).first(std::min(kZeroPiece, size - done)));
    }
    return status.ok() ? 0 : 1;
  });
  if (!status.ok()) return status;
  return SyncFile();  // before WriteHeaders says that the log is empty
}

absl::Status VhdxWriter::WriteHeaders() {
  std::optional<VhdxHeader> headers[2];
  for (int i = 0; i < 2; ++i) {
    char bytes[kVhdxHeaderSize];
    if (absl::Status status = ReadFile(kVhdxHeaderOffsets[i], absl::MakeSpan(bytes)); !status.ok()) return status;
    headers[i] = ParseVhdxHeader(bytes);
  }
  if (!headers[0] && !headers[1]) return Bad("its headers have gone");
  const bool second = !headers[0] || (headers[1] && headers[1]->sequence_number > headers[0]->sequence_number);
  const int newest = second ? 1 : 0;
  VhdxHeader header = *headers[newest];
  header.file_write_guid = NewGuid();
  header.data_write_guid = NewGuid();
  header.log_guid = kNoGuid;
  // The older one first: until it is on the disk, the newer one counts. Then the other, so that both say the same.
  for (const int place : {1 - newest, newest}) {
    ++header.sequence_number;
    absl::Status status = WriteFile(kVhdxHeaderOffsets[place], EncodeVhdxHeader(header));
    if (status.ok()) status = SyncFile();
    if (!status.ok()) return status;
  }
  layer_.file().DropPatches();
  return absl::OkStatus();
}

absl::StatusOr<SparseWriter::Place> VhdxWriter::Allocate(uint64_t block) {
  if (has_place_[block]) {
    uint64_t entry;
    if (int error = layer_.LoadEntry(layer_.geometry().payload_entry(block), &entry); error != 0) {
      return Error(error, "reading the BAT");
    }
    return Place{VhdxOffsetOf(entry), false};
  }
  if (!cut_) {
    // What a broken-off attempt has left behind the last block goes, so that new blocks begin as zeros.
    if (absl::Status status = ResizeFile(end_); !status.ok()) return status;
    cut_ = true;
  }
  const uint64_t place = end_;
  if (absl::Status status = ResizeFile(place + layer_.geometry().block_size); !status.ok()) return status;
  end_ = place + layer_.geometry().block_size;
  return Place{place, true};
}

absl::Status VhdxWriter::Enter(uint64_t block, uint64_t data_offset) {
  const uint64_t index = layer_.geometry().payload_entry(block);
  const uint64_t entry = data_offset | static_cast<uint64_t>(VhdxBlockState::kFullyPresent);
  if (int error = layer_.KeepEntry(index); error != 0) return Error(error, "reading the BAT");
  const char* bytes = reinterpret_cast<const char*>(&entry);
  absl::Status status = WriteFile(layer_.entry_offset(index), absl::MakeConstSpan(bytes, sizeof entry));
  if (!status.ok()) return status;
  layer_.StoreEntry(index, entry);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ContainerWriter>> MakeVhdxWriter(VhdxLayer* layer, std::unique_ptr<ContainerFile> file) {
  auto writer = std::make_unique<VhdxWriter>(layer, std::move(file));
  if (absl::Status status = writer->Survey(); !status.ok()) return status;
  return writer;
}

}  // namespace libmount
