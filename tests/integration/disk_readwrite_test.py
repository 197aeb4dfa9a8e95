#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks (VHD, VHDX) mounted read-write: edits, discards, commits.

What was committed is read by other programs: qemu-img says whether the container is sound and makes a raw disk of it,
ntfsfix looks at the volume, and ntfs-3g shows what is on it.

Environment: DISMD_EDIT_SEED, DISMD_EDIT_OPERATIONS (as edit_property_test.py).
"""

import errno
import os
import random
import shutil
import subprocess
import threading
import unittest

import content_test
import disks
import ntfs_volume
import raw_ntfs
from disk_case import SMALL_MIB, ChildCase, DiskCase
from disks import MIB
from edit_model import Edits
from ntfs_volume import run
from processes import wait_until
from readwrite_test import ReadWriteTestCase, digest, read, write
from tree_listing import link_groups, list_tree

SEED = os.environ.get("DISMD_EDIT_SEED", "20261129")
OPERATIONS = int(os.environ.get("DISMD_EDIT_OPERATIONS", "150"))


class FormatCase(DiskCase):
    """What each format must do."""

    def exercise(self):
        before = digest(self.disk)
        self.mount_rw()
        self.assertFalse(self.client.get_mount(self.root).get("has_changes"))
        self.edit()
        self.assert_edited(self.root)
        wait_until(lambda: self.client.get_mount(self.root).get("has_changes"), 10, "the edits to be counted")
        self.unmount("DISCARD")
        self.assertEqual(digest(self.disk), before)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])
        self.assert_nothing_left(self.root)

        self.mount_rw()
        self.commit()  # nothing was changed
        self.assertEqual(digest(self.disk), before)
        self.edit()
        self.commit()
        self.assertFalse(self.client.get_mount(self.root).get("has_changes"))
        self.assert_committed()
        self.assert_edited(self.root)
        between = digest(self.disk)
        self.commit()
        self.assertEqual(digest(self.disk), between)
        write(f"{self.root}/later.txt", b"later")
        shutil.rmtree(f"{self.root}/made-edited")
        self.unmount("COMMIT")
        self.assert_nothing_left(self.root)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])
        with self.committed() as root:
            self.assertEqual(read(f"{root}/later.txt"), b"later")
            self.assertEqual(sorted(os.listdir(root)), ["later.txt", "link", "one.txt", "three", "two.bin"])
            self.assertEqual(read(f"{root}/two.bin"), bytes(range(256)) * 400)
        self.client.mount(self.disk, self.root)
        self.assertEqual(read(f"{self.root}/later.txt"), b"later")
        self.client.unmount(self.root)


class AllocationTest(DiskCase):
    def test_room_is_taken_and_given_back(self):
        """As df and du tell it, and as ntfs-3g finds it."""
        self.mount_rw()
        taken, sparse = f"{self.root}/taken.bin", f"{self.root}/sparse.bin"
        free = self.free()
        with open(taken, "wb") as file:
            with self.assertRaises(OSError) as raised:
                os.posix_fallocate(file.fileno(), 0, 5 << 40)
            self.assertEqual(raised.exception.errno, errno.ENOSPC)
            os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        self.assertEqual(free - self.free(), 4 * MIB)
        self.assertEqual(os.stat(taken).st_blocks * 512, 4 * MIB)
        content = random.Random(1).randbytes(3 * MIB)
        write(sparse, content)
        with open(sparse, "r+b") as file:
            before = self.free()
            run("fallocate", "-p", "-o", str(MIB), "-l", str(MIB), sparse)
            self.assertEqual(self.free() - before, MIB)
            file.truncate(1000 * MIB)
            before = self.free()
            run("fallocate", "-p", "-o", "0", "-l", str(1000 * MIB), taken)
            run("fallocate", "-p", "-o", str(100 * MIB), "-l", str(800 * MIB), sparse)
            run("fallocate", "-z", "-o", str(100 * MIB), "-l", str(1000 * MIB), sparse)
            self.assertEqual(self.free() - before, 4 * MIB)
        run("fallocate", "-l", str(4 * MIB), taken)
        with open(taken, "r+b") as file:
            file.seek(2 * MIB)
            file.write(b"in the middle")
        self.kill_worker()
        self.assertEqual(os.stat(taken).st_blocks * 512, 4 * MIB)
        self.unmount("COMMIT")
        with self.committed() as root:
            self.assertEqual(read(f"{root}/taken.bin"), bytes(2 * MIB) + b"in the middle" + bytes(2 * MIB - 13))
            self.assertEqual(os.stat(f"{root}/taken.bin").st_blocks * 512, 4 * MIB)
            self.assertEqual(os.stat(f"{root}/sparse.bin").st_size, 1100 * MIB)
            self.assertEqual(os.stat(f"{root}/sparse.bin").st_blocks * 512, 2 * MIB)
            with open(f"{root}/sparse.bin", "rb") as file:
                self.assertEqual(file.read(4 * MIB), content[:MIB] + bytes(MIB) + content[2 * MIB:] + bytes(MIB))

    def free(self):
        told = os.statvfs(self.root)
        return told.f_bfree * told.f_frsize


class ExtendedAttributesTest(DiskCase):
    def test_as_they_lie_in_the_records(self):
        """What is set here is in the volume as NTFS has it, for a reader that knows no NTFS library; and reads the same."""
        given = {
            "one.txt": ((b"SMALL", b"value"), (b"EMPTY", b""), (b"ODD", b"12345")),
            "two.bin": ((b"LARGE", random.Random(1).randbytes(60_000)),),
            "four.txt": ((b"SECOND", b"replaces the first"),),
            "new.txt": ((b"A" * 254, b"of the longest name"),),
        }
        self.mount_rw()
        os.setxattr(f"{self.root}/three/four.txt", "system.ntfs_ea", ntfs_volume.extended_attributes((b"FIRST", b"1" * 300)))
        os.setxattr(f"{self.root}/old.txt", "system.ntfs_ea", ntfs_volume.extended_attributes((b"GONE", b"?")))
        write(f"{self.root}/new.txt", b"new")
        paths = {name: f"{self.root}/{'three/' if name == 'four.txt' else ''}{name}" for name in given}
        for name, pairs in given.items():
            os.setxattr(paths[name], "system.ntfs_ea", ntfs_volume.extended_attributes(*pairs))
        os.removexattr(f"{self.root}/old.txt", "system.ntfs_ea")
        self.unmount("COMMIT")
        disks.partition(self.raw(self.disk), self.offset, SMALL_MIB, self.path("volume"))
        files = raw_ntfs.Volume(self.path("volume")).files()
        self.assertFalse({(raw_ntfs.EA, ""), (raw_ntfs.EA_INFORMATION, "")} & set(files["old.txt"]))
        self.client.mount(self.disk, self.root)
        for name, pairs in given.items():
            with self.subTest(file=name):
                value = files[name][(raw_ntfs.EA, "")]
                self.assertEqual(raw_ntfs.eas(value), [(0, *pair) for pair in pairs])
                self.assertEqual(raw_ntfs.ea_information(files[name][(raw_ntfs.EA_INFORMATION, "")]),
                                 (sum(5 + len(key) + len(data) for key, data in pairs), 0, len(value)))
                self.assertEqual(os.getxattr(paths[name], "system.ntfs_ea"), value)
        self.client.unmount(self.root)


class VhdxTest(FormatCase):
    def test_edits(self):
        self.exercise()


class DynamicVhdTest(FormatCase):
    disk_name = "small.vhd"

    def test_edits(self):
        self.exercise()


class FixedVhdTest(FormatCase):
    disk_name = "disk-fixed.vhd"

    def test_edits(self):
        self.exercise()


class FixedVhdxTest(FormatCase):
    disk_name = "disk-fixed.vhdx"

    def test_edits(self):
        self.exercise()


class ChildTest(FormatCase, ChildCase):
    """A differencing disk: what is committed goes into it, and never into its parent."""

    def raw(self, disk):
        raw = super().raw(self.parent)
        disks.flatten_child(raw, disk)
        return raw

    def test_edits(self):
        before = digest(self.parent)
        self.exercise()
        self.assertEqual(digest(self.parent), before)


class OtherMountsTest(ChildCase):
    """Nobody's volume changes beneath a mount."""

    def setUp(self):
        super().setUp()
        self.reader = self.mount_point("reader")

    def test_of_the_same_disk(self):
        self.mount_rw()
        with self.fails("ALREADY_MOUNTED_READ_WRITE"):
            self.mount_rw(root=self.reader)
        self.client.mount(self.disk, self.reader)
        self.edit()
        before = digest(self.disk)
        for attempt in (self.commit, lambda: self.unmount("COMMIT")):
            with self.fails("IMAGE_IN_USE") as failure:
                attempt()
            self.assertIn(self.reader, failure.message)
        self.assertEqual(digest(self.disk), before)
        self.assertEqual(read(f"{self.reader}/one.txt"), b"one\n")
        self.client.unmount(self.reader)
        self.unmount("COMMIT")
        self.client.mount(self.disk, self.root)
        self.assert_edited(self.root)
        self.client.unmount(self.root)

    def test_of_a_child(self):
        self.mount_rw(self.parent)
        write(f"{self.root}/new.txt", b"new")
        self.mount_rw(self.disk, self.reader)
        write(f"{self.reader}/child.txt", b"child")
        self.hand_over()  # the next front knows, too
        before = digest(self.parent)
        with self.fails("IMAGE_IN_USE") as failure:
            self.commit()
        self.assertIn("stands on", failure.message)
        self.assertEqual(digest(self.parent), before)
        self.unmount("COMMIT", self.reader)
        self.assertEqual(digest(self.parent), before)
        self.commit()

    def test_while_a_commit_is_under_way(self):
        self.mount_rw(self.parent)
        self.edit()
        stop = os.path.join(self.seams, "overlay-commit-halfway.stop")
        write(stop, b"")
        committer = threading.Thread(target=self.commit)
        committer.start()
        wait_until(lambda: os.path.exists(stop.replace(".stop", ".reached")), 20, "the commit to begin")
        for image in (self.parent, self.disk):
            with self.fails("IMAGE_IN_USE"):
                self.client.mount(image, self.reader)
        with self.fails("OPERATION_IN_PROGRESS"):
            self.unmount("DISCARD")
        os.unlink(stop)
        committer.join(60)
        self.client.mount(self.parent, self.reader)
        self.assert_edited(self.reader)


