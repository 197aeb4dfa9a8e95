// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/staged_state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

constexpr char kStateName[] = "mount";
constexpr char kNewStateName[] = "mount.new";
constexpr size_t kMaxStateBytes = size_t{64} << 10;
constexpr mode_t kFileMode = 0600;

}  // namespace

absl::Status StagingError(const char* what) {
  return libmount::MakeErrnoError(Reason::kOutOfResources, errno, absl::StrCat(what, " in the staging directory"));
}

bool StagedState::IsIn(int directory) {
  struct stat facts;
  return fstatat(directory, kStateName, &facts, AT_SYMLINK_NOFOLLOW) == 0;
}

absl::Status StagedState::Load() {
  UniqueFd file(openat(directory_, kStateName, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return StagingError("cannot open a file");
  std::string bytes(kMaxStateBytes, '\0');
  ssize_t size = pread(file.get(), bytes.data(), bytes.size(), 0);
  internal::StagedMountState state;
  if (size <= 0 || !state.ParseFromArray(bytes.data(), static_cast<int>(size)) || state.image_index() == 0) {
    return MakeError(Reason::kBadImageFormat, "what the staging directory says of the mount is damaged");
  }
  Set(state);
  return absl::OkStatus();
}

absl::Status StagedState::Save(const internal::StagedMountState& state) {
  std::string bytes = state.SerializeAsString();
  UniqueFd file(openat(directory_, kNewStateName, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!file) return StagingError("cannot create a file");
  if (pwrite(file.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()) ||
      fdatasync(file.get()) != 0 || renameat(directory_, kNewStateName, directory_, kStateName) != 0 ||
      fsync(directory_) != 0) {
    return StagingError("cannot write a file");
  }
  Set(state);
  return absl::OkStatus();
}

void StagedState::Set(const internal::StagedMountState& state) {
  absl::MutexLock lock(&mutex_);
  state_ = state;
}

internal::StagedMountState StagedState::Get() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

ImageLock::ImageLock(int image) : image_(image), held_(flock(image, LOCK_EX | LOCK_NB) == 0) {}

ImageLock::~ImageLock() {
  if (held_) Release(image_);
}

absl::Status ImageLock::Check(const std::string& image_name) const {
  if (held_) return absl::OkStatus();
  return MakeError(Reason::kImageInUse, absl::StrCat(image_name,
                                                     " is locked by another program; wait for that one, and commit "
                                                     "again"));
}

void ImageLock::Release(int image) { flock(image, LOCK_UN); }

}  // namespace dismd
