#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What POSIX asks of each operation, errno by errno, for root and for others: the same table on ext4 and on a mount.

A rule that ext4 does not keep is a wrong rule, so the table is run there first. What a mount does otherwise on purpose
stands in DIFFERENT, with the reason; a rule in it that the mount keeps after all fails too.

On a directory of one's own:  posix_rules_test.py --on DIR
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import disks
from dismd_service import ServiceTestCase

LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
ROOT, OWNER, GROUP, OTHER = (0, 0), (1001, 2001), (1002, 2001), (1003, 2003)

DIFFERENT = {}
DIFFERENT_ON_NTFS = {
    **dict.fromkeys(("chown by root", "times after chown", "changing_the_owner_drops_privileges"), "files have no owners"),
    **dict.fromkeys(("new_files_get_the_umask", "root_keeps_privileges_when_writing"), "nor modes"),
    **dict.fromkeys(("open a pipe nobody reads", "truncate a pipe", "xattr of a pipe", "sockets_and_pipes"),
                    "nor are there pipes, sockets and devices"),
    "link_counts": "a directory does not count those in it",
    "large_xattrs": "Windows' metadata are listed with them",
    "times after xattr": "a named stream is data of the file",
    "space_is_told": "names have 255 UTF-16 units, up to 765 bytes",
}
# Whether files have owners and modes, and there are pipes, for what is there before a rule.
UNIX = True


