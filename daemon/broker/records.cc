// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/records.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>

#include "absl/strings/str_cat.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

constexpr std::string_view kPrefix = "slot-";
constexpr char kTemporary[] = "new";

std::string NameOf(uint64_t slot_id) { return absl::StrCat(std::string(kPrefix), slot_id); }

absl::Status ErrnoStatus(const std::string& what) { return absl::ErrnoToStatus(errno, what); }

bool ReadRecord(int directory, const std::string& name, internal::SlotRecord* record) {
  UniqueFd file(openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat attributes;
  if (!file || fstat(file.get(), &attributes) != 0 || !S_ISREG(attributes.st_mode) ||
      attributes.st_size > static_cast<off_t>(kMaxRecordBytes)) {
    return false;
  }
  std::string bytes(static_cast<size_t>(attributes.st_size), '\0');
  if (read(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) return false;
  return record->ParseFromString(bytes) && record->version() == kRecordVersion && name == NameOf(record->slot_id());
}

}  // namespace

absl::StatusOr<RecordStore> RecordStore::Open(const std::string& state_dir) {
  std::string path = state_dir + "/broker";
  absl::Status made = MakeDirectories(path, 0700);
  if (!made.ok()) return made;
  UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat attributes;
  if (!directory || fstat(directory.get(), &attributes) != 0) return ErrnoStatus(absl::StrCat("cannot open ", path));
  // Records tell a root process what to unmount and whom to kill: nobody else may write them.
  if (attributes.st_uid != geteuid() || (attributes.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " must belong to the user that runs dismd, and nobody else may write there"));
  }
  return RecordStore(std::move(directory));
}

absl::Status RecordStore::Save(const internal::SlotRecord& record) const {
  std::string bytes = record.SerializeAsString();
  UniqueFd file(openat(directory_.get(), kTemporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return ErrnoStatus("cannot create a mount's record");
  if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus("cannot write a mount's record");
  }
  // After a loss of power there are no mounts to know of, but staged edits are.
  bool sync = !record.read_only();
  if (sync && fsync(file.get()) != 0) return ErrnoStatus("cannot store a mount's record");
  if (renameat(directory_.get(), kTemporary, directory_.get(), NameOf(record.slot_id()).c_str()) != 0) {
    return ErrnoStatus("cannot name a mount's record");
  }
  if (sync && fsync(directory_.get()) != 0) return ErrnoStatus("cannot store a mount's record");
  return absl::OkStatus();
}

void RecordStore::Remove(uint64_t slot_id) const { unlinkat(directory_.get(), NameOf(slot_id).c_str(), 0); }

std::vector<internal::SlotRecord> RecordStore::LoadAll() const {
  std::vector<internal::SlotRecord> records;
  DIR* stream = fdopendir(openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (stream == nullptr) return records;
  while (dirent* entry = readdir(stream)) {
    std::string name = entry->d_name;
    if (!std::string_view(name).starts_with(kPrefix)) continue;
    internal::SlotRecord record;
    if (ReadRecord(directory_.get(), name, &record)) {
      records.push_back(std::move(record));
    } else {
      Log(Severity::kWarning, absl::StrCat("removing a damaged mount record: broker/", name));
      unlinkat(directory_.get(), name.c_str(), 0);
    }
  }
  closedir(stream);
  return records;
}

absl::Status MakeDirectories(const std::string& path, unsigned mode) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    std::string above = path.substr(0, slash);
    if (mkdir(above.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoStatus(absl::StrCat("cannot create ", above));
  }
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return ErrnoStatus(absl::StrCat("cannot create ", path));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> LockFile(const std::string& path, const std::string& what) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return ErrnoStatus(absl::StrCat("cannot open ", path));
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("cannot lock ", path));
    return absl::FailedPreconditionError(
        absl::StrCat("another dismd is using ", what, "; stop it, or give this one its own --socket and --state-dir"));
  }
  return file;
}

}  // namespace dismd
