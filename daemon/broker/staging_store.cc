// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/staging_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/broker/records.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::Reason;
using libmount::UniqueFd;

// Staging has a level or two; what is deeper was not made by it, and is left behind.
constexpr int kMaxDepth = 8;

std::vector<std::string> NamesIn(int directory) {
  std::vector<std::string> names;
  UniqueFd readable(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* stream = readable ? fdopendir(readable.get()) : nullptr;
  if (stream == nullptr) return names;
  static_cast<void>(readable.release());  // the stream's now
  while (dirent* entry = readdir(stream)) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  closedir(stream);
  return names;
}

void RemoveTree(int parent, const std::string& name, int depth) {
  UniqueFd directory(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (directory && depth < kMaxDepth) {
    for (const std::string& entry : NamesIn(directory.get())) {
      if (unlinkat(directory.get(), entry.c_str(), 0) != 0) RemoveTree(directory.get(), entry, depth + 1);
    }
  }
  unlinkat(parent, name.c_str(), AT_REMOVEDIR);
}

}  // namespace

absl::StatusOr<StagingStore> StagingStore::Open(const std::string& state_dir) {
  std::string path = state_dir + "/staging";
  if (absl::Status made = MakeDirectories(path, 0700); !made.ok()) return made;
  UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat attributes;
  if (!directory || fstat(directory.get(), &attributes) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  if (attributes.st_uid != geteuid() || (attributes.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " must belong to the user that runs dismd, and nobody else may write there"));
  }
  return StagingStore(std::move(directory));
}

bool StagingStore::IsMountId(const std::string& id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

absl::StatusOr<UniqueFd> StagingStore::Create(const std::string& mount_id, uint32_t uid, uint32_t gid) const {
  if (!IsMountId(mount_id)) return MakeError(Reason::kInvalidPath, "not the id of a mount");
  if (mkdirat(directory_.get(), mount_id.c_str(), 0700) != 0) {
    return MakeErrnoError(Reason::kOutOfResources, errno, "cannot make a staging directory");
  }
  UniqueFd made(openat(directory_.get(), mount_id.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!made || (uid != geteuid() && fchown(made.get(), uid, gid) != 0)) {
    absl::Status status = MakeErrnoError(Reason::kOutOfResources, errno, "cannot give a staging directory away");
    Remove(mount_id);
    return status;
  }
  fsync(directory_.get());  // that it is found after a loss of power
  return made;
}

absl::StatusOr<UniqueFd> StagingStore::Find(const std::string& mount_id) const {
  if (!IsMountId(mount_id)) return MakeError(Reason::kInvalidPath, "not the id of a mount");
  UniqueFd found(openat(directory_.get(), mount_id.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!found) return MakeErrnoError(Reason::kNotMounted, errno, "the staging directory of the mount is not there");
  return found;
}

void StagingStore::Remove(const std::string& mount_id) const {
  if (IsMountId(mount_id)) RemoveTree(directory_.get(), mount_id, 0);
}

std::vector<std::string> StagingStore::List() const { return NamesIn(directory_.get()); }

}  // namespace dismd
