// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/vhdx_log.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr uint32_t kSector = 4096;
constexpr uint32_t kEntryHeaderSize = 64;
constexpr uint32_t kDescriptorSize = 32;
constexpr uint32_t kEntryChecksumAt = 4;
// A data sector's first 8 and last 4 bytes are the log's; the descriptor keeps what belongs there.
constexpr uint32_t kLeading = 8;
constexpr uint32_t kTrailing = 4;
// Checksums are computed of at most this many times the log's size: entries that claim to overlap cost no more.
constexpr uint64_t kMaxChecksumPasses = 16;

struct Entry {
  uint32_t at = 0;  // in the log
  uint32_t size = 0;
  uint32_t tail = 0;
  uint32_t descriptors = 0;
  uint64_t sequence_number = 0;
  uint64_t flushed_file_size = 0;
  uint64_t last_file_size = 0;
};

class LogReader {
 public:
  LogReader(const DiskFile& file, const VhdxHeader& header) : file_(file), header_(header) {}

  absl::StatusOr<std::unique_ptr<FilePatches>> Replay();

 private:
  absl::Status Damaged(const std::string& what) const {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrFormat("%s was not closed, and its log is damaged: %s; attach it to Windows once, or "
                                     "restore it",
                                     file_.name(), what));
  }
  absl::Status Load();
  // The entry at a place, or nullopt where there is no valid one.
  std::optional<Entry> ParseEntry(uint32_t at);
  bool DescriptorsValid(const Entry& entry, absl::Span<const char> bytes) const;
  // The run that starts at `tail`: empty, or entries with ascending numbers.
  std::vector<Entry> RunFrom(uint32_t tail);
  std::vector<Entry> ActiveRun();
  absl::Status Apply(const Entry& entry, uint64_t limit, FilePatches* patches) const;
  absl::Span<const char> BytesOf(const Entry& entry, std::string* buffer) const;

  const DiskFile& file_;
  const VhdxHeader& header_;
  std::string log_;
  uint64_t checksummed_ = 0;
};

absl::Status LogReader::Load() {
  if (header_.log_size == 0 || header_.log_size > kVhdxMaxLogSize || header_.log_size % kVhdxUnit != 0 ||
      header_.log_offset < kVhdxUnit || header_.log_offset % kVhdxUnit != 0) {
    return Damaged(absl::StrFormat("%d bytes at offset %d", header_.log_size, header_.log_offset));
  }
  log_.resize(header_.log_size);
  return file_.ReadPart(header_.log_offset, absl::MakeSpan(log_), "log");
}

absl::Span<const char> LogReader::BytesOf(const Entry& entry, std::string* buffer) const {
  if (entry.at + uint64_t{entry.size} <= log_.size()) return absl::MakeConstSpan(log_).subspan(entry.at, entry.size);
  *buffer = log_.substr(entry.at);
  buffer->append(log_, 0, entry.size - buffer->size());
  return *buffer;
}

std::optional<Entry> LogReader::ParseEntry(uint32_t at) {
  const char* bytes = log_.data() + at;
  if (memcmp(bytes, "loge", 4) != 0 || memcmp(bytes + 32, header_.log_guid.data(), sizeof(Guid)) != 0) {
    return std::nullopt;
  }
  Entry entry;
  entry.at = at;
  entry.size = LoadLe32(bytes + 8);
  entry.tail = LoadLe32(bytes + 12);
  entry.sequence_number = LoadLe64(bytes + 16);
  entry.descriptors = LoadLe32(bytes + 24);
  entry.flushed_file_size = LoadLe64(bytes + 48);
  entry.last_file_size = LoadLe64(bytes + 56);
  if (entry.size == 0 || entry.size % kSector != 0 || entry.size > log_.size() || entry.tail % kSector != 0 ||
      entry.tail >= log_.size() || entry.sequence_number == 0) {
    return std::nullopt;
  }
  checksummed_ += entry.size;
  if (checksummed_ > kMaxChecksumPasses * log_.size()) return std::nullopt;
  std::string buffer;
  const absl::Span<const char> whole = BytesOf(entry, &buffer);
  if (VhdxChecksum(whole, kEntryChecksumAt) != LoadLe32(whole.data() + kEntryChecksumAt)) return std::nullopt;
  if (!DescriptorsValid(entry, whole)) return std::nullopt;
  return entry;
}

