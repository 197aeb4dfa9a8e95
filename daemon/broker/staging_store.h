// SPDX-License-Identifier: GPL-3.0-or-later
//
// Staging directories: where the edits of read-write mounts live until they are committed or thrown away.
//
//   STATE_DIR/staging/MOUNT_ID    0700, owned by the uid of the mount's worker, which gets it as a descriptor
//
// Those that a caller wants to have elsewhere are made by scratch_directory.h.
//
// What lies inside is the worker's: it is removed here without being looked at, and without following links.
//
// Not thread-safe.

#ifndef DAEMON_BROKER_STAGING_STORE_H_
#define DAEMON_BROKER_STAGING_STORE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

class StagingStore {
 public:
  // Makes STATE_DIR/staging where it is missing. FAILED_PRECONDITION: someone else can write there.
  static absl::StatusOr<StagingStore> Open(const std::string& state_dir);

  // Names come from the front, which is not trusted with paths.
  static bool IsMountId(const std::string& id);

  // A new, empty directory. OUT_OF_RESOURCES; INVALID_PATH: not a mount id.
  absl::StatusOr<libmount::UniqueFd> Create(const std::string& mount_id, uint32_t uid, uint32_t gid) const;
  // One that is there. NOT_MOUNTED.
  absl::StatusOr<libmount::UniqueFd> Find(const std::string& mount_id) const;
  // May take as long as the file system takes to free what is in it.
  void Remove(const std::string& mount_id) const;
  // What the above need.
  int descriptor() const { return directory_.get(); }
  // The mount ids of all.
  std::vector<std::string> List() const;

 private:
  explicit StagingStore(libmount::UniqueFd directory) : directory_(std::move(directory)) {}
  libmount::UniqueFd directory_;
};

}  // namespace dismd

#endif  // DAEMON_BROKER_STAGING_STORE_H_
