// SPDX-License-Identifier: GPL-3.0-or-later
//
// NtfsTree: what all changes have in common; open files; files without names.
//
// A file that is removed while it is open, or may be, keeps a name in the root that is not shown, so that the volume is
// whole at every moment. It goes with the last Release, or when the volume is opened for a new mount.

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libmount/base/reason.h"
#include "libmount/base/utf16.h"
#include "libmount/ntfs/ntfs_tree_impl.h"

namespace libmount {

absl::StatusOr<std::unique_ptr<NtfsTree>> NtfsTree::OpenForWriting(WritableBlockDevice* device, OperationGroups* groups,
                                                                   bool resumed, const NtfsTreeOptions& options) {
  absl::StatusOr<std::unique_ptr<Volume>> volume = Volume::Mount(device, device);
  if (!volume.ok()) return volume.status();
  auto tree = std::make_unique<NtfsTreeImpl>(*std::move(volume), options, device, groups, resumed);
  if (absl::Status status = tree->Init(); !status.ok()) return status;
  return tree;
}

absl::Status NtfsTreeImpl::Init() {
  int error = 0;
  if (resumed_) {
    absl::MutexLock lock(&library_mutex());
    error = FindOrphans();
  } else {
    error = RemoveUnlinked();
  }
  if (error != 0) {
    return MakeErrnoError(Reason::kOutOfResources, error,
                          "cannot see to the files that were open when they were removed");
  }
  return absl::OkStatus();
}

int ChangeErrno() {
  const int error = LibraryErrno();
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EEXIST:
    case ENOTEMPTY:
    case EOPNOTSUPP:
    case EINVAL:
    case EFBIG:
    case EPERM:
    case EACCES:
    case ENODATA:
    case EMLINK:
    case ENAMETOOLONG: return error;
    default: return EIO;
  }
}

ErrnoOr<uint64_t> NtfsTreeImpl::Change(const Request& request, Operation operation, ChangeBody body) {
  if (read_only()) return Errno(EROFS);
  // Readers of data look into clusters that a change may give to another file.
  absl::WriterMutexLock data_lock(&data_mutex_);
  absl::MutexLock lock(&library_mutex());
  return ChangeLocked(request, operation, body);
}

ErrnoOr<uint64_t> NtfsTreeImpl::ChangeLocked(const Request& request, Operation operation, ChangeBody body) {
  const auto number = static_cast<uint32_t>(operation);
  if (request.id != 0) {
    const std::optional<OperationGroups::Reply> reply = groups_->FindReply(request.id);
    if (reply && reply->operation == number) return reply->result;
  }
  if (volume_->raw() == nullptr) volume_->Remount();  // it could not be mounted again after an error
  if (volume_->raw() == nullptr) return Errno(EIO);
  groups_->Begin(request.id);
  bool changing = false;
  ErrnoOr<uint64_t> result = body(changing);
  int error = result.error();
  if (error == 0 && changing) error = volume_->Flush();
  // What the library makes of a failed write is not always an error.
  if (const int write_error = volume_->adapter().TakeWriteError()) error = write_error;
  if (error == 0) {
    error = groups_->End({number, *result});
  } else {
    groups_->Abort();
  }
  if (error == 0) return result;
  if (changing) {
    // What the library has in memory is no longer what is on the volume.
    maps_.Clear();
    listings_.Clear();
    inherited_.clear();
    volume_->Remount();
    FindOrphans();  // where it fails, so does all else
  }
  return Errno(error);
}

std::u16string NtfsTreeImpl::OrphanName(FileReference file) {
  const std::string name =
      absl::StrFormat("%s%08x-%04x", std::string(kOrphanPrefix), RecordOf(file), unsigned{SequenceOf(file)});
  return {name.begin(), name.end()};
}

bool IsOrphanName(std::string_view utf16) {
  if (utf16.size() < 2 * kOrphanPrefix.size()) return false;
  for (size_t i = 0; i < kOrphanPrefix.size(); ++i) {
    if (utf16[2 * i] != kOrphanPrefix[i] || utf16[2 * i + 1] != 0) return false;
  }
  return true;
}

ErrnoOr<std::vector<NtfsTreeImpl::Orphan>> NtfsTreeImpl::ListOrphans() const {
  ErrnoOr<Inode> root = OpenFile(kRootNode);
  if (!root.ok()) return Errno(root.error());
  ErrnoOr<DirectoryIndex> index = DirectoryIndex::Open(root->get());
  if (!index.ok()) return Errno(index.error());
  std::vector<Orphan> orphans;
  const int error = index->VisitAll([&](const DirectoryIndex::Entry& entry) {
    if (IsOrphanName(entry.name)) orphans.emplace_back(entry.file, std::string(entry.name));
    return true;
  });
  if (error != 0) return Errno(error);
  return orphans;
}

int NtfsTreeImpl::FindOrphans() {
  ErrnoOr<std::vector<Orphan>> found = ListOrphans();
  if (!found.ok()) return found.error();
  orphans_.clear();
  for (const auto& [file, name] : *found) orphans_.insert(NodeOf(file));
  return 0;
}

int NtfsTreeImpl::RemoveUnlinked() {
  if (read_only()) return 0;
  absl::WriterMutexLock data_lock(&data_mutex_);
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<std::vector<Orphan>> found = ListOrphans();
  if (!found.ok()) return found.error();
  for (const auto& [file, name] : *found) {
    ErrnoOr<uint64_t> done =
        ChangeLocked({}, Operation::kInternal,
                     [&, file = file, name = name](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
                       changing = true;
                       return RemoveEntry(kRootNode, file, name);
                     });
    // One that is damaged stays; it does no harm.
    if (!done.ok() && done.error() != EIO) return done.error();
    orphans_.erase(NodeOf(file));
    maps_.Remove(NodeOf(file));
  }
  return 0;
}

int NtfsTreeImpl::Open(NodeId node) {
  if (read_only()) return 0;
  absl::MutexLock lock(&library_mutex());
  ErrnoOr<Inode> inode = OpenFile(node);
  if (!inode.ok()) return inode.error();
  ++open_counts_[FileNodeOf(node)];
  return 0;
}

void NtfsTreeImpl::Release(NodeId node) {
  if (read_only()) return;
  const NodeId file = FileNodeOf(node);
  absl::WriterMutexLock data_lock(&data_mutex_);
  absl::MutexLock lock(&library_mutex());
  auto found = open_counts_.find(file);
  if (found == open_counts_.end()) return;  // opened before a recovery
  if (--found->second > 0) return;
  open_counts_.erase(found);
  if (resumed_ || !orphans_.contains(file)) return;
  const FileReference reference = *libmount::ReferenceOf(file);
  // Where there is no space for that, it stays until the volume is opened for a new mount.
  ErrnoOr<uint64_t> done =
      ChangeLocked({}, Operation::kInternal, [&](bool& changing) ABSL_NO_THREAD_SAFETY_ANALYSIS -> ErrnoOr<uint64_t> {
        changing = true;
        const std::u16string name = OrphanName(reference);
        return RemoveEntry(kRootNode, reference, Utf16Bytes(name));
      });
  if (done.ok()) orphans_.erase(file);
  maps_.Remove(file);
}

int NtfsTreeImpl::Sync() {
  if (read_only()) return 0;
  return device_->Sync();
}

}  // namespace libmount
