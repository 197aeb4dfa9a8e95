#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A FUSE mount of an ordinary user's that answers INIT and then nothing:  stalled_fuse.py DIRECTORY UID

Prints "mounted" and waits to be killed; the kernel then ends every request that waits.
"""

import ctypes
import os
import select
import struct
import sys

FUSE_INIT = 26
FUSE_FORGET, FUSE_BATCH_FORGET = 2, 42
MS_NOSUID, MS_NODEV = 2, 4
REQUEST_HEADER = struct.Struct("<IIQQIII4x")  # length, opcode, unique, node id, uid, gid, pid


def main():
    directory, uid = sys.argv[1], int(sys.argv[2])
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
        if opcode == FUSE_INIT:
            major, minor, read_ahead, _ = struct.unpack_from("<IIII", request, REQUEST_HEADER.size)
            body = struct.pack("<IIIIHHI", 7, min(minor, 31), read_ahead, 0, 12, 9, 4096).ljust(64, b"\0")
            os.write(descriptor, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
            break
    # Neither read nor answered from here on; until the test kills us.
    select.select([], [], [])


if __name__ == "__main__":
    main()
