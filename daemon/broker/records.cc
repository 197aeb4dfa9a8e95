// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/records.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libmount/base/log.h"

namespace dismd {
namespace {

using libmount::Log;
using libmount::Severity;
using libmount::UniqueFd;

constexpr std::string_view kPrefix = "slot-";
constexpr std::string_view kOperationPrefix = "operation-";
constexpr size_t kMaxOperationId = 64;
constexpr char kTemporary[] = "new";

std::string NameOf(uint64_t slot_id) { return absl::StrCat(std::string(kPrefix), slot_id); }

absl::Status ErrnoStatus(const std::string& what) { return absl::ErrnoToStatus(errno, what); }

bool ReadFile(int directory, const std::string& name, std::string* bytes) {
  UniqueFd file(openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat attributes;
  if (!file || fstat(file.get(), &attributes) != 0 || !S_ISREG(attributes.st_mode) ||
      attributes.st_size > static_cast<off_t>(kMaxRecordBytes)) {
    return false;
  }
  bytes->resize(static_cast<size_t>(attributes.st_size));
  return read(file.get(), bytes->data(), bytes->size()) == static_cast<ssize_t>(bytes->size());
}

bool ReadRecord(int directory, const std::string& name, internal::SlotRecord* record) {
  std::string bytes;
  if (!ReadFile(directory, name, &bytes)) return false;
  return record->ParseFromString(bytes) && record->version() == kRecordVersion && name == NameOf(record->slot_id());
}

// It becomes a file's name.
bool IsOperationId(std::string_view id) {
  if (id.empty() || id.size() > kMaxOperationId) return false;
  return std::all_of(id.begin(), id.end(), [](char c) { return c == '-' || absl::ascii_isalnum(c); });
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
  RecordStore store(std::move(directory));
  for (const std::string& name : store.Names(kOperationPrefix)) {
    std::string bytes;
    if (ReadFile(store.directory_.get(), name, &bytes)) store.operations_[name.substr(kOperationPrefix.size())] = bytes;
  }
  return store;
}

std::vector<std::string> RecordStore::Names(std::string_view prefix) const {
  std::vector<std::string> names;
  DIR* stream = fdopendir(openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (stream == nullptr) return names;
  while (dirent* entry = readdir(stream)) {
    if (std::string_view(entry->d_name).starts_with(prefix)) names.emplace_back(entry->d_name);
  }
  closedir(stream);
  return names;
}

absl::Status RecordStore::Write(const std::string& name, const std::string& bytes, bool sync) const {
  UniqueFd file(openat(directory_.get(), kTemporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return ErrnoStatus("cannot create a record");
  if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus("cannot write a record");
  }
  if (sync && fsync(file.get()) != 0) return ErrnoStatus("cannot store a record");
  if (renameat(directory_.get(), kTemporary, directory_.get(), name.c_str()) != 0) {
    return ErrnoStatus("cannot name a record");
  }
  if (sync && fsync(directory_.get()) != 0) return ErrnoStatus("cannot store a record");
  return absl::OkStatus();
}

absl::Status RecordStore::Save(const internal::SlotRecord& record) const {
  // After a loss of power there are no mounts to know of, but staged edits are.
  return Write(NameOf(record.slot_id()), record.SerializeAsString(), /*sync=*/!record.read_only());
}

void RecordStore::Remove(uint64_t slot_id) const { unlinkat(directory_.get(), NameOf(slot_id).c_str(), 0); }

std::vector<internal::SlotRecord> RecordStore::LoadAll() const {
  std::vector<internal::SlotRecord> records;
  for (const std::string& name : Names(kPrefix)) {
    internal::SlotRecord record;
    if (ReadRecord(directory_.get(), name, &record)) {
      records.push_back(std::move(record));
    } else {
      Log(Severity::kWarning, absl::StrCat("removing a damaged mount record: broker/", name));
      unlinkat(directory_.get(), name.c_str(), 0);
    }
  }
  return records;
}

absl::Status RecordStore::SaveOperation(const std::string& id, const std::string& bytes) {
  if (!IsOperationId(id) || bytes.size() > kMaxOperationRecordBytes) {
    return absl::InvalidArgumentError("no record of an operation");
  }
  const std::string name = std::string(kOperationPrefix) + id;
  if (bytes.empty()) {
    operations_.erase(id);
    unlinkat(directory_.get(), name.c_str(), 0);
    return absl::OkStatus();
  }
  if (operations_.count(id) == 0 && operations_.size() >= kMaxOperationRecords) {
    return absl::ResourceExhaustedError("too many operations are remembered");
  }
  operations_[id] = bytes;
  // What a loss of power ends has nobody to ask what became of it.
  return Write(name, bytes, /*sync=*/false);
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
