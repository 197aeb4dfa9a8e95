// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/volume.h"

#include <cerrno>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "libmount/base/reason.h"

namespace libmount {
namespace {

// The library writes what it thinks to stderr; what matters comes back as errno.
void SilenceLibrary() {
  static std::once_flag once;
  std::call_once(once, [] { ntfs_log_set_handler(ntfs_log_handler_null); });
}

absl::Status MountError(int error, bool writable) {
  switch (error) {
    case ENOMEM: return MakeError(Reason::kOutOfResources, "no memory for the volume's tables");
    case EPERM:
      if (writable) {
        return MakeError(
            Reason::kVolumeHibernated,
            "a Windows on the volume is hibernated, or was shut down with fast startup: shut it down fully, "
            "or mount read-only");
      }
      break;
    case EOPNOTSUPP:
      if (writable) {
        return MakeError(Reason::kVolumeHibernated,
                         "the volume's journal holds changes that were not finished: let Windows mount it, or mount "
                         "read-only");
      }
      break;
    default: break;
  }
  return MakeErrnoError(Reason::kBadImageFormat, error, "the NTFS volume is damaged: its tables cannot be read");
}

}  // namespace

int LibraryErrno() { return errno > 0 ? errno : EIO; }

int Inode::Close() {
  ntfs_inode* raw = std::exchange(raw_, nullptr);
  return raw == nullptr ? 0 : volume_->Close(raw);
}

int Inode::CloseBehind(Inode& directory) {
  const int error = directory.Close();
  const int own_error = Close();
  return error != 0 ? error : own_error;
}

// Under the volume's lock, as the header says; the analysis cannot see through the pointer.
ntfs_inode* Inode::Release() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (raw_ == nullptr) return nullptr;
  auto found = volume_->open_.find(raw_->mft_no);
  if (found == volume_->open_.end() || found->second.users != 1) return nullptr;
  volume_->open_.erase(found);
  return std::exchange(raw_, nullptr);
}

int Volume::Close(ntfs_inode* raw) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  auto found = open_.find(raw->mft_no);
  if (found == open_.end() || --found->second.users > 0) return 0;
  open_.erase(found);
  errno = 0;
  return ntfs_inode_close(raw) == 0 ? 0 : LibraryErrno();
}

absl::StatusOr<std::unique_ptr<Volume>> Volume::Mount(const BlockDevice* device, WritableBlockDevice* writable) {
  SilenceLibrary();
  absl::StatusOr<NtfsGeometry> geometry = ReadBootSector(*device);
  if (!geometry.ok()) return geometry.status();
  auto volume = std::unique_ptr<Volume>(new Volume(device, writable));
  volume->geometry_ = *geometry;
  absl::MutexLock lock(&volume->mutex_);
  if (absl::Status status = volume->MountLibrary(writable != nullptr); !status.ok()) return status;
  return volume;
}

absl::Status Volume::MountLibrary(bool writable) {
  ntfs_device* device = adapter_.MakeDevice();
  if (device == nullptr) return MakeError(Reason::kOutOfResources, "no memory for a volume");
  const ntfs_mount_flags flags = writable ? NTFS_MNT_NONE : NTFS_MNT_RDONLY | NTFS_MNT_FORENSIC;
  errno = 0;
  raw_ = ntfs_device_mount(device, flags);
  if (raw_ == nullptr) {
    const int error = LibraryErrno();
    ntfs_device_free(device);
    return MountError(error, writable);
  }
  ntfs_set_shown_files(raw_, TRUE, TRUE, FALSE);
  ntfs_create_lru_caches(raw_);
  // Encrypted files are read as they lie there; nobody here has their keys.
  raw_->efs_raw = TRUE;
  // Without it ($Secure is damaged, or the volume is from before Windows 2000) files have no security descriptors.
  ntfs_open_secure(raw_);
  return absl::OkStatus();
}

void Volume::Unmount() {
  if (raw_ == nullptr) return;
  ntfs_close_secure(raw_);
  ntfs_umount(raw_, TRUE);
  raw_ = nullptr;
}

Volume::~Volume() {
  absl::MutexLock lock(&mutex_);
  Unmount();
}

int Volume::Flush() {
  for (ntfs_inode* inode : {raw_->mft_ni, raw_->mftmirr_ni, raw_->lcnbmp_ni, raw_->secure_ni, raw_->vol_ni}) {
    if (inode == nullptr) continue;
    // The library would write it in any case, with its copy: eight records with each change, of which few are new.
    if (!NInoDirty(inode) && !NInoAttrListDirty(inode) && !NInoFileNameDirty(inode)) continue;
    errno = 0;
    if (ntfs_inode_sync(inode) != 0) return LibraryErrno();
  }
  return 0;
}

void Volume::Remount() {
  // What the library would still write belongs to what is given up.
  adapter_.DropWrites(true);
  Unmount();
  adapter_.DropWrites(false);
  adapter_.TakeWriteError();
  MountLibrary(adapter_.writable() != nullptr).IgnoreError();
}

ErrnoOr<Inode> Volume::Open(FileReference file) {
  if (raw_ == nullptr) return Errno(EIO);
  const uint64_t record = RecordOf(file);
  const uint16_t sequence = SequenceOf(file);
  auto is_that = [&](const ntfs_inode* raw) {
    return sequence == 0 || le16_to_cpu(raw->mrec->sequence_number) == sequence;
  };
  if (auto found = open_.find(record); found != open_.end()) {
    if (!is_that(found->second.raw)) return Errno(ENOENT);
    ++found->second.users;
    return Inode(this, found->second.raw);
  }
  if (record >= static_cast<uint64_t>(raw_->mft_na->initialized_size) >> raw_->mft_record_size_bits) {
    return Errno(ENOENT);
  }
  errno = 0;
  // Without the sequence number: the library takes another one for damage.
  ntfs_inode* raw = ntfs_inode_open(raw_, record);
  if (raw == nullptr) return Errno(LibraryErrno() == ENOENT ? ENOENT : LibraryErrno() == ENOMEM ? ENOMEM : EIO);
  // The library keeps inodes by their record only; and it takes the further records of a file for files.
  if (!is_that(raw) || raw->mrec->base_mft_record != 0) {
    ntfs_inode_close(raw);
    return Errno(ENOENT);
  }
  open_[record] = {raw, 1};
  return Inode(this, raw);
}

Inode Volume::Adopt(ntfs_inode* raw) {
  open_[raw->mft_no] = {raw, 1};
  return Inode(this, raw);
}

}  // namespace libmount
