#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program at work on a read-write mount, in one kind of operation, that takes any error or wrong answer for its end.

  load.py KIND DIRECTORY      works in DIRECTORY until the standard input ends, looks at everything, ends with 0

One byte on the standard output for each step. It is a process of its own because a page fault on a mapped file waits for
the mount while it holds this process's memory map: whoever is to start the next server must not share that (nor look at
/proc/PID/cmdline and the like of this process).

Each step does what would fail, or show, if it were done twice or not at all.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import mmap
import os
import random
import select
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 0x10
AT_FDCWD = -100
PAGE = 4096


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def rename(old, new, flags):
    check(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def allocate(descriptor, mode, offset, length):
    check(LIBC.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def bytes_of(number, size):
    return random.Random(number).randbytes(size)


def same(got, expected, what):
    if got != expected:
        if isinstance(got, (bytes, bytearray)):
            at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
            got, expected = f"{len(got)} bytes, {bytes(got[at:at + 16])!r} at {at}", bytes(expected[at:at + 16])
        raise AssertionError(f"{what}: {got}, not {expected}")


@contextlib.contextmanager
def opened(path, flags, mode=0o644):
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def forget_pages(descriptor):
    """The next read is the server's to answer."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Load:
    def __init__(self, directory):
        self.directory = directory
        os.mkdir(directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def end(self):
        pass


class Names(Load):
    """Every operation on names."""

    def step(self, n):
        a, b, d = self.path(f"a{n}"), self.path(f"b{n}"), self.path(f"d{n}")
        os.mkdir(d)
        with opened(a, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
            same(os.write(file, b"content"), 7, "written")
        os.link(a, b)
        same(os.stat(a).st_nlink, 2, "names")
        os.unlink(a)
        rename(b, d + "/moved", RENAME_NOREPLACE)
        os.symlink("moved", d + "/link")
        same(os.readlink(d + "/link"), "moved", "link")
        rename(d + "/link", d + "/moved", RENAME_EXCHANGE)
        same(os.lstat(d + "/link").st_size, 7, "exchanged twice? size")
        same(os.lstat(d + "/link").st_nlink, 1, "names")
        with opened(d + "/other", os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            pass
        os.rename(d + "/link", d + "/other")
        same(sorted(os.listdir(d)), ["moved", "other"], "names")
        os.unlink(d + "/moved")
        os.unlink(d + "/other")
        os.rmdir(d)

    def end(self):
        same(os.listdir(self.directory), [], "left")


class OtherCase(Load):
    """Names by other case, of which the kernel is told when they go, in a directory where others make files too."""

    def step(self, n):
        name = f"Some{n}.txt"
        with opened(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, b"x")
        same(os.stat(self.path(name.upper())).st_size, 1, "size by other case")
        if n % 2:
            os.unlink(self.path(name.upper()))
        else:
            os.rename(self.path(name.lower()), self.path(f"Other{n}"))
            os.unlink(self.path(f"OTHER{n}"))
        for i in range(3):
            os.mkdir(self.path(f"between{i}"))
            os.rmdir(self.path(f"between{i}"))
        # The entry of the name itself goes a little after the reply; a new file of that name never fails.
        with opened(self.path(name), os.O_WRONLY | os.O_CREAT) as file:
            same(os.fstat(file).st_size, 0, "size of the new one")
        os.unlink(self.path(name))

    def end(self):
        same(os.listdir(self.directory), [], "left")


class Attributes(Load):
    """Attributes, extended attributes, named streams, truncation."""

    def __init__(self, directory):
        super().__init__(directory)
        self.file = self.path("file")
        with opened(self.file, os.O_RDWR | os.O_CREAT):
            pass

    def step(self, n):
        os.setxattr(self.file, "user.once", b"x%d" % n, os.XATTR_CREATE)
        same(os.getxattr(self.file, "user.once"), b"x%d" % n, "extended attribute")
        with opened(self.file + ":once", os.O_WRONLY | os.O_APPEND) as stream:
            os.write(stream, b"+")
        same(os.getxattr(self.file, "user.once"), b"x%d+" % n, "stream appended to")
        os.removexattr(self.file, "user.once")
        same([name for name in os.listxattr(self.file) if name.startswith("user.")], [], "extended attributes")
        os.setxattr(self.file, "system.ntfs_attrib_be", (0x22 if n % 2 else 0x20).to_bytes(4, "big"))
        os.chmod(self.file, 0o600 | n & 0o77)
        os.utime(self.file, ns=(n * 10**9, n * 10**9 + 100))
        os.truncate(self.file, n * 10)
        now = os.stat(self.file)
        same((stat.S_IMODE(now.st_mode), now.st_size, now.st_atime_ns), (0o600 | n & 0o77, n * 10, n * 10**9), "attributes")


class Blocks(Load):
    """Writes in blocks, what was acknowledged read back from the server."""

    COUNT = 16
    BLOCK = 3000

    def __init__(self, directory):
        super().__init__(directory)
        self.descriptor = os.open(self.path("data"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.seeds = {}

    def step(self, n):
        at = n % self.COUNT
        same(os.pwrite(self.descriptor, bytes_of(n, self.BLOCK), at * self.BLOCK), self.BLOCK, "written")
        self.seeds[at] = n
        if n % 8 == 7:
            os.fsync(self.descriptor)
        self.look((at + 7) % self.COUNT)

    def look(self, at):
        if at in self.seeds:
            forget_pages(self.descriptor)
            got = os.pread(self.descriptor, self.BLOCK, at * self.BLOCK)
            same(got, bytes_of(self.seeds[at], self.BLOCK), f"block {at}")

    def end(self):
        for at in self.seeds:
            self.look(at)
        os.close(self.descriptor)


class LargeBlocks(Blocks):
    BLOCK = 1 << 20


class Append(Load):
    def __init__(self, directory):
        super().__init__(directory)
        self.descriptor = os.open(self.path("log"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.count = 0

    def step(self, n):
        same(os.write(self.descriptor, n.to_bytes(8, "little")), 8, "appended")
        same(os.fstat(self.descriptor).st_size, 8 * (n + 1), "appended twice, or not? size")
        self.count = n + 1

    def end(self):
        forget_pages(self.descriptor)
        expected = b"".join(i.to_bytes(8, "little") for i in range(self.count))
        same(os.pread(self.descriptor, len(expected) + 1, 0), expected, "log")
        os.close(self.descriptor)


class Unlinked(Load):
    """A file without names lives as long as it is open, whoever serves it."""

    def step(self, n):
        with opened(self.path("gone"), os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
            os.unlink(self.path("gone"))
            data = bytes_of(n, 10_000)
            same(os.write(file, data), len(data), "written")
            forget_pages(file)
            same(os.pread(file, len(data), 0), data, "data")
            same(os.fstat(file).st_nlink, 0, "names")


class Read(Load):
    """Reading of files and of the directory they are in, which changes."""

    FILES = 40

    def __init__(self, directory):
        super().__init__(directory)
        for i in range(self.FILES):
            with opened(self.path(str(i)), os.O_RDWR | os.O_CREAT) as file:
                os.write(file, bytes_of(i, 5000 * i))

    def step(self, n):
        i = n % self.FILES
        with opened(self.path(str(i)), os.O_RDONLY) as file:
            forget_pages(file)
            same(os.pread(file, 5000 * self.FILES, 0), bytes_of(i, 5000 * i), f"file {i}")
        with opened(self.path("extra"), os.O_RDWR | os.O_CREAT | os.O_EXCL):
            same(len(os.listdir(self.directory)), self.FILES + 1, "entries")
        os.unlink(self.path("extra"))


class Map(Load):
    """Shared mappings: written through them, synced, read back from the server."""

    SIZE = 16 * PAGE

    def step(self, n):
        data = bytes_of(n, self.SIZE)
        with opened(self.path("mapped"), os.O_RDWR | os.O_CREAT) as file:
            os.ftruncate(file, self.SIZE)
            with mmap.mmap(file, self.SIZE) as view:
                view[:] = data
                if n % 2:
                    view.flush()  # msync; else the kernel writes it when the last mapping goes
            os.fsync(file)
            forget_pages(file)
            same(os.pread(file, self.SIZE, 0), data, "mapped")
            with mmap.mmap(file, self.SIZE, prot=mmap.PROT_READ) as view:
                same(view[:], data, "mapped to be read")


class Allocate(Load):
    SIZE = 64 * PAGE

    def step(self, n):
        data = bytearray(bytes_of(n, self.SIZE))
        at, length = (n * 7919) % self.SIZE, 1 + (n * 104729) % (self.SIZE // 4)
        with opened(self.path("holes"), os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
            allocate(file, 0, 0, self.SIZE)
            same(os.fstat(file).st_size, self.SIZE, "size")
            same(os.pwrite(file, data, 0), self.SIZE, "written")
            allocate(file, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE if n % 2 else FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, at, length)
            end = min(at + length, self.SIZE)
            data[at:end] = bytes(end - at)
            os.ftruncate(file, self.SIZE - n % 5000)
            forget_pages(file)
            same(os.pread(file, self.SIZE, 0), bytes(data[:self.SIZE - n % 5000]), "data")


class Locks(Load):
    """Locks are the kernel's; they stay, whoever serves the mount."""

    def __init__(self, directory):
        super().__init__(directory)
        self.descriptor = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def step(self, n):
        with opened(self.path("lock"), os.O_RDWR) as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        raise AssertionError("the lock was lost")

    def end(self):
        os.close(self.descriptor)


class ReadOnly:
    """Reads all files of a tree again and again, small ones after each other, and not from the page cache."""

    def __init__(self, directory):
        self.files = sorted(os.path.join(where, name) for where, _, names in os.walk(directory) for name in names)
        self.files = [path for path in self.files if stat.S_ISREG(os.lstat(path).st_mode)]
        self.digests = {}

    def step(self, n):
        path = self.files[n % len(self.files)]
        with opened(path, os.O_RDONLY) as file:
            digest = hashlib.sha256()
            while part := os.read(file, 1 << 20):
                digest.update(part)
            forget_pages(file)
        same(digest.digest(), self.digests.setdefault(path, digest.digest()), path)

    def end(self):
        pass


KINDS = {kind.__name__: kind for kind in
         (Names, OtherCase, Attributes, Blocks, LargeBlocks, Append, Unlinked, Read, Map, Allocate, Locks)}


def main():
    load = {**KINDS, "ReadOnly": ReadOnly}[sys.argv[1]](sys.argv[2])
    n = 0
    while not select.select([0], [], [], 0)[0]:
        load.step(n)
        n += 1
        os.write(1, b".")
    load.end()


if __name__ == "__main__":
    main()