def c(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def rename2(a, b, flags):
    c(LIBC.renameat2(-100, a.encode(), -100, b.encode(), flags))


def fallocate(fd, mode, offset, length):
    c(LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def make(name, content=b"", mode=0o644, owner=None):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content)
    os.close(fd)
    give(name, mode, owner)


def make_dir(name, mode=0o755, owner=None):
    os.mkdir(name)
    give(name, mode, owner)


def give(name, mode, owner):
    if not UNIX:
        return
    if owner:
        os.chown(name, *owner)
    os.chmod(name, mode)


def opened(name, flags=os.O_RDONLY, mode=0o644):
    return os.open(name, flags | os.O_CLOEXEC, mode)


def expect(condition, what=""):
    if not condition:
        raise AssertionError(what)


def same(a, b):
    expect(a == b, f"{a!r} is not {b!r}")


# A rule: name, who, what is there before, what is done, the errno that it must give (0: none).
RULES = []


def rule(error=0, who=ROOT, before=None, name=None):
    def add(function):
        RULES.append((name or function.__name__, who, before, function, error))
        return function
    return add


def table(before, *rows):
    """Rows of (name, who, function, errno) that begin alike."""
    for row_name, who, function, error in rows:
        RULES.append((row_name, who, before, function, error))


def usual():
    """What most rows begin with."""
    make("file", b"content", 0o644, OWNER)
    make("private", b"secret", 0o600, OWNER)
    make("group", b"shared", 0o640, OWNER)
    make_dir("dir", 0o755, OWNER)
    make_dir("full", 0o755, OWNER)
    make("full/entry", b"", 0o644, OWNER)
    make_dir("open", 0o777)
    make_dir("sticky", 0o1777)
    make("sticky/owners", b"", 0o644, OWNER)
    make("open/owners", b"", 0o644, OWNER)
    make_dir("closed", 0o700, OWNER)
    make("closed/inside", b"", 0o644, OWNER)
    os.symlink("file", "link")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    if UNIX:
        os.mkfifo("pipe")


LONG = "n" * 256
table(usual,
      # open
      ("open absent", ROOT, lambda: opened("absent"), errno.ENOENT),
      ("open below a file", ROOT, lambda: opened("file/x"), errno.ENOTDIR),
      ("open with a slash", ROOT, lambda: opened("file/"), errno.ENOTDIR),
      ("open too long", ROOT, lambda: opened(LONG), errno.ENAMETOOLONG),
      ("open a loop", ROOT, lambda: opened("loop"), errno.ELOOP),
      ("open a link, not followed", ROOT, lambda: opened("link", os.O_NOFOLLOW), errno.ELOOP),
      ("open a dangling link", ROOT, lambda: opened("dangling"), errno.ENOENT),
      ("open a directory to write", ROOT, lambda: opened("dir", os.O_WRONLY), errno.EISDIR),
      ("open a file as directory", ROOT, lambda: opened("file", os.O_DIRECTORY), errno.ENOTDIR),
      ("open others' private file", OTHER, lambda: opened("private"), errno.EACCES),
      ("open to write without leave", OTHER, lambda: opened("file", os.O_WRONLY), errno.EACCES),
      ("truncate at open without leave", OTHER, lambda: opened("file", os.O_RDONLY | os.O_TRUNC), errno.EACCES),
      ("group may read", GROUP, lambda: opened("group"), 0),
      ("group may not write", GROUP, lambda: opened("group", os.O_WRONLY), errno.EACCES),
      ("others may not read the group's", OTHER, lambda: opened("group"), errno.EACCES),
      ("root opens all", ROOT, lambda: opened("private", os.O_RDWR), 0),
      ("open in a closed directory", OTHER, lambda: opened("closed/inside"), errno.EACCES),
      ("open a pipe nobody reads", ROOT, lambda: opened("pipe", os.O_WRONLY | os.O_NONBLOCK), errno.ENXIO),
      ("create", OTHER, lambda: opened("open/new", os.O_CREAT | os.O_WRONLY), 0),
      ("create without leave", OTHER, lambda: opened("dir/new", os.O_CREAT | os.O_WRONLY), errno.EACCES),
      ("create exclusively what is there", ROOT, lambda: opened("file", os.O_CREAT | os.O_EXCL | os.O_RDWR),
       errno.EEXIST),
      ("create exclusively over a link", ROOT, lambda: opened("dangling", os.O_CREAT | os.O_EXCL | os.O_RDWR),
       errno.EEXIST),
      ("create through a dangling link", ROOT, lambda: opened("dangling", os.O_CREAT | os.O_RDWR), 0),
      ("create a directory's name", ROOT, lambda: opened("dir", os.O_CREAT | os.O_RDWR), errno.EISDIR),
      ("create too long", ROOT, lambda: opened(LONG, os.O_CREAT | os.O_RDWR), errno.ENAMETOOLONG),
      ("create in no directory", ROOT, lambda: opened("absent/x", os.O_CREAT | os.O_RDWR), errno.ENOENT),
      # mkdir, mknod, symlink
      ("mkdir", OWNER, lambda: os.mkdir("dir/new"), 0),
      ("mkdir there", ROOT, lambda: os.mkdir("dir"), errno.EEXIST),
      ("mkdir over a file", ROOT, lambda: os.mkdir("file"), errno.EEXIST),
      ("mkdir over a dangling link", ROOT, lambda: os.mkdir("dangling"), errno.EEXIST),
      ("mkdir in none", ROOT, lambda: os.mkdir("absent/x"), errno.ENOENT),
      ("mkdir below a file", ROOT, lambda: os.mkdir("file/x"), errno.ENOTDIR),
      ("mkdir without leave", OTHER, lambda: os.mkdir("dir/x"), errno.EACCES),
      ("mkdir too long", ROOT, lambda: os.mkdir(LONG), errno.ENAMETOOLONG),
      ("mkdir dot", ROOT, lambda: os.mkdir("dir/."), errno.EEXIST),
      ("mkfifo", OTHER, lambda: os.mkfifo("open/p"), 0),
      ("mkfifo there", ROOT, lambda: os.mkfifo("file"), errno.EEXIST),
      ("mknod of a device", OTHER, lambda: os.mknod("open/d", stat.S_IFCHR | 0o600, os.makedev(1, 3)), errno.EPERM),
      ("symlink", OTHER, lambda: os.symlink("x" * 1000, "open/l"), 0),
      ("symlink there", ROOT, lambda: os.symlink("x", "file"), errno.EEXIST),
      ("symlink without leave", OTHER, lambda: os.symlink("x", "dir/l"), errno.EACCES),
      ("symlink of nothing", ROOT, lambda: os.symlink("", "l"), errno.ENOENT),
      ("readlink of a file", ROOT, lambda: os.readlink("file"), errno.EINVAL),
      # link
      ("link", ROOT, lambda: os.link("file", "second"), 0),
      ("link there", ROOT, lambda: os.link("file", "private"), errno.EEXIST),
      ("link of a directory", ROOT, lambda: os.link("dir", "second"), errno.EPERM),
      ("link of none", ROOT, lambda: os.link("absent", "second"), errno.ENOENT),
      ("link into none", ROOT, lambda: os.link("file", "absent/second"), errno.ENOENT),
      ("link without leave", OWNER, lambda: os.link("file", "second"), errno.EACCES),
      # unlink, rmdir
      ("unlink", OWNER, lambda: os.unlink("full/entry"), 0),
      ("unlink none", ROOT, lambda: os.unlink("absent"), errno.ENOENT),
      ("unlink a directory", ROOT, lambda: os.unlink("dir"), errno.EISDIR),
      ("unlink below a file", ROOT, lambda: os.unlink("file/x"), errno.ENOTDIR),
      ("unlink without leave", OTHER, lambda: os.unlink("full/entry"), errno.EACCES),
      ("unlink others' in an open directory", OTHER, lambda: os.unlink("open/owners"), 0),
      ("unlink others' in a sticky one", OTHER, lambda: os.unlink("sticky/owners"), errno.EPERM),
      ("unlink one's own in a sticky one", OWNER, lambda: os.unlink("sticky/owners"), 0),
      ("unlink with a slash", ROOT, lambda: os.unlink("file/"), errno.ENOTDIR),
      ("unlink a link", ROOT, lambda: (os.unlink("link"), os.stat("file")), 0),
      ("rmdir", ROOT, lambda: os.rmdir("dir"), 0),
      ("rmdir full", ROOT, lambda: os.rmdir("full"), errno.ENOTEMPTY),
      ("rmdir a file", ROOT, lambda: os.rmdir("file"), errno.ENOTDIR),
      ("rmdir none", ROOT, lambda: os.rmdir("absent"), errno.ENOENT),
      ("rmdir dot", ROOT, lambda: os.rmdir("dir/."), errno.EINVAL),
      ("rmdir dotdot", ROOT, lambda: os.rmdir("dir/.."), errno.ENOTEMPTY),
      ("rmdir a link to a directory", ROOT, lambda: (os.symlink("dir", "l"), os.rmdir("l")), errno.ENOTDIR),
      ("rmdir without leave", OTHER, lambda: (os.rmdir("closed/x")), errno.EACCES),
      # rename
      ("rename", ROOT, lambda: os.rename("file", "new"), 0),
      ("rename none", ROOT, lambda: os.rename("absent", "new"), errno.ENOENT),
      ("rename into none", ROOT, lambda: os.rename("file", "absent/new"), errno.ENOENT),
      ("rename below a file", ROOT, lambda: os.rename("dir", "file/x"), errno.ENOTDIR),
      ("rename a file over a directory", ROOT, lambda: os.rename("file", "dir"), errno.EISDIR),
      ("rename a directory over a file", ROOT, lambda: os.rename("dir", "file"), errno.ENOTDIR),
      ("rename over a full directory", ROOT, lambda: os.rename("dir", "full"), errno.ENOTEMPTY),
      ("rename over an empty directory", ROOT, lambda: os.rename("full", "dir"), 0),
      ("rename into itself", ROOT, lambda: os.rename("dir", "dir/x"), errno.EINVAL),
      ("rename over an ancestor", ROOT, lambda: os.rename("full/entry", "full"), errno.ENOTEMPTY),
      ("rename to itself", ROOT, lambda: os.rename("file", "file"), 0),
      ("rename too long", ROOT, lambda: os.rename("file", LONG), errno.ENAMETOOLONG),
      ("rename without leave", OTHER, lambda: os.rename("full/entry", "open/x"), errno.EACCES),
      ("rename without leave there", OTHER, lambda: os.rename("open/owners", "dir/x"), errno.EACCES),
      ("rename others' in a sticky one", OTHER, lambda: os.rename("sticky/owners", "open/x"), errno.EPERM),
      ("rename dot", ROOT, lambda: os.rename("dir/.", "x"), errno.EBUSY),
      ("rename, not over", ROOT, lambda: rename2("file", "private", NOREPLACE), errno.EEXIST),
      ("rename, not over, free", ROOT, lambda: rename2("file", "free", NOREPLACE), 0),
      ("exchange with none", ROOT, lambda: rename2("file", "absent", EXCHANGE), errno.ENOENT),
      ("exchange a file and a directory", ROOT, lambda: rename2("file", "full", EXCHANGE), 0),
      ("exchange with a descendant", ROOT, lambda: rename2("full", "full/entry", EXCHANGE), errno.EINVAL),
      ("exchange and not over", ROOT, lambda: rename2("file", "dir", EXCHANGE | NOREPLACE), errno.EINVAL),
      ("rename with an unknown flag", ROOT, lambda: rename2("file", "x", 64), errno.EINVAL),
      # chmod, chown, utimens
      ("chmod one's own", OWNER, lambda: os.chmod("file", 0o600), 0),
      ("chmod others'", OTHER, lambda: os.chmod("file", 0o600), errno.EPERM),
      ("chmod none", ROOT, lambda: os.chmod("absent", 0o600), errno.ENOENT),
      ("chown by the owner", OWNER, lambda: os.chown("file", 1003, -1), errno.EPERM),
      ("chown by root", ROOT, lambda: os.chown("file", 1003, 7), 0),
      ("chgrp to a group one is not in", OWNER, lambda: os.chown("file", -1, 2003), errno.EPERM),
      ("chgrp to one's own group", OWNER, lambda: os.chown("file", -1, 2001), 0),
      ("times by the owner", OWNER, lambda: os.utime("file", (1, 2)), 0),
      ("times by others", OTHER, lambda: os.utime("file", (1, 2)), errno.EPERM),
      ("now by others without leave", OTHER, lambda: os.utime("file"), errno.EACCES),
      # truncate, write, read
      ("truncate", OWNER, lambda: os.truncate("file", 3), 0),
      ("truncate a directory", ROOT, lambda: os.truncate("dir", 0), errno.EISDIR),
      ("truncate a pipe", ROOT, lambda: os.truncate("pipe", 0), errno.EINVAL),
      ("truncate without leave", OTHER, lambda: os.truncate("file", 0), errno.EACCES),
      ("truncate to less than nothing", ROOT, lambda: os.truncate("file", -1), errno.EINVAL),
      ("ftruncate what is open to read", ROOT, lambda: os.ftruncate(opened("file"), 0), errno.EINVAL),
      ("write to what is open to read", ROOT, lambda: os.write(opened("file"), b"x"), errno.EBADF),
      ("read what is open to write", ROOT, lambda: os.read(opened("file", os.O_WRONLY), 1), errno.EBADF),
      ("read a directory", ROOT, lambda: os.read(opened("dir"), 1), errno.EISDIR),
      ("list a file", ROOT, lambda: os.listdir("file"), errno.ENOTDIR),
      ("list without leave", OTHER, lambda: os.listdir("closed"), errno.EACCES),
      # fallocate, lseek
      ("allocate", ROOT, lambda: fallocate(opened("file", os.O_RDWR), 0, 0, 100000), 0),
      ("allocate nothing", ROOT, lambda: fallocate(opened("file", os.O_RDWR), 0, 0, 0), errno.EINVAL),
      ("allocate before the start", ROOT, lambda: fallocate(opened("file", os.O_RDWR), 0, -1, 5), errno.EINVAL),
      ("allocate what is open to read", ROOT, lambda: fallocate(opened("file"), 0, 0, 5), errno.EBADF),
      ("punch without keeping the size", ROOT, lambda: fallocate(opened("file", os.O_RDWR), PUNCH_HOLE, 0, 5),
       errno.EOPNOTSUPP),
      ("data behind the end", ROOT, lambda: os.lseek(opened("file"), 100, os.SEEK_DATA), errno.ENXIO),
      ("hole behind the end", ROOT, lambda: os.lseek(opened("file"), 100, os.SEEK_HOLE), errno.ENXIO),
      ("seek before the start", ROOT, lambda: os.lseek(opened("file"), -1, os.SEEK_SET), errno.EINVAL),
      # extended attributes
      ("xattr absent", ROOT, lambda: os.getxattr("file", "user.none"), errno.ENODATA),
      ("xattr set", OWNER, lambda: os.setxattr("file", "user.x", b"1"), 0),
      ("xattr set by others", OTHER, lambda: os.setxattr("file", "user.x", b"1"), errno.EACCES),
      ("xattr replace none", OWNER, lambda: os.setxattr("file", "user.x", b"1", os.XATTR_REPLACE), errno.ENODATA),
      ("xattr create twice", OWNER, lambda: [os.setxattr("file", "user.x", b"1", os.XATTR_CREATE)] * 0 or
       [os.setxattr("file", "user.x", b"1", os.XATTR_CREATE) for _ in range(2)], errno.EEXIST),
      ("xattr remove none", OWNER, lambda: os.removexattr("file", "user.x"), errno.ENODATA),
      ("xattr of a link", ROOT, lambda: os.setxattr("link", "user.x", b"1", follow_symlinks=False), errno.EPERM),
      ("xattr of a pipe", ROOT, lambda: os.setxattr("pipe", "user.x", b"1"), errno.EPERM),
      ("xattr of no namespace", ROOT, lambda: os.setxattr("file", "nothing.x", b"1"), errno.EOPNOTSUPP),
      # access, chdir
      ("chdir to a file", ROOT, lambda: os.chdir("file"), errno.ENOTDIR),
      ("chdir without leave", OTHER, lambda: os.chdir("closed"), errno.EACCES),
      ("stat through a closed directory", OTHER, lambda: os.stat("closed/inside"), errno.EACCES),
      )


# --- What an operation does


@rule()
def new_files_get_the_umask():
    os.umask(0o027)
    os.close(opened("f", os.O_CREAT | os.O_RDWR, 0o666))
    same(os.stat("f").st_mode & 0o7777, 0o640)
    os.mkdir("d", 0o777)
    same(os.stat("d").st_mode & 0o7777, 0o750)


@rule(who=OTHER, before=lambda: make_dir("open", 0o777))
def new_files_belong_to_who_made_them():
    os.close(opened("open/f", os.O_CREAT | os.O_RDWR))
    os.mkdir("open/d")
    for name in ("open/f", "open/d"):
        same((os.stat(name).st_uid, os.stat(name).st_gid), OTHER)


@rule(who=OTHER, before=lambda: make_dir("shared", 0o2777, (0, 77)))
def set_group_id_directories_pass_their_group_on():
    os.close(opened("shared/f", os.O_CREAT | os.O_RDWR))
    os.mkdir("shared/d")
    same(os.stat("shared/f").st_gid, 77)
    same(os.stat("shared/d").st_gid, 77)
    expect(os.stat("shared/d").st_mode & stat.S_ISGID)


@rule(who=OTHER, before=lambda: make("f", b"x", 0o6777))
def writing_drops_privileges():
    os.write(opened("f", os.O_WRONLY), b"y")
    same(os.stat("f").st_mode & 0o7777, 0o777)


@rule(who=OTHER, before=lambda: make("f", b"x", 0o6777))
def truncating_drops_privileges():
    os.truncate("f", 0)
    same(os.stat("f").st_mode & 0o7777, 0o777)


@rule(who=OTHER, before=lambda: make("f", b"x", 0o6777))
def opening_with_truncation_drops_privileges():
    opened("f", os.O_WRONLY | os.O_TRUNC)
    same(os.stat("f").st_mode & 0o7777, 0o777)


@rule(before=lambda: make("f", b"x", 0o6755, OWNER))
def changing_the_owner_drops_privileges():
    os.chown("f", 5, 6)
    same(os.stat("f").st_mode & 0o7777, 0o755)


@rule(before=lambda: make("f", b"x", 0o6755))
def root_keeps_privileges_when_writing():
    os.write(opened("f", os.O_WRONLY), b"y")
    same(os.stat("f").st_mode & 0o7777, 0o6755)


@rule(who=OWNER, before=lambda: make("f", b"x", 0o755, (1001, 2003)))
def the_group_bit_needs_the_group():
    os.chmod("f", 0o2755)
    same(os.stat("f").st_mode & 0o7777, 0o755)


def later(operation, *fields, path, times):
    """`operation` sets exactly these times of `path` anew."""
    past = 1_000_000_000
    if "m" in times or "a" in times:
        os.utime(path, (past, past), follow_symlinks=False)
    before = os.lstat(path)
    time.sleep(0.02)  # the clock of ext4 ticks every 4 ms
    operation()
    after = os.lstat(path)
    same(after.st_mtime_ns != before.st_mtime_ns, "m" in fields)
    same(after.st_ctime_ns > before.st_ctime_ns, "c" in fields)


for time_name, time_operation, time_fields, time_path in (
        ("write", lambda: os.write(opened("f", os.O_WRONLY), b"x"), "mc", "f"),
        ("truncate", lambda: os.truncate("f", 1), "mc", "f"),
        ("truncate at open", lambda: opened("f", os.O_WRONLY | os.O_TRUNC), "mc", "f"),
        ("chmod", lambda: os.chmod("f", 0o600), "c", "f"),
        ("chown", lambda: os.chown("f", 3, 4), "c", "f"),
        ("link", lambda: os.link("f", "g"), "c", "f"),
        ("unlink of another name", lambda: (os.unlink("h")), "c", "f"),
        ("rename", lambda: os.rename("f", "f2") or os.rename("f2", "f"), "c", "f"),
        ("xattr", lambda: os.setxattr("f", "user.t", b"1"), "c", "f"),
        ("reading", lambda: os.read(opened("f"), 10), "", "f"),
        ("create in a directory", lambda: os.close(opened("d/n", os.O_CREAT | os.O_RDWR)), "mc", "d"),
        ("mkdir in a directory", lambda: os.mkdir("d/n"), "mc", "d"),
        ("unlink in a directory", lambda: os.unlink("d/e"), "mc", "d"),
        ("rename in a directory", lambda: os.rename("d/e", "d/e2"), "mc", "d"),
        ("rename out of a directory", lambda: os.rename("d/e", "e"), "mc", "d"),
        ("a failed unlink in a directory", lambda: os.path.exists("d/none"), "", "d"),
        ("write of nothing", lambda: os.write(opened("f", os.O_WRONLY), b""), "", "f")):
    def time_before():
        make("f", b"content")
        os.link("f", "h")
        make_dir("d")
        make("d/e")
    RULES.append((f"times after {time_name}", ROOT, time_before,
                  lambda o=time_operation, f=time_fields, p=time_path: later(o, *f, path=p, times="m"), 0))


@rule(before=lambda: make("f", b"x"))
def times_are_kept_to_100_nanoseconds():
    os.utime("f", ns=(1_234_567_890_123_456_700, 1_111_111_111_987_654_300))
    same((os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns), (1_234_567_890_123_456_700, 1_111_111_111_987_654_300))


@rule()
def link_counts():
    make("f")
    os.link("f", "g")
    same(os.stat("f").st_nlink, 2)
    os.unlink("f")
    same(os.stat("g").st_nlink, 1)
    make("h")
    os.rename("h", "g")
    same(os.stat("g").st_nlink, 1)
    links = os.stat(".").st_nlink
    os.mkdir("d")
    same((os.stat(".").st_nlink, os.stat("d").st_nlink), (links + 1, 2))
    os.rmdir("d")
    same(os.stat(".").st_nlink, links)


@rule()
def an_open_file_outlives_its_names():
    fd = opened("f", os.O_CREAT | os.O_RDWR)
    os.unlink("f")
    os.write(fd, b"still there")
    same(os.pread(fd, 100, 0), b"still there")
    same((os.fstat(fd).st_nlink, os.fstat(fd).st_size), (0, 11))
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 3)
    same(os.fstat(fd).st_size, 3)
    expect(not os.path.exists("f"))