class ClientTest(DiskCase):
    def client_run(self, program, *arguments):
        environment = {**os.environ, "DISMD_ADDRESS": self.service.address, "DISMD_DRIVES": f"*:={self.path('drives')}"}
        done = subprocess.run([os.path.join(os.environ["DISMD_BIN_DIR"], program), *arguments], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_dismctl(self):
        self.client_run("dismctl", "mount", self.disk, self.root)
        self.edit()
        self.client_run("dismctl", "info", self.disk)
        wait_until(lambda: "not committed" in self.client_run("dismctl", "list"), 20, "the edits to be listed")
        self.client_run("dismctl", "commit", self.root)
        self.assertNotIn("not committed", self.client_run("dismctl", "list"))
        write(f"{self.root}/later.txt", b"later")
        self.client_run("dismctl", "unmount", self.root, "--discard")
        self.assert_nothing_left(self.root)
        self.assert_committed()

    def test_dism_and_a_drive_letter(self):
        self.client_run("dism", "/Mount-Image", f"/ImageFile:{self.disk}", "/Index:1", "/MountDir:X:\\")
        drive = self.path("drives/X")
        self.edit(drive)
        self.assertIn(drive, self.client_run("dism", "/Get-MountedImageInfo"))
        self.client_run("dism", "/Commit-Image", "/MountDir:X:")
        self.client_run("dism", "/Unmount-Image", "/MountDir:X:", "/Commit")
        self.assert_nothing_left(drive)
        self.assert_committed()


class RandomEditsTest(DiskCase):
    """Against a model; and what was committed, against what the mount showed."""

    def exercise(self, disk, mib):
        seed = random.randrange(1 << 31) if SEED == "random" else int(SEED)
        print(f"DISMD_EDIT_SEED={seed}", flush=True)
        model = self.path("model")
        os.mkdir(model)
        self.mount_rw(disk)
        edits = Edits(self.root, model, seed)
        edits.run(OPERATIONS)
        edits.compare()
        self.commit()
        edits.run(OPERATIONS)
        self.kill_worker()
        edits.run(OPERATIONS)
        shown = edits.compare()
        self.unmount("COMMIT")
        self.client.mount(disk, self.root)
        edits.compare()
        self.client.unmount(self.root)
        with self.committed(disk, mib=mib) as root:
            theirs = list_tree(root)
        self.assertEqual(sorted(shown), sorted(theirs))
        # Files that were open when they were removed go from there at unmount.
        shown[b""].modified = theirs[b""].modified
        for path, reference in theirs.items():
            with self.subTest(path=path):
                content_test.WindowsContentTest.compare(self, shown[path], reference)
        self.assertEqual(link_groups(shown), link_groups(theirs))
        print(", ".join(f"{what} {count}" for what, count in sorted(edits.done.items())))

    def test_vhdx(self):
        """With all that ntfs_volume.py puts on a volume."""
        self.offset = 18 * MIB
        self.exercise(self.own_image("disk-dynamic.vhdx"), disks.VOLUME_MIB)

    def test_vhd(self):
        self.exercise(self.make_disk("random.vhd", mib=64), 64)


class FixtureTest(ReadWriteTestCase):
    """Disks that Windows made."""

    def test_child_vhdx(self):
        disk, parent = (self.own_image(f"dfvfs/ntfs-{name}.vhdx") for name in ("differential", "parent"))
        before = digest(parent), digest(disk)
        self.mount_rw(disk)
        names = sorted(os.listdir(self.root))
        self.assertFalse(self.client.get_mount(self.root).get("has_changes"))
        self.commit()  # nothing: that its journal is emptied to open it is no change of anybody's
        self.assertEqual((digest(parent), digest(disk)), before)
        write(f"{self.root}/new.txt", b"new" * 10_000)
        self.unmount("DISCARD")
        self.assertEqual((digest(parent), digest(disk)), before)
        self.mount_rw(disk)
        write(f"{self.root}/new.txt", b"new" * 10_000)
        self.unmount("COMMIT")
        self.assertEqual(digest(parent), before[0])
        self.client.mount(disk, self.root)
        self.assertEqual(sorted(os.listdir(self.root)), sorted([*names, "new.txt"]))
        self.assertEqual(read(f"{self.root}/new.txt"), b"new" * 10_000)
        self.client.unmount(self.root)


if __name__ == "__main__":
    unittest.main()
