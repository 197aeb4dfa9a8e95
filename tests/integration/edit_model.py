# SPDX-License-Identifier: GPL-3.0-or-later
"""A model of a mounted Windows image: a directory of the host's file system, and a table of what Windows knows besides.

  edits = Edits(mount, model, seed)      fills the empty directory `model` from the mount
  edits.run(300)                         random operations, done to both; what they return must be the same
  edits.compare()                        the mount shows what the model says

The model keeps names, contents, hard links and link targets itself; the table has the rest, by the model's inode.
"""

import ctypes
import errno
import mmap
import os
import random
import stat
import struct

import ntfs_volume
from tree_listing import link_groups, list_tree

LIBC = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 0x10
AT_FDCWD = -100

MAX_FILE_BYTES = 3 << 20
NAMES = 60

# Links and other reparse points stay what and where they are: what they show depends on where they stand.
LEFT_ALONE = (b"links", b"Windows")
# Archive changes with the data; the others are of how a volume stores a file.
IGNORED_ATTRIBUTES = 0x20 | 0x200 | 0x800 | 0x80 | 0x10


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def rename(old, new, flags):
    check(LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def allocate(path, mode, offset, length):
    descriptor = os.open(path, os.O_RDWR)
    try:
        check(LIBC.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))
    finally:
        os.close(descriptor)


class Meta:
    """What the table knows of a file; None: not known (a new file's), or not to be compared."""

    def __init__(self, entry=None):
        self.ntfs = {}
        self.streams = {}
        self.modified = None
        if entry is not None:
            self.ntfs = {key: value for key, value in entry.ntfs.items() if key != "dos_name"}
            self.streams = dict(entry.streams)
            self.modified = entry.modified


class Mismatch(AssertionError):
    pass


