// SPDX-License-Identifier: GPL-3.0-or-later
//
// libntfs-3g's headers as C++ can take them. The macros are those of Debian's build: structures differ without them.

#ifndef LIBMOUNT_NTFS_LIBRARY_H_
#define LIBMOUNT_NTFS_LIBRARY_H_

// The library's headers count on these, and do not include them.
#include <sys/stat.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>

#define HAVE_SETXATTR 1   // NOLINT
#define HAVE_STDINT_H 1   // NOLINT
#define POSIXACLS 1       // NOLINT
#define XATTR_MAPPINGS 1  // NOLINT

extern "C" {
#include <ntfs-3g/attrib.h>
#include <ntfs-3g/cache.h>
#include <ntfs-3g/device.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/ea.h>
#include <ntfs-3g/efs.h>
#include <ntfs-3g/index.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/lcnalloc.h>
#include <ntfs-3g/logging.h>
#include <ntfs-3g/mft.h>
#include <ntfs-3g/object_id.h>
#include <ntfs-3g/reparse.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/security.h>
#include <ntfs-3g/types.h>
#include <ntfs-3g/unistr.h>
#include <ntfs-3g/volume.h>
#include <ntfs-3g/xattrs.h>
}

#undef min
#undef max

#endif  // LIBMOUNT_NTFS_LIBRARY_H_
