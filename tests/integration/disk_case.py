# SPDX-License-Identifier: GPL-3.0-or-later
"""A small disk (VHD, VHDX) for tests that change it."""

import contextlib
import os
import signal
import struct

import disks
import ntfs_volume
import processes
import readwrite_test
from disks import BASIC
from dismd_client import Client
from ntfs_volume import run
from processes import wait_until
from readwrite_test import SeamTestCase, write
from tree_listing import get_attribute

OWNER = 4242
SMALL_MIB = 24
READ_ONLY_HIDDEN = struct.pack("<I", 0x3)


def fill(root):
    write(f"{root}/one.txt", b"one\n")
    write(f"{root}/two.bin", bytes(range(256)) * 400)
    os.mkdir(f"{root}/three")
    write(f"{root}/three/four.txt", b"four\n")
    write(f"{root}/old.txt", b"old\n")


class DiskCase(SeamTestCase):
    """A small disk of the test's own, in the format that `disk_name` stands for."""

    disk_name = "small.vhdx"

    def setUp(self):
        super().setUp()
        self.disk = self.make_disk(self.disk_name)

    def path(self, name):
        return os.path.join(self.directory, name)

    def make_disk(self, name, mib=SMALL_MIB, filled=fill):
        volume, raw, disk = self.path("volume"), self.path("raw"), self.path(name)
        disks.make_volume(volume, mib, filled)
        self.offset, = disks.make_disk(raw, ((BASIC, mib, volume),))
        disks.convert(raw, disk)
        os.unlink(raw)
        os.unlink(volume)
        return disk

    def mount_rw(self, image=None, root=None, client=None, **fields):
        return super().mount_rw(image or self.disk, root, client=client, **fields)

    def edit(self, root=None, word="edited"):
        root = root or self.root
        super().edit(root, word)
        os.unlink(f"{root}/old.txt")
        os.setxattr(f"{root}/one.txt", "system.ntfs_attrib", READ_ONLY_HIDDEN)
        os.setxattr(f"{root}/three", "user.note", word.encode())
        os.symlink("one.txt", f"{root}/link")

    def assert_edited(self, root, word="edited"):
        super().assert_edited(root, word)
        self.assertFalse(os.path.exists(f"{root}/old.txt"))
        self.assertEqual(get_attribute(f"{root}/one.txt", "system.ntfs_attrib")[:1], READ_ONLY_HIDDEN[:1])
        self.assertEqual(get_attribute(f"{root}/three", "user.note"), word.encode())
        self.assertEqual(os.readlink(f"{root}/link"), "one.txt")

    def assert_sound(self, disk=None):
        disk = disk or self.disk
        if disk.endswith(".vhdx"):  # of a VHD, qemu-img has nothing to check
            run("qemu-img", "check", "-f", "vhdx", disk)

    def raw(self, disk):
        raw = self.path("committed.raw")
        run("qemu-img", "convert", "-f", "vhdx" if disk.endswith(".vhdx") else "vpc", "-O", "raw", disk, raw)
        return raw

    @contextlib.contextmanager
    def committed(self, disk=None, offset=None, mib=SMALL_MIB):
        """What ntfs-3g shows of the disk, after the others have looked at it."""
        disk = disk or self.disk
        self.assert_sound(disk)
        raw, volume = self.raw(disk), self.path("committed.ntfs")
        disks.partition(raw, self.offset if offset is None else offset, mib, volume)
        os.unlink(raw)
        run("/bin/ntfsfix", "-n", volume)
        with ntfs_volume.mounted(volume, "ro", "streams_interface=xattr") as root:
            yield root
        os.unlink(volume)

    def assert_committed(self, word="edited"):
        with self.committed() as root:
            self.assert_edited(root, word)

    def pending(self):
        return self.client.get_mount(self.root).get("commit_pending", False)

    def new_client(self):
        self.client.close()
        self.client = Client(self.service.address)

    serves = readwrite_test.CrashTest.serves

    def kill_worker(self):
        """Returns when another one has taken its place, and the front knows."""
        worker = self.client.get_mount(self.root)["worker_pid"]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: self.client.get_mount(self.root).get("worker_pid", 0) not in (0, worker), 30, "a replacement")

    def hand_over(self):
        front = self.service.front()
        self.service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not processes.alive(front), 20, "the front to end")
        wait_until(self.serves, 20, "the next to serve")
        self.new_client()


class ChildCase(DiskCase):
    def setUp(self):
        super().setUp()
        self.parent = self.make_disk("parent.vhd")
        self.disk = self.path("child.vhd")
        disks.make_child(self.parent, self.disk)