@rule()
def a_replaced_file_stays_open():
    make("a", b"old")
    make("b", b"new")
    fd = opened("a")
    os.rename("b", "a")
    same(os.read(fd, 10), b"old")
    same(os.read(opened("a"), 10), b"new")
    same(os.fstat(fd).st_nlink, 0)


@rule(error=errno.ENOENT)
def nothing_is_made_in_a_removed_directory():
    os.mkdir("d")
    os.chdir("d")
    os.rmdir("../d")
    opened("x", os.O_CREAT | os.O_RDWR)


@rule()
def a_removed_directory_is_empty_for_who_has_it():
    os.mkdir("d")
    inside = opened("d")
    os.chdir("d")
    os.rmdir("../d")
    same(os.listdir("."), [])
    same(os.listdir(inside), [])
    same((os.stat(".").st_nlink, os.fstat(opened(".")).st_nlink), (0, 0))
    expect(stat.S_ISDIR(os.fstat(inside).st_mode))
    expect(not os.path.exists("x"))
    os.chdir("..")
    expect(not os.path.exists("d"))


@rule()
def so_is_a_replaced_one():
    os.mkdir("old")
    os.mkdir("new")
    make("new/entry")
    os.chdir("old")
    os.rename("../new", "../old")
    same(os.listdir("."), [])
    same(os.stat(".").st_nlink, 0)
    same(os.listdir("../old"), ["entry"])


