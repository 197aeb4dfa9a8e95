// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/scratch_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "daemon/broker/errors.h"
#include "daemon/broker/file_systems.h"
#include "daemon/broker/identity.h"
#include "daemon/broker/inspect.h"
#include "daemon/broker/kernel.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using internal::SlotRecord;
using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

constexpr mode_t kMode = 0700;

std::string NameOf(const SlotRecord& record) { return absl::StrCat("dismd-", record.mount_id()); }

std::string FullPath(const SlotRecord& record) { return absl::StrCat(record.scratch_directory(), "/", NameOf(record)); }

// Root may write everywhere, as it would from the command line, and gives what it makes to its worker; others keep
// nothing.
absl::Status BecomeOwner(const SlotRecord& record) {
  if (record.owner().uid() != 0) return BecomeUser(record.owner(), {});
  return BecomeUser(record.owner(), {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_CHOWN});
}

uint32_t WorkerUid(const SlotRecord& record) {
  return record.owner().uid() == 0 ? kRootsWorkerUid : record.owner().uid();
}

absl::Status Failed(const std::string& what) {
  Reason reason = Reason::kOutOfResources;
  if (errno == EACCES || errno == EPERM || errno == EROFS) reason = Reason::kAccessDenied;
  if (errno == ENOSPC || errno == EDQUOT) reason = Reason::kDiskFull;
  if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG) reason = Reason::kInvalidPath;
  return MakeErrnoError(reason, errno, what);
}

// The directory that the caller named.
absl::StatusOr<UniqueFd> OpenNamed(const std::string& path) {
  UniqueFd directory = OpenAt2(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
  struct statfs file_system;
  if (!directory || fstatfs(directory.get(), &file_system) != 0) {
    return Failed(absl::StrCat("cannot use the scratch directory ", path));
  }
  const uint64_t magic = static_cast<uint32_t>(file_system.f_type);  // sign-extended on some architectures
  const std::string type = TypeOf(directory.get());
  if (!IsNetworkFileSystem(magic, type) && MayCarryMounts(magic)) return directory;
  return MakeError(Reason::kInvalidPath, absl::StrCat("the scratch directory ", path, " is on a file system (",
                                                      FileSystemName(magic, type), ") that cannot keep edits"));
}

// The staging directory in it; invalid (errno set) where it is not there, or not the mount's.
UniqueFd OpenStaging(int directory, const SlotRecord& record, int flags) {
  UniqueFd staging(openat(directory, NameOf(record).c_str(), flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat attributes;
  if (!staging || fstat(staging.get(), &attributes) != 0) return UniqueFd();
  if (attributes.st_uid == WorkerUid(record)) return staging;
  errno = ENOENT;
  return UniqueFd();
}

UniqueFd OpenScratch(const SlotRecord& record) {
  return OpenAt2(AT_FDCWD, record.scratch_directory().c_str(), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
}

// What was made just now becomes the worker's own. A file system without owners and modes would show it to others.
absl::Status GiveAway(int staging, const SlotRecord& record) {
  if (record.owner().uid() == 0 && fchown(staging, kRootsWorkerUid, kRootsWorkerUid) != 0) {
    return Failed("cannot give a staging directory away");
  }
  struct stat attributes;
  if (fstat(staging, &attributes) != 0) return Failed("cannot look at a staging directory");
  if (attributes.st_uid == WorkerUid(record) && (attributes.st_mode & 0777) == kMode) return absl::OkStatus();
  return MakeError(Reason::kInvalidPath, absl::StrCat("the file system of the scratch directory ",
                                                      record.scratch_directory(), " does not keep owners and modes"));
}

// Of one that was just made, and whose owner may not be the worker yet.
void Unmake(int directory, const SlotRecord& record) { unlinkat(directory, NameOf(record).c_str(), AT_REMOVEDIR); }

// So that it is found after a loss of power. A directory that may be written and not read cannot be opened for that:
// then the whole file system is synced.
void Sync(int directory, int staging) {
  UniqueFd readable(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!readable || fsync(readable.get()) != 0) syncfs(staging);
}

// What lies in it are files; a directory would not be the worker's, and is left behind.
absl::Status RemoveFiles(UniqueFd staging) {
  DIR* stream = fdopendir(staging.get());
  if (stream == nullptr) return Failed("cannot read a staging directory");
  const int directory = staging.release();  // the stream's now
  while (dirent* entry = readdir(stream)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") unlinkat(directory, name.c_str(), 0);
  }
  closedir(stream);
  return absl::OkStatus();
}

absl::Status Remove(const SlotRecord& record) {
  UniqueFd directory = OpenScratch(record);
  if (!directory && (errno == ENOENT || errno == ENOTDIR)) return absl::OkStatus();
  if (!directory) return Failed(absl::StrCat("cannot open ", record.scratch_directory()));
  UniqueFd staging = OpenStaging(directory.get(), record, O_RDONLY);
  if (!staging && (errno == ENOENT || errno == ENOTDIR)) return absl::OkStatus();
  if (!staging) return Failed(absl::StrCat("cannot open ", FullPath(record)));
  if (absl::Status removed = RemoveFiles(std::move(staging)); !removed.ok()) return removed;
  if (unlinkat(directory.get(), NameOf(record).c_str(), AT_REMOVEDIR) == 0) return absl::OkStatus();
  return Failed(absl::StrCat("cannot remove ", FullPath(record)));
}

}  // namespace

void MakeScratchAs(const SlotRecord& record, internal::ScratchAnswer* answer, std::vector<int>* descriptors) {
  if (absl::Status became = BecomeOwner(record); !became.ok()) return SetError(became, answer->mutable_error());
  absl::StatusOr<UniqueFd> directory = OpenNamed(record.scratch_directory());
  if (!directory.ok()) return SetError(directory.status(), answer->mutable_error());
  answer->set_directory(PathOf(directory->get()));
  if (mkdirat(directory->get(), NameOf(record).c_str(), kMode) != 0) {
    return SetError(Failed(absl::StrCat("cannot make a staging directory in ", record.scratch_directory())),
                    answer->mutable_error());
  }
  UniqueFd staging(openat(directory->get(), NameOf(record).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  absl::Status own = staging ? GiveAway(staging.get(), record) : Failed("cannot open a staging directory");
  if (!own.ok()) {
    Unmake(directory->get(), record);
    return SetError(own, answer->mutable_error());
  }
  Sync(directory->get(), staging.get());
  descriptors->push_back(staging.release());
}

void OpenScratchAs(const SlotRecord& record, internal::ScratchAnswer* answer, std::vector<int>* descriptors) {
  if (absl::Status became = BecomeOwner(record); !became.ok()) return SetError(became, answer->mutable_error());
  UniqueFd directory = OpenScratch(record);
  UniqueFd staging = directory ? OpenStaging(directory.get(), record, O_RDONLY) : UniqueFd();
  if (!staging) {
    return SetError(Failed(absl::StrCat("cannot open ", FullPath(record), ", which has the edits of the mount")),
                    answer->mutable_error());
  }
  descriptors->push_back(staging.release());
}

void RemoveScratchAs(const SlotRecord& record, internal::ScratchAnswer* answer) {
  absl::Status removed = BecomeOwner(record);
  if (removed.ok()) removed = Remove(record);
  if (!removed.ok()) SetError(removed, answer->mutable_error());
}

void InspectScratch(const SlotRecord& record, internal::PathFacts* facts) {
  facts->set_staging_path(FullPath(record));
  UniqueFd directory = OpenScratch(record);
  if (!directory || !OpenStaging(directory.get(), record, O_PATH)) facts->set_staging_errno(errno);
}

}  // namespace dismd
