# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be seen of a mounted tree, for comparing one with another."""

import ctypes
import errno
import hashlib
import os
import stat

NTFS_ATTRIBUTES = ("attrib", "acl", "dos_name", "crtime", "reparse_data", "ea", "object_id")
# ntfs-3g refuses to tell the short name of the root.
ROOT_ATTRIBUTES = tuple(name for name in NTFS_ATTRIBUTES if name != "dos_name")
HASH_BLOCK = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
VALUE = ctypes.create_string_buffer(1 << 16)  # the kernel's limit


def get_attribute(path, name):
    """An extended attribute, or None where there is none.

    Not os.getxattr: it tries a small buffer first, which ntfs-3g answers with EIO instead of ERANGE.
    """
    size = LIBC.lgetxattr(os.fsencode(path), os.fsencode(name), VALUE, len(VALUE))
    if size >= 0:
        return VALUE.raw[:size]
    if ctypes.get_errno() in (errno.ENODATA, errno.EOPNOTSUPP):
        return None
    if ctypes.get_errno() == errno.EMLINK and name == "system.ntfs_dos_name":  # ntfs-3g, of a file with several names
        return None
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path, None, name)


def hash_file(path):
    digest = hashlib.sha1()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Entry:
    """One name: `kind` ("file", "directory", "link", "other"), size, times, hash, attributes."""

    def __init__(self, path, attributes):
        info = os.lstat(path)
        self.mode = stat.S_IMODE(info.st_mode)
        self.kind = ("link" if stat.S_ISLNK(info.st_mode) else "directory" if stat.S_ISDIR(info.st_mode) else
                     "file" if stat.S_ISREG(info.st_mode) else "other")
        self.format = stat.S_IFMT(info.st_mode)
        self.owner = (info.st_uid, info.st_gid)
        self.device = info.st_rdev
        self.inode = info.st_ino
        self.links = info.st_nlink
        self.modified = info.st_mtime_ns
        self.size = info.st_size if self.kind == "file" else None
        self.hash = hash_file(path) if self.kind == "file" else None
        self.target = os.readlink(path) if self.kind == "link" else None
        self.ntfs = {}
        self.streams = {}
        if attributes:
            self.ntfs = {name: get_attribute(path, f"system.ntfs_{name}") for name in attributes}
            if self.kind != "link":
                self.streams = {os.fsencode(name): get_attribute(path, name) for name in os.listxattr(path)
                                if name.startswith("user.")}

    @property
    def attributes(self):
        value = self.ntfs.get("attrib")
        return None if value is None else int.from_bytes(value, "little")


def kind_in_ntfs_3g(entry):
    """A system file that is not hidden and has no content, or a byte of it, is a FIFO or a socket there."""
    hidden, system = 0x2, 0x4
    is_special = entry.kind == "file" and entry.attributes & (hidden | system) == system and entry.size <= 1
    return "other" if is_special else entry.kind


def list_tree(root, ntfs=True):
    """{path below root (bytes): Entry}; the root is b""."""
    root = os.fsencode(root)
    entries = {b"": Entry(root, ROOT_ATTRIBUTES if ntfs else ())}
    todo = [b""]
    while todo:
        folder = todo.pop()
        for name in sorted(os.listdir(os.path.join(root, folder))):
            path = os.path.join(folder, name)
            entries[path] = Entry(os.path.join(root, path), NTFS_ATTRIBUTES if ntfs else ())
            if entries[path].kind == "directory":
                todo.append(path)
    return entries


def link_groups(entries):
    """The sets of files that are one file under several names."""
    by_inode = {}
    for path, entry in entries.items():
        if entry.kind != "directory":
            by_inode.setdefault(entry.inode, set()).add(path)
    return sorted(sorted(paths) for paths in by_inode.values() if len(paths) > 1)