bool LogReader::DescriptorsValid(const Entry& entry, absl::Span<const char> bytes) const {
  const uint64_t head = kEntryHeaderSize + uint64_t{entry.descriptors} * kDescriptorSize;
  uint64_t data_at = (head + kSector - 1) / kSector * kSector;
  if (data_at > bytes.size()) return false;
  for (uint32_t i = 0; i < entry.descriptors; ++i) {
    const char* descriptor = bytes.data() + kEntryHeaderSize + i * kDescriptorSize;
    if (LoadLe64(descriptor + 24) != entry.sequence_number || LoadLe64(descriptor + 16) % kSector != 0) return false;
    if (memcmp(descriptor, "zero", 4) == 0) {
      if (LoadLe64(descriptor + 8) % kSector != 0) return false;
      continue;
    }
    if (memcmp(descriptor, "desc", 4) != 0 || data_at + kSector > bytes.size()) return false;
    const char* data = bytes.data() + data_at;
    const uint64_t number = uint64_t{LoadLe32(data + 4)} << 32 | LoadLe32(data + kSector - kTrailing);
    if (memcmp(data, "data", 4) != 0 || number != entry.sequence_number) return false;
    data_at += kSector;
  }
  return true;
}

std::vector<Entry> LogReader::RunFrom(uint32_t tail) {
  std::vector<Entry> run;
  uint64_t covered = 0;
  for (uint32_t at = tail; covered < log_.size();) {
    std::optional<Entry> entry = ParseEntry(at);
    if (!entry || (!run.empty() && entry->sequence_number != run.back().sequence_number + 1)) break;
    covered += entry->size;
    if (covered > log_.size()) break;
    at = static_cast<uint32_t>((at + uint64_t{entry->size}) % log_.size());
    run.push_back(*entry);
  }
  return run;
}

std::vector<Entry> LogReader::ActiveRun() {
  std::vector<Entry> active;
  for (uint64_t tail = 0; tail < log_.size();) {
    std::vector<Entry> run = RunFrom(static_cast<uint32_t>(tail));
    if (run.empty()) {
      tail += kSector;
      continue;
    }
    for (const Entry& entry : run) tail += entry.size;  // behind its end; beyond the log's: all was looked at
    const auto first = std::find_if(run.begin(), run.end(), [&](const Entry& e) { return e.at == run.back().tail; });
    if (first == run.end()) continue;
    if (!active.empty() && active.back().sequence_number >= run.back().sequence_number) continue;
    active.assign(first, run.end());
  }
  return active;
}

absl::Status LogReader::Apply(const Entry& entry, uint64_t limit, FilePatches* patches) const {
  std::string buffer;
  const absl::Span<const char> bytes = BytesOf(entry, &buffer);
  const uint64_t head = kEntryHeaderSize + uint64_t{entry.descriptors} * kDescriptorSize;
  uint64_t data_at = (head + kSector - 1) / kSector * kSector;
  for (uint32_t i = 0; i < entry.descriptors; ++i) {
    const char* descriptor = bytes.data() + kEntryHeaderSize + i * kDescriptorSize;
    const uint64_t offset = LoadLe64(descriptor + 16);
    const bool zero = memcmp(descriptor, "zero", 4) == 0;
    const uint64_t size = zero ? LoadLe64(descriptor + 8) : kSector;
    if (offset > limit || size > limit - offset) {
      return Damaged(absl::StrFormat("it writes %d bytes at offset %d, beyond the end", size, offset));
    }
    if (zero) {
      patches->PutZeros(offset, size);
      continue;
    }
    std::string sector(descriptor + 8, kLeading);
    sector.append(bytes.data() + data_at + kLeading, kSector - kLeading - kTrailing);
    sector.append(descriptor + 4, kTrailing);
    patches->Put(offset, std::move(sector));
    data_at += kSector;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FilePatches>> LogReader::Replay() {
  if (absl::Status status = Load(); !status.ok()) return status;
  const std::vector<Entry> run = ActiveRun();
  if (run.empty()) return Damaged("it has no valid entry");
  const Entry& last = run.back();
  if (last.flushed_file_size > file_.size()) {
    return Damaged(
        absl::StrFormat("the file was cut off: it had %d bytes, and has %d", last.flushed_file_size, file_.size()));
  }
  if (last.last_file_size > kVhdxMaxFileSize) return Damaged("it makes the file too large");
  auto patches = std::make_unique<FilePatches>();
  patches->set_file_size(std::max(file_.size(), last.last_file_size));
  for (const Entry& entry : run) {
    if (absl::Status status = Apply(entry, patches->file_size(), patches.get()); !status.ok()) return status;
  }
  return patches;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FilePatches>> ReplayVhdxLog(const DiskFile& file, const VhdxHeader& header) {
  return LogReader(file, header).Replay();
}

}  // namespace libmount
