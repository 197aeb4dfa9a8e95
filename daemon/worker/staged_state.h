// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedState: what a read-write mount remembers beside its edits, whatever the image's format, so that another process
// can go on: STAGING/mount, a StagedMountState. And the lock on the image file while a commit writes into it.
//
// Thread safety: Load, Save and Set from one thread at a time; the others from any.

#ifndef DAEMON_WORKER_STAGED_STATE_H_
#define DAEMON_WORKER_STAGED_STATE_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

class StagedState {
 public:
  // `directory`: the staging directory's descriptor, which outlives the object.
  explicit StagedState(int directory) : directory_(directory) {}

  // Whether a mount has left something in that directory.
  static bool IsIn(int directory);

  // kBadImageFormat: damaged.
  absl::Status Load();
  // On the disk when it returns, or as before.
  absl::Status Save(const internal::StagedMountState& state);
  // In memory only, until the next Save.
  void Set(const internal::StagedMountState& state);
  internal::StagedMountState Get() const;

 private:
  const int directory_;
  mutable absl::Mutex mutex_;
  internal::StagedMountState state_ ABSL_GUARDED_BY(mutex_);
};

// kOutOfResources, with errno.
absl::Status StagingError(const char* what);

// Other programs that take part in locking keep away from the file meanwhile; one that has it keeps us away. The lock
// is the open file's, which a replacement of this process shares: it can let it go.
class ImageLock {
 public:
  explicit ImageLock(int image);
  ~ImageLock();
  ImageLock(const ImageLock&) = delete;
  ImageLock& operator=(const ImageLock&) = delete;

  // kImageInUse: another program has it.
  absl::Status Check(const std::string& image_name) const;
  // Of the process before this one, which died in a commit.
  static void Release(int image);

 private:
  const int image_;
  const bool held_;
};

}  // namespace dismd

#endif  // DAEMON_WORKER_STAGED_STATE_H_
