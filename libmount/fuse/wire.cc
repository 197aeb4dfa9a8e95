// SPDX-License-Identifier: GPL-3.0-or-later

#include "libmount/fuse/wire.h"

#include <cstring>

namespace libmount {
namespace {

// Bytes that follow the header at least. Operations that take one name have a name of at least its terminator.
size_t LeastPayload(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_REMOVEXATTR: return 1;
    case FUSE_SYMLINK: return 2;
    case FUSE_FORGET: return sizeof(fuse_forget_in);
    case FUSE_GETATTR: return sizeof(fuse_getattr_in);
    case FUSE_SETATTR: return sizeof(fuse_setattr_in);
    case FUSE_MKNOD: return sizeof(fuse_mknod_in) + 1;
    case FUSE_MKDIR: return sizeof(fuse_mkdir_in) + 1;
    case FUSE_RENAME: return sizeof(fuse_rename_in) + 2;
    case FUSE_LINK: return sizeof(fuse_link_in) + 1;
    case FUSE_OPEN:
    case FUSE_OPENDIR: return sizeof(fuse_open_in);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: return sizeof(fuse_read_in);
    case FUSE_WRITE: return sizeof(fuse_write_in);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: return sizeof(fuse_release_in);
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR: return sizeof(fuse_fsync_in);
    case FUSE_SETXATTR: return FUSE_COMPAT_SETXATTR_IN_SIZE + 1;
    case FUSE_GETXATTR: return sizeof(fuse_getxattr_in) + 1;
    case FUSE_LISTXATTR: return sizeof(fuse_getxattr_in);
    case FUSE_FLUSH: return sizeof(fuse_flush_in);
    // Up to protocol 7.35 the request ends before `flags2`.
    case FUSE_INIT: return offsetof(fuse_init_in, flags2);
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return sizeof(fuse_lk_in);
    case FUSE_ACCESS: return sizeof(fuse_access_in);
    case FUSE_CREATE: return sizeof(fuse_create_in) + 1;
    case FUSE_INTERRUPT: return sizeof(fuse_interrupt_in);
    case FUSE_BMAP: return sizeof(fuse_bmap_in);
    case FUSE_IOCTL: return sizeof(fuse_ioctl_in);
    case FUSE_POLL: return sizeof(fuse_poll_in);
    case FUSE_NOTIFY_REPLY: return sizeof(fuse_notify_retrieve_in);
    case FUSE_BATCH_FORGET: return sizeof(fuse_batch_forget_in);
    case FUSE_FALLOCATE: return sizeof(fuse_fallocate_in);
    case FUSE_RENAME2: return sizeof(fuse_rename2_in) + 2;
    case FUSE_LSEEK: return sizeof(fuse_lseek_in);
    case FUSE_COPY_FILE_RANGE: return sizeof(fuse_copy_file_range_in);
    default: return 0;
  }
}

// Operations whose payload carries an array or data as long as a field of it says.
bool CountedPayloadFits(const fuse_in_header& header, const char* payload, size_t size) {
  if (header.opcode == FUSE_BATCH_FORGET) {
    const auto* forgets = reinterpret_cast<const fuse_batch_forget_in*>(payload);
    return forgets->count <= (size - sizeof(*forgets)) / sizeof(fuse_forget_one);
  }
  if (header.opcode == FUSE_WRITE) {
    const auto* write = reinterpret_cast<const fuse_write_in*>(payload);
    return write->size <= size - sizeof(*write);
  }
  if (header.opcode == FUSE_SETXATTR) {
    // A name, its terminator, and a value of the length that the fixed part says.
    uint32_t value_size;
    memcpy(&value_size, payload, sizeof(value_size));
    const size_t rest = size - FUSE_COMPAT_SETXATTR_IN_SIZE;
    const size_t name = strnlen(payload + FUSE_COMPAT_SETXATTR_IN_SIZE, rest);
    return name < rest && value_size <= rest - name - 1;
  }
  return true;
}

}  // namespace

bool IsWellFormed(const char* request, size_t size) {
  if (size < sizeof(fuse_in_header)) return false;
  const fuse_in_header& header = HeaderOf(request);
  if (header.len != size) return false;
  size_t payload = size - sizeof(fuse_in_header);
  return payload >= LeastPayload(header.opcode) &&
         CountedPayloadFits(header, request + sizeof(fuse_in_header), payload);
}

void TerminateStrings(char* request, size_t size) { memset(request + size, 0, kRequestSlack); }

bool WantsReply(const fuse_in_header& header) {
  switch (header.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_NOTIFY_REPLY:
    case FUSE_DESTROY: return false;
    default: return true;
  }
}

}  // namespace libmount