class Edits:
    def __init__(self, mount, model, seed):
        self.mount, self.model = os.fsencode(mount), os.fsencode(model)
        self.random = random.Random(seed)
        self.table, self.short_names, self.touched_names = {}, {}, set()
        self.done = {}
        self._fill()

    def _fill(self):
        """Copies the mount."""
        first = {}  # inode of the mount: path in the model
        for path, entry in sorted(list_tree(self.mount).items()):
            target = os.path.join(self.model, path)
            if entry.inode in first and entry.kind != "directory":
                os.link(first[entry.inode], target, follow_symlinks=False)
            elif entry.kind == "directory":
                os.makedirs(target, exist_ok=True)
            elif entry.kind == "link":
                os.symlink(entry.target, target)
            else:
                with open(os.path.join(self.mount, path), "rb") as source, open(target, "wb") as copy:
                    copy.write(source.read())
            first.setdefault(entry.inode, target)
            self.table[os.lstat(target).st_ino] = Meta(entry)
            if path:
                self.short_names[self._name_key(path)] = entry.ntfs.get("dos_name")

    def _name_key(self, path):
        return os.stat(os.path.join(self.model, os.path.dirname(path))).st_ino, os.path.basename(path)

    def _meta(self, path):
        return self.table[os.lstat(os.path.join(self.model, path)).st_ino]

    # ---- what to do it to

    def _walk(self):
        self.files, self.folders = [], [b""]
        for top, folders, files in os.walk(self.model):
            relative = os.path.relpath(top, self.model) if top != self.model else b""
            if relative == b"":
                folders[:] = [name for name in folders if name not in LEFT_ALONE]
            folders.sort()
            self.folders += [os.path.join(relative, name) for name in folders]
            self.files += [os.path.join(relative, name) for name in sorted(files)
                           if stat.S_ISREG(os.lstat(os.path.join(top, name)).st_mode)]

    def _file(self):
        return self.random.choice(self.files) if self.files else b"no-file"

    def _folder(self):
        return self.random.choice(self.folders[1:]) if len(self.folders) > 1 else b"no-folder"

    def _new_name(self):
        # One of few, so that names meet; never two that differ by case alone.
        return os.path.join(self.random.choice(self.folders), b"n%03d" % self.random.randrange(NAMES))

    def _bytes(self, limit):
        size = self.random.choice((0, 1, self.random.randrange(4096), self.random.randrange(limit)))
        seed = self.random.randrange(1 << 30)
        return self.random.randbytes(size) if self.random.random() < 0.3 else ntfs_volume.words(min(size, 60_000), seed)

    # ---- doing it

    def _both(self, what, action, *paths):
        """The operation on the model and on the mount; both must say the same. True where it was done."""
        said = []
        for root in (self.model, self.mount):
            try:
                action(*(os.path.join(root, path) for path in paths))
                said.append(0)
            except OSError as error:
                said.append(errno.ENOTEMPTY if error.errno == errno.EEXIST and what.startswith("re") else error.errno)
        if said[0] != said[1]:
            names = [errno.errorcode.get(code, "done") for code in said]
            raise Mismatch(f"{what} {paths}: the model says {names[0]}, the mount {names[1]}")
        self.done[what] = self.done.get(what, 0) + (said[0] == 0)
        return said[0] == 0

    def _change_names(self, what, action, *paths, changed):
        """As _both; the names `changed` come, go or change by it, and with them the times of their folders."""
        keys = []
        for path in changed:
            if os.path.isdir(os.path.join(self.model, os.path.dirname(path))):  # or it cannot succeed
                keys.append(self._name_key(path))
        if not self._both(what, action, *paths):
            return False
        for key in keys:
            self.touched_names.add(key)
            self.table[key[0]].modified = None
        return True

    def _adopt(self, path):
        self.table[os.lstat(os.path.join(self.model, path)).st_ino] = Meta()

    def run(self, count):
        operations = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("op_")]
        weights = [3 if operation in (self.op_create, self.op_write) else 1 for operation in operations]
        for number in range(count):
            if number % 5 == 0:
                self._walk()
            self.random.choices(operations, weights)[0]()

    def op_create(self):
        path, data = self._new_name(), self._bytes(200_000)

        def create(full):
            with open(full, "xb") as file:
                file.write(data)

        if self._change_names("create", create, path, changed=[path]):
            self._adopt(path)

    def _change_data(self, what, action):
        path = self._file()
        if self._both(what, action, path):
            self._meta(path).modified = None

    def op_write(self):
        data, offset = self._bytes(300_000), self.random.randrange(MAX_FILE_BYTES)

        def write(full):
            descriptor = os.open(full, os.O_WRONLY)
            try:
                at = min(offset, os.fstat(descriptor).st_size + 70_000)
                if os.pwrite(descriptor, data, at) != len(data):
                    raise Mismatch(f"short write to {full}")
            finally:
                os.close(descriptor)

        self._change_data("write", write)

    def op_append(self):
        data = self._bytes(50_000)

        def append(full):
            descriptor = os.open(full, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

        self._change_data("append", append)

    def op_truncate(self):
        size = self.random.choice((0, self.random.randrange(MAX_FILE_BYTES)))
        self._change_data("truncate", lambda full: os.truncate(full, size))

    def op_rewrite(self):
        data = self._bytes(100_000)

        def rewrite(full):
            descriptor = os.open(full, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

        self._change_data("rewrite", rewrite)

    def op_map(self):
        data, place = self._bytes(5000), self.random.random()

        def write_mapped(full):
            with open(full, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    return
                with mmap.mmap(file.fileno(), size) as view:
                    at = int(place * size)
                    part = data[:size - at]
                    view[at:at + len(part)] = part
                os.fsync(file.fileno())

        self._change_data("map", write_mapped)

    def op_allocate(self):
        mode = self.random.choice((0, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE))
        offset, length = self.random.randrange(MAX_FILE_BYTES), 1 + self.random.randrange(200_000)
        self._change_data("allocate", lambda full: allocate(full, mode, offset, length))

    def op_unlink(self):
        path = self._file()
        self._change_names("unlink", os.unlink, path, changed=[path])

    def op_unlink_open(self):
        path, data = self._file(), self._bytes(20_000)
        if os.path.lexists(os.path.join(self.model, path)):
            self._meta(path).modified = None  # it may have other names

        def unlink(full):
            with open(full, "r+b") as file:
                os.unlink(full)
                file.write(data)
                file.seek(0)
                if file.read(len(data)) != data:
                    raise Mismatch(f"{full}: an unlinked open file lost what was written")

        self._change_names("unlink_open", unlink, path, changed=[path])

    def op_make_folder(self):
        path = self._new_name()
        if self._change_names("mkdir", os.mkdir, path, changed=[path]):
            self._adopt(path)

    def op_remove_folder(self):
        path = self._folder()
        self._change_names("rmdir", os.rmdir, path, changed=[path])

    def _rename(self, old, new, flags):
        self._change_names("rename", lambda a, b: rename(a, b, flags), old, new, changed=[old, new])

    def op_rename_file(self):
        self._rename(self._file(), self._new_name(), 0)

    def op_rename_over(self):
        self._rename(self._file(), self._file(), 0)

    def op_rename_folder(self):
        self._rename(self._folder(), self._new_name(), 0)

    def op_rename_no_replace(self):
        self._rename(self._file(), self.random.choice((self._new_name(), self._file())), RENAME_NOREPLACE)

    def op_exchange(self):
        self._rename(self._file(), self.random.choice((self._file(), self._folder())), RENAME_EXCHANGE)

    def op_link(self):
        path = self._new_name()
        self._change_names("link", os.link, self._file(), path, changed=[path])

    def op_symlink(self):
        # They lead nowhere: what is done is done to what is named. None leads out of the mount, which a new one does not
        # show as it was made.
        path, target = self._new_name(), self.random.choice((b"nowhere", b"../nowhere", b"no/where/else"))
        if not os.path.dirname(path):
            target = b"nowhere"
        if self._change_names("symlink", lambda full: os.symlink(target, full), path, changed=[path]):
            self._adopt(path)

    def op_times(self):
        path = self.random.choice((self._file(), self._folder()))
        when = self.random.randrange(2_000_000_000) * 10**9 + 700
        if self._both("utimens", lambda full: os.utime(full, ns=(when + 100, when)), path):
            self._meta(path).modified = when

    # ---- what only Windows knows

    def _windows(self, path, key, value):
        full = os.path.join(self.mount, path)
        if not os.path.lexists(full):
            return
        os.setxattr(full, f"system.ntfs_{key}", value, follow_symlinks=False)
        self._meta(path).ntfs[key] = value
        self.done[key] = self.done.get(key, 0) + 1

    def op_attributes(self):
        value = self.random.choice((0x2, 0x4, 0x22, 0x2020, 0x26, 0x1, 0x21))
        self._windows(self._file(), "attrib", struct.pack("<I", value))

    def op_security(self):
        path = self.random.choice((self._file(), self._folder()))
        self._windows(path, "acl", ntfs_volume.security_descriptor(self.random.randrange(1, 1 << 20)))

    def op_creation_time(self):
        self._windows(self._file(), "crtime", struct.pack("<Q", 0x01C0000000000000 + self.random.randrange(1 << 50)))

    def op_extended_attributes(self):
        value = ntfs_volume.extended_attributes((b"E%d" % self.random.randrange(9), self.random.randbytes(40)))
        self._windows(self._file(), "ea", value)

    def op_object_id(self):
        self._windows(self._file(), "object_id", self.random.randbytes(16))

    def op_stream(self):
        path, name = self._file(), b"user.s%d" % self.random.randrange(4)
        full = os.path.join(self.mount, path)
        if not os.path.lexists(full):
            return
        self._meta(path).modified = None
        streams = self._meta(path).streams
        if name in streams and self.random.random() < 0.4:
            os.removexattr(full, name)
            del streams[name]
        else:
            value = self._bytes(50_000)
            os.setxattr(full, name, value)
            streams[name] = value
        self.done["stream"] = self.done.get("stream", 0) + 1

    # ---- looking at it

    def compare(self):
        """Raises Mismatch with all differences; returns the mount's listing."""
        ours, theirs = list_tree(self.mount), list_tree(self.model, ntfs=False)
        wrong = [f"only in the mount: {path}" for path in sorted(set(ours) - set(theirs))]
        wrong += [f"only in the model: {path}" for path in sorted(set(theirs) - set(ours))]
        for path in sorted(set(ours) & set(theirs)):
            entry, reference = ours[path], theirs[path]
            for key in ("kind", "size", "hash", "target"):
                if getattr(entry, key) != getattr(reference, key):
                    wrong.append(f"{path}: {key} is {getattr(entry, key)}, not {getattr(reference, key)}")
            wrong += self._compare_windows(path, entry, self.table[reference.inode])
        if link_groups(ours) != link_groups(theirs):
            wrong.append(f"hard links: {link_groups(ours)}, not {link_groups(theirs)}")
        if wrong:
            raise Mismatch("\n".join(wrong[:20]) + f"\n({len(wrong)} differences)")
        return ours

    def _compare_windows(self, path, entry, meta):
        for key, value in meta.ntfs.items():
            shown = entry.ntfs[key]
            if key == "attrib" and value is not None:
                shown, value = (int.from_bytes(x, "little") & ~IGNORED_ATTRIBUTES for x in (shown, value))
            elif key == "object_id" and value is not None:
                shown, value = (shown or b"").ljust(64, b"\0"), value.ljust(64, b"\0")  # as a volume stores it
            elif key == "acl" and value is not None:
                shown, value = (shown or b"").rstrip(b"\0"), value.rstrip(b"\0")
            if shown != value:
                yield f"{path}: system.ntfs_{key} is {shown}, not {value}"
        if entry.kind != "link" and entry.streams != meta.streams:
            yield f"{path}: streams {sorted(entry.streams)}, not {sorted(meta.streams)}, or other content"
        if meta.modified is not None and entry.modified != meta.modified:
            yield f"{path}: modified {entry.modified}, not {meta.modified}"
        if path:
            key = self._name_key(path)
            if key not in self.touched_names and entry.ntfs["dos_name"] != self.short_names.get(key):
                yield f"{path}: short name {entry.ntfs['dos_name']}, not {self.short_names.get(key)}"
