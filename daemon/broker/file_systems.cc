// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/broker/file_systems.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_format.h"
#include "daemon/broker/mountinfo.h"

namespace dismd {
namespace {

// From linux/magic.h, and from the file systems' own sources where it lacks them.
constexpr uint64_t kNetworkMagics[] = {
    0x6969,      // NFS
    0x517b,      // SMB
    0xff534d42,  // CIFS
    0xfe534d42,  // SMB2
    0x01021997,  // 9p
    0x00c36400,  // Ceph
    0x5346414f,  // OpenAFS
    0x6b414653,  // AFS of the kernel
    0x73757245,  // Coda
    0x564c,      // NCP
    0x0bd00bd0,  // Lustre
    0x19830326,  // BeeGFS
    0x47504653,  // GPFS
    0xaad7aaea,  // PanFS
    0x7461636f,  // OCFS2: several hosts write
    0x01161970,  // GFS2
};

// FUSE programs that speak to other hosts. The kernel tells FUSE programs apart only by the subtype that they choose,
// so this list is a help for honest users, not a guard; a worker reads such an image as its user, and nobody else
// waits.
constexpr std::string_view kNetworkSubtypes[] = {
    "fuse.sshfs",    "fuse.rclone",     "fuse.s3fs",     "fuse.glusterfs", "fuse.ceph-fuse",
    "fuse.cephfs",   "fuse.curlftpfs",  "fuse.davfs",    "fuse.gcsfuse",   "fuse.goofys",
    "fuse.smbnetfs", "fuse.gvfsd-fuse", "fuse.nfs",      "fuse.juicefs",   "fuse.JuiceFS",
    "fuse.mfs",      "fuse.moosefs",    "fuse.blobfuse", "fuse.hdfs",      "fuse.kio-fuse",
};

// The list that fusermount3 has for the same purpose, with what came later.
constexpr uint64_t kMountPointMagics[] = {
    0xef53,      // ext2, ext3, ext4
    0x58465342,  // XFS
    0x9123683e,  // btrfs
    0xca451a4e,  // bcachefs
    0xf2f52010,  // F2FS
    0x01021994,  // tmpfs
    0x858458f6,  // ramfs
    0x794c7630,  // overlayfs
    0x61756673,  // aufs
    0x2fc12fc1,  // ZFS
    0x65735546,  // FUSE
    0x4d44,      // FAT
    0x2011bab0,  // exFAT
    0x5346544e,  // NTFS
    0x7366746e,  // NTFS (ntfs3)
    0x4244,      // HFS
    0x482b,      // HFS+
    0xf15f,      // eCryptfs
    0x3153464a,  // JFS
    0x52654973,  // ReiserFS
    0x3434,      // NILFS
    0x24051905,  // UBIFS
    0x72b6,      // JFFS2
    0x73717368,  // squashfs
    0xe0f5e1e2,  // EROFS
    0x9660,      // ISO 9660
    0x15013346,  // UDF
    0xa501fcf5,  // VxFS
    0x6969,      // NFS
    0x517b,      // SMB
    0xff534d42,  // CIFS
    0xfe534d42,  // SMB2
    0x01021997,  // 9p
    0x00c36400,  // Ceph
    0x5346414f,  // OpenAFS
    0x6b414653,  // AFS of the kernel
    0x73757245,  // Coda
    0x0bd00bd0,  // Lustre
    0x7461636f,  // OCFS2
    0x01161970,  // GFS2
};

template <typename List, typename Value>
bool Contains(const List& list, const Value& value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

}  // namespace

bool IsNetworkFileSystem(uint64_t magic, std::string_view mountinfo_type) {
  return Contains(kNetworkMagics, magic) || Contains(kNetworkSubtypes, mountinfo_type);
}

bool MayCarryMounts(uint64_t magic) { return Contains(kMountPointMagics, magic); }

std::string FileSystemName(uint64_t magic, std::string_view mountinfo_type) {
  if (!mountinfo_type.empty()) return std::string(mountinfo_type);
  return absl::StrFormat("type 0x%x", magic);
}

std::string MountinfoType(std::string_view mountinfo, uint64_t mount_id) {
  std::optional<MountinfoEntry> entry = FindMount(mountinfo, mount_id);
  return entry.has_value() ? entry->type : std::string();
}

}  // namespace dismd
