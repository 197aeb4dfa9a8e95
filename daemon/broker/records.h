// SPDX-License-Identifier: GPL-3.0-or-later
//
// Records on disk: what the next broker needs if this one dies.
//
//   STATE_DIR/broker/slot-N         one SlotRecord (proto/dismd/internal/broker.proto), root's alone
//   STATE_DIR/broker/operation-ID   what the front wants to know again of an operation; unread here
//
// A slot's record is there before its mount is visible, and goes after its mount has gone.

#ifndef DAEMON_BROKER_RECORDS_H_
#define DAEMON_BROKER_RECORDS_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dismd/internal/broker.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

inline constexpr uint32_t kRecordVersion = 1;
inline constexpr size_t kMaxRecordBytes = size_t{1} << 20;
inline constexpr size_t kMaxOperationRecords = 8192;
inline constexpr size_t kMaxOperationRecordBytes = size_t{64} << 10;

class RecordStore {
 public:
  // Makes STATE_DIR/broker where it is missing. FAILED_PRECONDITION: someone else can write there.
  static absl::StatusOr<RecordStore> Open(const std::string& state_dir);

  // Replaces the record of the slot, whole or not at all.
  absl::Status Save(const internal::SlotRecord& record) const;
  void Remove(uint64_t slot_id) const;

  // Every record that can be read; others are named in the log and removed.
  std::vector<internal::SlotRecord> LoadAll() const;

  // Replaces what is kept of an operation; forgets it where `bytes` is empty. INVALID_ARGUMENT: no id of an
  // operation's, or too large; RESOURCE_EXHAUSTED: too many.
  absl::Status SaveOperation(const std::string& id, const std::string& bytes);
  // By id.
  const std::map<std::string, std::string>& operations() const { return operations_; }

 private:
  explicit RecordStore(libmount::UniqueFd directory) : directory_(std::move(directory)) {}
  std::vector<std::string> Names(std::string_view prefix) const;
  absl::Status Write(const std::string& name, const std::string& bytes, bool sync) const;

  libmount::UniqueFd directory_;
  std::map<std::string, std::string> operations_;
};

// Makes `path` and what is missing above it (with 0755; itself with `mode`).
absl::Status MakeDirectories(const std::string& path, unsigned mode);

// Holds PATH locked for as long as the descriptor is open. FAILED_PRECONDITION: another process holds it (`owner` is
// for the message: what is taken).
absl::StatusOr<libmount::UniqueFd> LockFile(const std::string& path, const std::string& what);

}  // namespace dismd

#endif  // DAEMON_BROKER_RECORDS_H_