@rule()
def two_names_of_one_file_are_left_alone_by_rename():
    make("a", b"x")
    os.link("a", "b")
    os.rename("a", "b")
    expect(os.path.exists("a") and os.path.exists("b"))


@rule()
def exchange_exchanges():
    make("a", b"A")
    os.mkdir("d")
    make("d/b", b"B")
    rename2("a", "d/b", EXCHANGE)
    same((open("a").read(), open("d/b").read()), ("B", "A"))
    rename2("a", "d", EXCHANGE)
    same((open("d").read(), open("a/b").read()), ("B", "A"))


@rule()
def growing_by_truncation_gives_zeros():
    make("f", b"x" * 5000)
    os.truncate("f", 10)
    os.truncate("f", 9000)
    same(open("f", "rb").read(), b"x" * 10 + b"\0" * 8990)


@rule()
def writing_behind_the_end_leaves_a_hole():
    fd = opened("f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 1 << 20)
    same(os.fstat(fd).st_size, (1 << 20) + 1)
    same(os.pread(fd, 4096, 4096), b"\0" * 4096)
    expect(os.fstat(fd).st_blocks * 512 < 1 << 20, "it takes room")
    same(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
    same(os.lseek(fd, 0, os.SEEK_HOLE), 0)


@rule()
def a_punched_hole_reads_as_zeros():
    fd = opened("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 20000)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
    same(os.pread(fd, 20000, 0), b"x" * 4096 + b"\0" * 8192 + b"x" * (20000 - 12288))
    fallocate(fd, ZERO_RANGE, 0, 100)
    same(os.pread(fd, 101, 0), b"\0" * 100 + b"x")
    fallocate(fd, KEEP_SIZE, 0, 1 << 20)
    same(os.fstat(fd).st_size, 20000)
    fallocate(fd, 0, 0, 1 << 20)
    same(os.fstat(fd).st_size, 1 << 20)


@rule()
def appending_ends_up_at_the_end():
    make("f", b"begin ")
    a, b = opened("f", os.O_WRONLY | os.O_APPEND), opened("f", os.O_WRONLY | os.O_APPEND)
    for fd, text in ((a, b"1"), (b, b"2"), (a, b"3")):
        os.write(fd, text)
    same(open("f", "rb").read(), b"begin 123")


@rule()
def shared_mappings_and_files_are_one():
    make("f", b"\0" * 8192)
    fd = opened("f", os.O_RDWR)
    with mmap.mmap(fd, 8192) as mapped:
        mapped[5000:5003] = b"map"
        mapped.flush()
        same(os.pread(fd, 3, 5000), b"map")
        os.pwrite(fd, b"pen", 100)
        same(mapped[100:103], b"pen")
    same(open("f", "rb").read()[5000:5003], b"map")


@rule(error=errno.EAGAIN)
def locks_exclude_others():
    make("f", b"x")
    a, b = opened("f", os.O_RDWR), opened("f", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)


@rule()
def record_locks_exclude_other_processes():
    make("f", b"x")
    fd = opened("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    child = os.fork()
    if child == 0:
        try:
            fcntl.lockf(opened("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 3)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (errno.EAGAIN, errno.EACCES))


@rule()
def large_xattrs():
    make("f")
    os.setxattr("f", "user.big", b"v" * 3000)
    same(os.getxattr("f", "user.big"), b"v" * 3000)
    same(os.listxattr("f"), ["user.big"])
    os.removexattr("f", "user.big")
    same(os.listxattr("f"), [])


@rule()
def directories_are_listed_whole_while_they_shrink():
    os.mkdir("d")
    names = {f"entry{i}" for i in range(2000)}
    for name in names:
        make("d/" + name)
    same(set(os.listdir("d")), names)
    with os.scandir("d") as entries:
        for entry in entries:
            os.unlink(entry.path)
    same(os.listdir("d"), [])
    os.rmdir("d")


@rule()
def names_are_bytes():
    for name in ("ä" * 255 if False else "ä" * 127, " ", "a b", "-", "日本語", "\U0001F600", "x" * 255, "tab\there"):
        make(name, b"1")
        same(open(name, "rb").read(), b"1")
        expect(name in os.listdir("."), name)


@rule()
def sockets_and_pipes():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        expect(stat.S_ISSOCK(os.stat("s").st_mode))
    os.mkfifo("p")
    expect(stat.S_ISFIFO(os.stat("p").st_mode))
    os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    same(os.stat("null").st_rdev, os.makedev(1, 3))


@rule()
def syncing():
    fd = opened("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    os.fsync(opened("."))


@rule()
def copying_within_the_kernel():
    make("a", os.urandom(300_000))
    source, target = opened("a"), opened("b", os.O_CREAT | os.O_RDWR)
    while os.copy_file_range(source, target, 1 << 20):
        pass
    same(open("a", "rb").read(), open("b", "rb").read())


@rule()
def space_is_told():
    told = os.statvfs(".")
    expect(told.f_bavail > 0 and told.f_blocks >= told.f_bavail)
    same(told.f_namemax, 255)


def become(who):
    os.setgroups([])
    os.setresgid(who[1], who[1], who[1])
    os.setresuid(who[0], who[0], who[0])


def run_rule(directory, who, before, function, error):
    """None, or what went wrong. In a process of its own."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        problem = ""
        try:
            os.chdir(directory)
            os.umask(0)
            if before:
                before()
            os.umask(0o022)
            if who != ROOT:
                become(who)
            try:
                function()
                got = 0
            except OSError as raised:
                got = raised.errno
            if got != error:
                name = lambda number: errno.errorcode.get(number, "success")
                problem = f"{name(got)} instead of {name(error)}"
        except BaseException as failed:  # pylint: disable=broad-except
            problem = f"{type(failed).__name__}: {failed}"
        os.write(write_end, problem.encode()[:4000])
        os._exit(0)
    os.close(write_end)
    problem = b""
    while part := os.read(read_end, 4096):
        problem += part
    os.close(read_end)
    os.waitpid(child, 0)
    return problem.decode() or None


def run_all(directory, callers=(ROOT, OWNER, GROUP, OTHER)):
    """{rule: problem} of those that were not kept."""
    problems = {}
    for number, (name, who, before, function, error) in enumerate(RULES):
        if who not in callers:
            continue
        own = os.path.join(directory, str(number))
        os.mkdir(own, 0o755)
        os.chmod(own, 0o777 if who != ROOT and before is None else 0o755)
        problem = run_rule(own, who, before, function, error)
        if problem:
            problems[f"{name} (uid {who[0]})"] = problem
        shutil.rmtree(own)
    return problems


class DiskTest(ServiceTestCase):
    """An NTFS volume, which has neither modes nor owners: what others may do is not asked."""

    def test_a_volume_keeps_them(self):
        raw, disk, volume, root = (os.path.join(self.directory, name) for name in ("raw", "rules.vhdx", "volume", "mnt"))
        disks.make_volume(volume, 64)
        disks.make_disk(raw, ((disks.BASIC, 64, volume),))
        disks.convert(raw, disk)
        os.mkdir(root)
        self.client.mount(disk, root, read_only=False)
        with unittest.mock.patch(f"{__name__}.UNIX", False):
            problems = run_all(root, callers=(ROOT,))
        list(self.client.stream("UnmountImage", {"mount_path": root, "changes": "CHANGES_DISCARD"}))
        problems = {name.removesuffix(" (uid 0)"): problem for name, problem in problems.items()}
        self.assertEqual({name: problem for name, problem in problems.items() if name not in DIFFERENT_ON_NTFS}, {})
        self.assertEqual(set(DIFFERENT_ON_NTFS) - set(problems), set())


class PosixRulesTest(unittest.TestCase):
    def setUp(self):
        self.base = tempfile.mkdtemp(prefix="posix-rules-", dir=os.environ.get("DISMD_BIN_DIR"))
        os.chmod(self.base, 0o755)
        self.addCleanup(shutil.rmtree, self.base)

    def test_ext4_keeps_them(self):
        self.assertEqual(run_all(self.base), {})

    def test_a_mount_keeps_them(self):
        mount, tree = os.path.join(self.base, "mnt"), os.path.join(self.base, "tree")
        os.mkdir(mount)
        os.mkdir(tree)
        server = subprocess.Popen([os.path.join(os.environ["DISMD_BIN_DIR"], "rw_server"), f"--tree={tree}",
                                   f"--mount={mount}", f"--saved={self.base}/init"], stdout=subprocess.PIPE)
        try:
            self.assertEqual(server.stdout.readline(), b"ready\n")
            problems = run_all(mount)
        finally:
            subprocess.run(["umount", mount], check=True)
            server.wait()
            server.stdout.close()
        self.assertEqual({name: problem for name, problem in problems.items() if name not in DIFFERENT}, {})
        self.assertEqual(set(DIFFERENT) - set(problems), set())


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--on":
        for rule_name, rule_problem in run_all(sys.argv[2]).items():
            print(f"{rule_name}: {rule_problem}")
    else:
        unittest.main()
