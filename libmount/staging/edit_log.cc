// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/staging/edit_log.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

constexpr char kLogName[] = "log";
constexpr char kNewLogName[] = "log.new";

constexpr std::string_view kMagic = "DISMDLOG";
constexpr uint32_t kVersion = 1;
constexpr size_t kIdentityAt = 16;
constexpr size_t kHeaderCrcAt = kIdentityAt + EditLog::kMaxIdentity;
constexpr size_t kHeaderSize = 96;
constexpr size_t kRecordHeaderSize = 36;
constexpr size_t kReadSize = size_t{1} << 20;
// How much is looked at for a record behind a damaged one.
constexpr uint64_t kMaxScan = uint64_t{64} << 20;
constexpr uint32_t kMaxOperation = 255;

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = MakeCrcTable();

uint32_t Crc(std::string_view bytes, uint32_t seed = 0) {
  uint32_t c = ~seed;
  for (char byte : bytes) c = kCrcTable[(c ^ static_cast<uint8_t>(byte)) & 0xff] ^ c >> 8;
  return ~c;
}

// The place goes in, so that a record's bytes elsewhere (within another's data, say) are none.
uint32_t RecordCrc(uint64_t position, std::string_view behind_crc) {
  char place[sizeof position];
  memcpy(place, &position, sizeof position);
  return Crc(behind_crc, Crc(std::string_view(place, sizeof place)));
}

void AppendRecord(const EditLog::Record& record, uint64_t position, uint64_t synced, std::string& out) {
  const size_t start = out.size();
  AppendLe(static_cast<uint32_t>(record.edits.size()), out);
  AppendLe(uint32_t{0}, out);
  AppendLe(synced, out);
  AppendLe(record.request, out);
  AppendLe(record.outcome, out);
  AppendLe(record.operation, out);
  out += record.edits;
  const uint32_t crc = RecordCrc(position, std::string_view(out).substr(start + 8));
  memcpy(out.data() + start + 4, &crc, sizeof crc);
}

// Takes `bytes`, which begin at `position`, apart. The size of the record; 0: there is none.
size_t ParseRecord(std::string_view bytes, uint64_t position, EditLog::Record& record, uint64_t& synced) {
  if (bytes.size() < kRecordHeaderSize) return 0;
  const uint64_t edits_size = LoadLe32(bytes.data());
  record.operation = LoadLe32(bytes.data() + 32);
  if (edits_size > EditLog::kMaxEdits || bytes.size() - kRecordHeaderSize < edits_size) return 0;
  if (record.operation > kMaxOperation) return 0;
  const size_t size = kRecordHeaderSize + edits_size;
  if (RecordCrc(position, bytes.substr(8, size - 8)) != LoadLe32(bytes.data() + 4)) return 0;
  synced = LoadLe64(bytes.data() + 8);
  record.request = LoadLe64(bytes.data() + 16);
  record.outcome = LoadLe64(bytes.data() + 24);
  record.edits = bytes.substr(kRecordHeaderSize, edits_size);
  return size;
}

// Reads a file from front to back, with enough of it in memory for one record.
class LogReader {
 public:
  LogReader(StagingFile* file, uint64_t position) : file_(file), position_(position) {}

  // What lies at the position: at least a record's most, or all up to the end.
  ErrnoOr<std::string_view> Peek() {
    constexpr size_t kWanted = kRecordHeaderSize + EditLog::kMaxEdits;
    std::string_view left = std::string_view(buffer_).substr(taken_);
    if (left.size() >= kWanted || at_end_) return left;
    buffer_.erase(0, taken_);
    taken_ = 0;
    const size_t had = buffer_.size();
    buffer_.resize(kWanted + kReadSize);
    ErrnoOr<size_t> got = file_->Read(position_ + had, absl::MakeSpan(buffer_).subspan(had));
    if (!got.ok()) return Errno(got.error());
    at_end_ = *got < buffer_.size() - had;
    buffer_.resize(had + *got);
    return std::string_view(buffer_);
  }

  void Skip(size_t size) {
    taken_ += size;
    position_ += size;
  }

  uint64_t position() const { return position_; }

 private:
  StagingFile* const file_;
  uint64_t position_;
  std::string buffer_;
  size_t taken_ = 0;
  bool at_end_ = false;
};

}  // namespace

std::string EditLog::Header() const {
  std::string header(kMagic);
  AppendLe(kVersion, header);
  AppendLe(static_cast<uint32_t>(identity_.size()), header);
  header += identity_;
  header.resize(kHeaderCrcAt, '\0');
  AppendLe(Crc(header), header);
  header.resize(kHeaderSize, '\0');
  return header;
}

absl::StatusOr<std::unique_ptr<EditLog>> EditLog::Open(StagingFiles* files, std::string_view identity, Visitor replay) {
  if (identity.size() > kMaxIdentity) return MakeError(Reason::kUnspecified, "too long an identity for staging");
  std::unique_ptr<EditLog> log(new EditLog(files, identity));
  files->Remove(kNewLogName);  // of a process that died while it made one
  ErrnoOr<std::unique_ptr<StagingFile>> file = files->Open(kLogName, /*create=*/false);
  if (!file.ok() && file.error() != ENOENT) {
    return MakeErrnoError(Reason::kOutOfResources, file.error(), "cannot open the log in the staging directory");
  }
  if (!file.ok()) {
    if (int error = log->Replace([](Appender) {})) {
      return MakeErrnoError(Reason::kOutOfResources, error, "cannot make a log in the staging directory");
    }
    return log;
  }
  {
    absl::MutexLock lock(&log->file_mutex_);
    log->file_ = *std::move(file);
  }
  absl::Status status = log->Replay(replay);
  if (!status.ok()) return status;
  return log;
}

