#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A FUSE mount of an ordinary user's that answers INIT and then nothing:  stalled_fuse.py DIRECTORY UID [FILE]

With FILE it shows that one as image.wim, and answers everything but FLUSH, which the kernel sends, and waits for, at each
close of a file. Prints "mounted" and waits to be killed; the kernel then ends every request that waits.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR, BATCH_FORGET = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 27, 29, 42)
MS_NOSUID, MS_NODEV = 2, 4
REQUEST_HEADER = struct.Struct("<IIQQIII4x")  # length, opcode, unique, node id, uid, gid, pid
ROOT, IMAGE = 1, 2


def reply(descriptor, unique, body=b"", error=0):
    os.write(descriptor, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


class OneFile:
    """What the mount shows."""

    def __init__(self, path, uid):
        self.uid = uid
        with open(path, "rb") as file:
            self.content = file.read()

    def attributes(self, node):
        mode, size = (stat.S_IFDIR | 0o755, 4096) if node == ROOT else (stat.S_IFREG | 0o644, len(self.content))
        return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, self.uid, self.uid, 0, 4096, 0)

    def answer(self, opcode, node, body):
        """The reply's body, or an errno."""
        if opcode == LOOKUP:
            if body.rstrip(b"\0") != b"image.wim":
                return errno.ENOENT
            return struct.pack("<4Q2I", IMAGE, 0, 60, 60, 0, 0) + self.attributes(IMAGE)
        if opcode == GETATTR:
            return struct.pack("<Q2I", 60, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return bytes(16)
        if opcode == READ:
            offset, size = struct.unpack_from("<QI", body, 8)
            return self.content[offset:offset + size]
        if opcode == STATFS:
            return struct.pack("<5Q10I", 1, 1, 1, 1, 1, 4096, 255, 4096, *[0] * 7)
        return b"" if opcode in (RELEASE, RELEASEDIR) else errno.ENOSYS


def serve(descriptor, shown):
    while True:
        request = os.read(descriptor, 1 << 20)
        _, opcode, unique, node, *_ = REQUEST_HEADER.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, FLUSH):
            continue
        said = shown.answer(opcode, node, request[REQUEST_HEADER.size:])
        reply(descriptor, unique, *((b"", said) if isinstance(said, int) else (said,)))


def main():
    directory, uid = sys.argv[1], int(sys.argv[2])
    shown = OneFile(sys.argv[3], uid) if len(sys.argv) > 3 else None
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id={uid},group_id={uid}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"stalled", os.fsencode(directory), b"fuse.stalled", MS_NOSUID | MS_NODEV, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    print("mounted", flush=True)
    while True:
        request = os.read(descriptor, 1 << 20)
        _, opcode, unique, *_ = REQUEST_HEADER.unpack_from(request)
        if opcode == INIT:
            major, minor, read_ahead, _ = struct.unpack_from("<IIII", request, REQUEST_HEADER.size)
            reply(descriptor, unique, struct.pack("<IIIIHHI", 7, min(minor, 31), read_ahead, 0, 12, 9, 4096).ljust(64, b"\0"))
            break
    if shown is not None:
        serve(descriptor, shown)
    # Neither read nor answered from here on; until the test kills us.
    select.select([], [], [])


if __name__ == "__main__":
    main()
