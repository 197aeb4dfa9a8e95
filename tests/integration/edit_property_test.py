#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random edits of a read-write mount, against a model (edit_model.py) and against a copy of one file in memory.

Environment: DISMD_EDIT_SEED (default: fixed, so that a failure can be repeated; "random": another each time),
DISMD_EDIT_OPERATIONS (of each of three rounds, default 200), DISMD_EDIT_SECONDS (of random access to one file,
default 4).
"""

import mmap
import os
import random
import subprocess
import time
import unittest

import ntfs_volume
from dismd_service import ServiceTestCase
from edit_model import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, Edits, allocate
from ntfs_volume import run
from tree_listing import kind_in_ntfs_3g, link_groups, list_tree

SEED = os.environ.get("DISMD_EDIT_SEED", "20261122")
OPERATIONS = int(os.environ.get("DISMD_EDIT_OPERATIONS", "200"))
SECONDS = float(os.environ.get("DISMD_EDIT_SECONDS", "4"))

# What a volume filled by wimapply may do otherwise: sparse, compressed, normal, directory.
STORAGE_ATTRIBUTES = 0x200 | 0x800 | 0x80 | 0x10


def seed():
    number = random.randrange(1 << 31) if SEED == "random" else int(SEED)
    print(f"DISMD_EDIT_SEED={number}", flush=True)
    return number


class EditCase(ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.root = self.mount_point()

    def mount_writable(self, name, index=1):
        path = self.own_image(name)
        self.client.mount(path, self.root, index=index, read_only=False)
        return path

    def remount_read_only(self, path, index=1):
        self.client.mount(path, self.root, index=index)


class TreeTest(EditCase):
    """Sequences of operations on the whole tree."""

    def test_edits_commits_and_applies(self):
        self.edit("ntfs-lzx.wim")

    def test_edits_of_uncompressed_data(self):
        self.edit("ntfs-none.wim")

    def edit(self, name):
        path = self.mount_writable(name)
        model = os.path.join(self.directory, "model")
        os.mkdir(model)
        edits = Edits(self.root, model, seed())
        edits.compare()
        edits.run(OPERATIONS)
        edits.compare()
        self.client.commit(self.root)
        edits.compare()
        edits.run(OPERATIONS)
        self.client.commit(self.root, append=True)
        edits.run(OPERATIONS)
        shown = edits.compare()
        self.client.unmount(self.root, "CHANGES_COMMIT", generate_integrity=True)
        self.assertEqual(os.listdir(self.root), [])

        subprocess.run(["wimverify", path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run("7zz", "t", path)
        self.compare_with_volume(path, 2, shown)
        self.remount_read_only(path, 2)
        edits.compare()
        self.client.unmount(self.root)
        print(", ".join(f"{what} {count}" for what, count in sorted(edits.done.items())))

    def test_what_is_not_edited_stays(self):
        """One file is written; every other entry, of both images, is what it was before, as wimlib applies it."""
        path = self.mount_writable("ntfs-lzx.wim")
        before = self.applied(path, 1)
        with open(os.path.join(self.root, "plain.txt"), "ab") as file:
            file.write(b"more")
        self.client.commit(self.root, append=True)
        self.client.unmount(self.root, "CHANGES_DISCARD")
        self.assert_same(before, self.applied(path, 1))
        after = self.applied(path, 2)
        edited = {name for name in before if before[name].inode == before[b"plain.txt"].inode}
        self.assertEqual(len(edited), 3, "it has three names")
        self.assert_same({k: v for k, v in before.items() if k not in edited},
                         {k: v for k, v in after.items() if k not in edited})
        for name in edited:
            self.assertEqual(after[name].size, before[name].size + 4)
            self.assertEqual(after[name].ntfs, before[name].ntfs)

    def applied(self, path, index):
        volume = os.path.join(self.directory, "applied.ntfs")
        ntfs_volume.create(volume, 1 << 30)
        run("wimapply", path, str(index), volume, "--norpfix")
        with ntfs_volume.mounted(volume, "ro", "streams_interface=xattr") as mounted:
            entries = list_tree(mounted)
        # ntfs-3g shows absolute targets below the directory where the volume happens to be mounted.
        where = os.fsencode(mounted)
        for entry in entries.values():
            if entry.target and entry.target.startswith(where):
                entry.target = entry.target[len(where):]
        return entries

    def assert_same(self, ours, theirs):
        self.assertEqual(sorted(ours), sorted(theirs))
        for name, entry in ours.items():
            with self.subTest(path=name):
                for key in ("kind", "size", "hash", "target", "modified", "ntfs", "streams"):
                    self.assertEqual(getattr(entry, key), getattr(theirs[name], key), key)
        self.assertEqual(link_groups(ours), link_groups(theirs))

    def compare_with_volume(self, path, index, shown):
        """What the mount showed before it was committed is what wimlib makes of the file."""
        applied = self.applied(path, index)
        self.assertEqual(sorted(shown), sorted(applied))
        for name, reference in applied.items():
            with self.subTest(path=name):
                self.compare_entry(shown[name], reference)
        self.assertEqual(link_groups(shown), link_groups(applied))

    def compare_entry(self, entry, reference):
        if not reference.ntfs["reparse_data"]:
            self.assertEqual(kind_in_ntfs_3g(entry), reference.kind)
        if entry.kind == reference.kind == "file":
            self.assertEqual((entry.size, entry.hash), (reference.size, reference.hash))
        self.assertEqual(entry.modified, reference.modified)
        self.assertEqual(entry.attributes & ~STORAGE_ATTRIBUTES, reference.attributes & ~STORAGE_ATTRIBUTES)
        # Not the EAs, which wimapply does not write through ntfs-3g (wimlib 1.13): Edits.compare looks at them when the
        # committed image is mounted again.
        for key in ("dos_name", "crtime", "reparse_data", "object_id"):
            ours, theirs = entry.ntfs.get(key), reference.ntfs.get(key)
            if key == "dos_name" and theirs is None and reference.links > 1:
                continue  # ntfs-3g tells it by one of the names alone, or not at all
            if key == "dos_name" and ours and theirs:
                ours = ours.upper()  # as wimlib writes them, whatever stands in the image
            elif key == "object_id" and ours:
                ours = ours.ljust(64, b"\0")  # as a volume stores it
            self.assertEqual(ours, theirs, key)
        if entry.ntfs["acl"] is not None:
            self.assertEqual(entry.ntfs["acl"].rstrip(b"\0"), reference.ntfs["acl"].rstrip(b"\0"), "acl")
        if reference.kind != "link" and kind_in_ntfs_3g(entry) == entry.kind:  # the kernel gives a FIFO no streams
            self.assertEqual(entry.streams, reference.streams)


class OneFile:
    """Random access to one file, and a copy of it in memory, in the manner of fsx."""

    MAX_BYTES = 8 << 20

    def __init__(self, path, number):
        self.path, self.random = path, random.Random(number)
        with open(path, "rb") as file:
            self.copy = bytearray(file.read())
        self.descriptor = os.open(path, os.O_RDWR)
        self.steps, self.last = 0, []

    def close(self):
        os.close(self.descriptor)

    def _range(self, limit):
        size = self.random.choice((self.random.randrange(1, 64), self.random.randrange(1, 300_000)))
        # Often at the borders of pages and chunks.
        at = self.random.randrange(limit + 1)
        if self.random.random() < 0.4:
            at = max(0, (at & ~0x7FFF) + self.random.randrange(-3, 4))
        return min(at, limit), size

    def read(self):
        at, size = self._range(len(self.copy))
        return f"read {at} {size}", os.pread(self.descriptor, size, at), bytes(self.copy[at:at + size])

    def write(self):
        at, size = self._range(min(len(self.copy) + 100_000, self.MAX_BYTES))
        data = self.random.randbytes(size)
        if at > len(self.copy):
            self.copy.extend(bytes(at - len(self.copy)))
        self.copy[at:at + size] = data
        return f"write {at} {size}", os.pwrite(self.descriptor, data, at), size

    def truncate(self):
        size = self.random.randrange(self.MAX_BYTES)
        os.ftruncate(self.descriptor, size)
        del self.copy[size:]
        self.copy.extend(bytes(size - len(self.copy)))
        return f"truncate {size}", os.fstat(self.descriptor).st_size, size

    def punch(self):
        at, size = self._range(len(self.copy))
        mode = self.random.choice((FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE)) | FALLOC_KEEP_SIZE
        allocate(self.path, mode, at, size)
        end = min(at + size, len(self.copy))
        self.copy[at:end] = bytes(end - at)
        return f"punch {mode} {at} {size}", None, None

    def map_read(self):
        if not self.copy:
            return "map_read", None, None
        at, size = self._range(len(self.copy))
        with mmap.mmap(self.descriptor, len(self.copy), prot=mmap.PROT_READ) as view:
            return f"map_read {at} {size}", view[at:at + size], bytes(self.copy[at:at + size])

    def map_write(self):
        if not self.copy:
            return "map_write", None, None
        at, size = self._range(len(self.copy))
        size = min(size, len(self.copy) - at)
        data = self.random.randbytes(size)
        with mmap.mmap(self.descriptor, len(self.copy)) as view:
            view[at:at + size] = data
        self.copy[at:at + size] = data
        return f"map_write {at} {size}", None, None

    def forget(self):
        """What was cached must be read again from where it was stored."""
        os.fsync(self.descriptor)
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return "forget", None, None

    def reopen(self):
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_RDWR)
        return "reopen", os.fstat(self.descriptor).st_size, len(self.copy)

    def step(self):
        action = self.random.choices((self.read, self.write, self.truncate, self.punch, self.map_read, self.map_write,
                                      self.forget, self.reopen), (8, 8, 1, 2, 4, 4, 1, 1))[0]
        what, got, expected = action()
        self.steps += 1
        self.last = self.last[-30:] + [what]
        if got != expected:
            raise AssertionError(f"step {self.steps} differs; the last ones: {'; '.join(self.last)}")

    def check(self):
        if os.pread(self.descriptor, self.MAX_BYTES * 2, 0) != self.copy:
            raise AssertionError(f"differs after {self.steps} steps; the last ones: {'; '.join(self.last)}")


class OneFileTest(EditCase):
    def exercise(self, name):
        path = self.mount_writable("ntfs-lzx.wim")
        full = os.path.join(self.root, name)
        if not os.path.exists(full):
            with open(full, "xb"):
                pass
        one = OneFile(full, seed())
        self.addCleanup(lambda: one.descriptor is None or one.close())
        for round_number in range(3):
            end = time.monotonic() + SECONDS / 3
            while time.monotonic() < end:
                one.step()
            one.check()
            if round_number < 2:
                self.client.commit(self.root)
                one.check()
        one.close()
        one.descriptor = None
        self.client.unmount(self.root, "CHANGES_COMMIT")
        stored = subprocess.run(["wimextract", path, "1", "/" + name, "--to-stdout"], check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        self.assertTrue(stored == one.copy, f"what was committed differs after {one.steps} steps")
        print(f"{one.steps} steps")

    def test_file_of_the_image(self):
        self.exercise("Windows/System32/size-5242893.bin")

    def test_new_file(self):
        self.exercise("new.bin")


if __name__ == "__main__":
    unittest.main()