absl::Status EditLog::Replay(Visitor replay) {
  std::shared_ptr<StagingFile> log = file();
  auto failed = [](int error) {
    return MakeErrnoError(Reason::kOutOfResources, error, "cannot read the log in the staging directory");
  };
  std::string header(kHeaderSize, '\0');
  ErrnoOr<size_t> got = log->Read(0, absl::MakeSpan(header));
  if (!got.ok()) return failed(got.error());
  if (header != Header()) {
    return MakeError(Reason::kBadImageFormat, "the staging directory is not of this image, or its log is damaged");
  }
  ErrnoOr<uint64_t> size = log->Size();
  if (!size.ok()) return failed(size.error());

  LogReader reader(log.get(), kHeaderSize);
  for (;;) {
    ErrnoOr<std::string_view> bytes = reader.Peek();
    if (!bytes.ok()) return failed(bytes.error());
    Record record;
    uint64_t synced;
    const size_t record_size = ParseRecord(*bytes, reader.position(), record, synced);
    if (record_size == 0) break;
    if (absl::Status status = replay(record); !status.ok()) return status;
    reader.Skip(record_size);
  }
  const uint64_t end = reader.position();
  if (end < *size) {
    if (WasSynced(end, *size)) {
      return MakeError(Reason::kBadImageFormat,
                       absl::StrCat("the log in the staging directory is damaged at offset ", end));
    }
    if (int error = log->Truncate(end)) return failed(error);
  }
  end_ = end;
  return absl::OkStatus();
}

bool EditLog::WasSynced(uint64_t position, uint64_t file_size) {
  std::shared_ptr<StagingFile> log = file();
  LogReader reader(log.get(), position);
  uint64_t looked_at = 0;
  while (reader.position() < file_size && looked_at < kMaxScan) {
    ErrnoOr<std::string_view> bytes = reader.Peek();
    if (!bytes.ok() || bytes->size() < kRecordHeaderSize) return false;
    const uint64_t edits_size = LoadLe32(bytes->data());
    Record record;
    uint64_t synced = LoadLe64(bytes->data() + 8);
    ++looked_at;
    // Most places are none by their looks; only the others cost a CRC.
    if (synced > position && synced <= reader.position() && edits_size <= kMaxEdits) {
      looked_at += edits_size;
      if (ParseRecord(*bytes, reader.position(), record, synced) != 0) return true;
    }
    reader.Skip(1);
  }
  return false;
}

std::shared_ptr<StagingFile> EditLog::file() const {
  absl::MutexLock lock(&file_mutex_);
  return file_;
}

int EditLog::Append(const Record& record) {
  std::shared_ptr<StagingFile> log = file();
  // What a failed write left would come after a shorter record, and might look like one.
  if (torn_) {
    if (int error = log->Truncate(end_)) return error;
    torn_ = false;
  }
  buffer_.clear();
  AppendRecord(record, end_, synced_.load(std::memory_order_relaxed), buffer_);
  if (int error = log->Write(end_, buffer_)) {
    torn_ = log->Truncate(end_) != 0;
    return error;
  }
  end_ += buffer_.size();
  return 0;
}

int EditLog::Replace(absl::FunctionRef<void(Appender)> fill) {
  files_->Remove(kNewLogName);
  ErrnoOr<std::unique_ptr<StagingFile>> opened = files_->Open(kNewLogName, /*create=*/true);
  if (!opened.ok()) return opened.error();
  std::shared_ptr<StagingFile> fresh = *std::move(opened);
  std::string pending = Header();
  uint64_t written = 0;
  int error = 0;
  auto flush = [&] {
    if (error == 0) error = fresh->Write(written, pending);
    written += pending.size();
    pending.clear();
  };
  fill([&](const Record& record) {
    AppendRecord(record, written + pending.size(), 0, pending);
    if (pending.size() >= kReadSize) flush();
  });
  flush();
  if (error == 0) error = fresh->Sync();
  if (error == 0) error = files_->Rename(kNewLogName, kLogName);
  if (error != 0) {
    files_->Remove(kNewLogName);
    return error;
  }
  {
    absl::MutexLock lock(&file_mutex_);
    file_ = std::move(fresh);
  }
  end_ = written;
  synced_ = 0;
  torn_ = false;
  // The new log has everything, whichever of the two the directory shows after a power loss: only what is appended from
  // here on needs the new name to be on the disk. Sync sees to that where it fails here.
  if (files_->SyncDirectory() == 0) synced_ = written;
  return 0;
}

int EditLog::Sync() {
  std::shared_ptr<StagingFile> log = file();
  const uint64_t end = end_;
  if (int error = log->Sync()) return error;
  if (synced_ == 0) {
    if (int error = files_->SyncDirectory()) return error;
  }
  absl::MutexLock lock(&file_mutex_);
  if (file_ == log) synced_ = std::max(synced_.load(), end);
  return 0;
}

}  // namespace libmount
