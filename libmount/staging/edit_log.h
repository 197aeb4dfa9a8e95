// SPDX-License-Identifier: GPL-3.0-or-later
//
// EditLog: the file that makes changes outlive the process. Each change is one record, appended with one write.
//
//   [ magic "DISMDLOG" ][ u32 version ][ u32 identity size ][ identity, 64 ][ u32 CRC of these ][ 12 zeros ]
//   [ u32 size of the edits ][ u32 CRC of the rest and of where it is ][ u64 bytes of the log known to be on the disk ]
//   [ u64 request ][ u64 outcome ][ u32 operation ][ edits ] ...
//
// What a crash tore off the end has no right CRC, and is cut off when the log is opened. Where a later record says that
// the place was on the disk already, it is no torn end: then the log is damaged.
//
// Thread safety: Append and Replace by one thread at a time; the others from any.

#ifndef LIBMOUNT_STAGING_EDIT_LOG_H_
#define LIBMOUNT_STAGING_EDIT_LOG_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libmount/staging/staging_files.h"

namespace libmount {

class EditLog {
 public:
  static constexpr size_t kMaxIdentity = 64;
  // Of a record's edits. The largest there are: a security descriptor or EAs of 64 KiB, with what goes with them.
  static constexpr size_t kMaxEdits = size_t{1} << 20;

  struct Record {
    uint64_t request = 0;  // 0: none
    uint64_t outcome = 0;
    uint32_t operation = 0;
    std::string_view edits;
  };
  using Visitor = absl::FunctionRef<absl::Status(const Record&)>;
  using Appender = absl::FunctionRef<void(const Record&)>;

  // Shows each record to `replay`, whose error ends it. A missing log is made. kBadImageFormat: not of `identity`, or
  // damaged; kOutOfResources.
  static absl::StatusOr<std::unique_ptr<EditLog>> Open(StagingFiles* files, std::string_view identity, Visitor replay);

  // 0: the record outlives this process. An errno: there is no such record.
  // REQUIRES: record.edits.size() <= kMaxEdits.
  int Append(const Record& record);

  // Puts a log in place of this one that has just the records that `fill` gives, all of them on the disk. An errno: the
  // old one is still there.
  int Replace(absl::FunctionRef<void(Appender)> fill);

  // Everything appended before is on the disk.
  int Sync();

  uint64_t size() const { return end_.load(std::memory_order_relaxed); }

 private:
  EditLog(StagingFiles* files, std::string_view identity) : files_(files), identity_(identity) {}

  absl::Status Replay(Visitor replay);
  // Whether a record behind `position` says that `position` had been synced.
  bool WasSynced(uint64_t position, uint64_t file_size);
  std::shared_ptr<StagingFile> file() const;
  std::string Header() const;

  StagingFiles* const files_;
  const std::string identity_;
  mutable absl::Mutex file_mutex_;
  std::shared_ptr<StagingFile> file_ ABSL_GUARDED_BY(file_mutex_);
  std::atomic<uint64_t> end_ = 0;
  std::atomic<uint64_t> synced_ = 0;
  bool torn_ = false;   // something lies behind end_
  std::string buffer_;  // of Append, kept for its memory
};

}  // namespace libmount

#endif  // LIBMOUNT_STAGING_EDIT_LOG_H_
