// SPDX-License-Identifier: GPL-3.0-or-later
//
// Records of mounts on disk: what the next broker needs if this one dies.
//
//   STATE_DIR/broker/slot-N    one SlotRecord (proto/dismd/internal/broker.proto), root's alone
//
// A record is there before its mount is visible, and goes after its mount has gone.

#ifndef DAEMON_BROKER_RECORDS_H_
#define DAEMON_BROKER_RECORDS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dismd/internal/broker.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

inline constexpr uint32_t kRecordVersion = 1;
inline constexpr size_t kMaxRecordBytes = size_t{1} << 20;

class RecordStore {
 public:
  // Makes STATE_DIR/broker where it is missing. FAILED_PRECONDITION: someone else can write there.
  static absl::StatusOr<RecordStore> Open(const std::string& state_dir);

  // Replaces the record of the slot, whole or not at all.
  absl::Status Save(const internal::SlotRecord& record) const;
  void Remove(uint64_t slot_id) const;

  // Every record that can be read; others are named in the log and removed.
  std::vector<internal::SlotRecord> LoadAll() const;

 private:
  explicit RecordStore(libmount::UniqueFd directory) : directory_(std::move(directory)) {}
  libmount::UniqueFd directory_;
};

// Makes `path` and what is missing above it (with 0755; itself with `mode`).
absl::Status MakeDirectories(const std::string& path, unsigned mode);

// Holds PATH locked for as long as the descriptor is open. FAILED_PRECONDITION: another process holds it (`owner` is
// for the message: what is taken).
absl::StatusOr<libmount::UniqueFd> LockFile(const std::string& path, const std::string& what);

}  // namespace dismd

#endif  // DAEMON_BROKER_RECORDS_H_
