// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/sparse_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint64_t kFillPiece = uint64_t{1} << 20;

bool IsZero(absl::Span<const char> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
}

}  // namespace

absl::Status SparseWriter::Error(int error, const char* what) const {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return MakeErrnoError(full ? Reason::kDiskFull : Reason::kUnspecified, error,
                        absl::StrFormat("%s: %s failed", layer_.info().name, what));
}

absl::Status SparseWriter::Bad(const std::string& text) const {
  return MakeError(Reason::kBadImageFormat, absl::StrFormat("%s: %s", layer_.info().name, text));
}

absl::Status SparseWriter::WriteFile(uint64_t offset, absl::Span<const char> data) {
  const int error = file_->Write(offset, data);
  return error == 0 ? absl::OkStatus() : Error(error, "writing");
}

absl::Status SparseWriter::ResizeFile(uint64_t size) {
  const int error = file_->Resize(size);
  return error == 0 ? absl::OkStatus() : Error(error, "resizing");
}

absl::Status SparseWriter::SyncFile() {
  const int error = file_->Sync();
  return error == 0 ? absl::OkStatus() : Error(error, "syncing");
}

absl::Status SparseWriter::ReadFile(uint64_t offset, absl::Span<char> out) {
  while (!out.empty()) {
    const ssize_t count = pread(file_->descriptor(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Error(count < 0 ? errno : EIO, "reading");
    out.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SparseWriter::FileSize() {
  struct stat facts;
  if (fstat(file_->descriptor(), &facts) != 0) return Error(errno, "examining");
  return static_cast<uint64_t>(facts.st_size);
}

absl::Status SparseWriter::Write(uint64_t offset, absl::Span<const char> data) {
  if (!failed_.ok()) return failed_;
  if (offset > layer_.size() || data.size() > layer_.size() - offset) return Error(EINVAL, "writing beyond the end");
  failed_ = DoWrite(offset, data);
  return failed_;
}

absl::Status SparseWriter::DoWrite(uint64_t offset, absl::Span<const char> data) {
  const uint64_t block_size = layer_.info().block_size;
  if (!begun_ && !data.empty()) {
    if (absl::Status status = Begin(); !status.ok()) return status;
    begun_ = true;
  }
  while (!data.empty()) {
    const uint64_t piece = std::min<uint64_t>(data.size(), block_size - offset % block_size);
    absl::Status status = WriteInBlock(offset / block_size, offset, data.first(piece));
    if (!status.ok()) return status;
    data.remove_prefix(piece);
    offset += piece;
  }
  return absl::OkStatus();
}

absl::Status SparseWriter::WriteInBlock(uint64_t block, uint64_t offset, absl::Span<const char> data) {
  const uint64_t within = offset % layer_.info().block_size;
  if (const auto pending = pending_.find(block); pending != pending_.end()) {
    return WriteFile(pending->second + within, data);
  }
  DiskExtent extent;
  if (int error = layer_.Map(offset, data.size(), &extent); error != 0) return Error(error, "looking into the BAT");
  if (extent.source == DiskExtent::Source::kFile && extent.size == data.size()) {
    return WriteFile(extent.file_offset, data);
  }
  return AddBlock(block, data, offset);
}

absl::StatusOr<uint64_t> SparseWriter::GrowthFor(uint64_t offset, uint64_t length) {
  DiskExtent extent;
  if (int error = layer_.Map(offset, length, &extent); error != 0) return Error(error, "looking into the BAT");
  const bool is_there = extent.source == DiskExtent::Source::kFile && extent.size == length;
  return is_there ? 0 : layer_.info().block_size;
}

absl::Status SparseWriter::AddBlock(uint64_t block, absl::Span<const char> data, uint64_t offset) {
  absl::StatusOr<Place> place = Allocate(block);
  if (!place.ok()) return place.status();
  const uint64_t block_size = layer_.info().block_size;
  const bool whole = data.size() == std::min(block_size, layer_.size() - block * block_size);
  if (!whole) {
    if (absl::Status status = Fill(block, *place); !status.ok()) return status;
  }
  pending_.emplace(block, place->offset);
  if (absl::Status status = WriteFile(place->offset + offset % block_size, data); !status.ok()) return status;
  return pending_.size() >= kMaxPendingBlocks ? EnterPending() : absl::OkStatus();
}

absl::Status SparseWriter::Fill(uint64_t block, const Place& place) {
  const uint64_t begin = block * layer_.info().block_size;
  const uint64_t size = std::min<uint64_t>(layer_.info().block_size, layer_.size() - begin);
  DiskExtent extent;
  if (int error = layer_.Map(begin, size, &extent); error != 0) return Error(error, "looking into the BAT");
  if (place.zeros && extent.source == DiskExtent::Source::kZeros && extent.size == size) return absl::OkStatus();
  std::vector<char> buffer(std::min(kFillPiece, size));
  for (uint64_t at = 0; at < size; at += buffer.size()) {
    const auto piece = absl::MakeSpan(buffer).first(std::min<uint64_t>(buffer.size(), size - at));
    if (int error = layer_.Read(begin + at, piece); error != 0) return Error(error, "reading what a block held");
    if (place.zeros && IsZero(piece)) continue;
    if (absl::Status status = WriteFile(place.offset + at, piece); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SparseWriter::EnterPending() {
  if (pending_.empty()) return absl::OkStatus();
  if (absl::Status status = SyncFile(); !status.ok()) return status;
  for (const auto& [block, offset] : pending_) {
    if (absl::Status status = Enter(block, offset); !status.ok()) return status;
  }
  pending_.clear();
  return absl::OkStatus();
}

absl::Status SparseWriter::Finish() {
  if (!failed_.ok()) return failed_;
  if (!begun_) return absl::OkStatus();
  failed_ = EnterPending();
  if (failed_.ok()) failed_ = SyncFile();
  if (failed_.ok()) failed_ = End();
  return failed_;
}

}  // namespace libmount
