#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks (VHD, VHDX) mounted read-write: edits, discards, commits; crashes at each step of one; what is refused.

What was committed is read by other programs: qemu-img says whether the container is sound and makes a raw disk of it,
ntfsfix looks at the volume, and ntfs-3g shows what is on it.

Environment: DISMD_EDIT_SEED, DISMD_EDIT_OPERATIONS (as edit_property_test.py), DISMD_KILL_SECONDS (as recovery_test.py).
"""

import contextlib
import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import unittest

import content_test
import disks
import ntfs_volume
import processes
import raw_ntfs
import readwrite_test
from disks import BASIC, MIB
from dismd_client import Caller, Client, RpcFailure
from edit_model import Edits
from ntfs_volume import run
from processes import wait_until
from readwrite_test import ReadWriteTestCase, SeamTestCase, digest, read, read_anew, write
from recovery_test import KillTestCase
from tree_listing import get_attribute, link_groups, list_tree

OWNER = 4242
SMALL_MIB = 24
SEED = os.environ.get("DISMD_EDIT_SEED", "20261129")
OPERATIONS = int(os.environ.get("DISMD_EDIT_OPERATIONS", "150"))
KILL_SECONDS = float(os.environ.get("DISMD_KILL_SECONDS", "8"))
# Without those whose subject is UNIX data, which NTFS does not keep.
LOADS = ["Names", "OtherCase", "Blocks", "Append", "Unlinked", "Read", "Map", "Allocate"]
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


class ChildCase(DiskCase):
    def setUp(self):
        super().setUp()
        self.parent = self.make_disk("parent.vhd")
        self.disk = self.path("child.vhd")
        disks.make_child(self.parent, self.disk)


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


class RefusalTest(DiskCase):
    def test_options_of_a_wim(self):
        self.mount_rw()
        self.edit()
        for options in ({"append": True}, {"generate_integrity": True}, {"rebuild": True}, {"recompress": "COMPRESSION_LZX"}):
            for attempt in (self.commit, lambda **options: self.unmount("COMMIT", **options)):
                with self.subTest(options=options), self.fails("INVALID_FLAGS"):
                    attempt(**options)
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.unmount("DISCARD")
        with self.fails("INVALID_FLAGS"):
            self.mount_rw(check_integrity=True)

    def test_a_file_that_may_not_be_written(self):
        root = self.mount_point("theirs", uid=OWNER)
        with Caller(self.service.address, OWNER) as caller:
            with self.fails("IMAGE_READ_ONLY"):
                self.mount_rw(root=root, client=caller)
            os.chown(self.disk, OWNER, OWNER)
            self.mount_rw(root=root, client=caller)
            self.assertEqual(caller.run("sh", "-c", f"echo theirs > {root}/new.txt").returncode, 0)
            self.unmount("COMMIT", root, client=caller)
        with self.committed() as committed:
            self.assertEqual(read(f"{committed}/new.txt"), b"theirs\n")

    def refuses_to_write(self, disk):
        before = digest(disk)
        with self.fails("VOLUME_HIBERNATED") as failure:
            self.mount_rw(disk)
        self.assertIn(os.path.basename(disk), failure.message)
        self.assert_nothing_left(self.root)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])
        self.client.mount(disk, self.root)
        self.assertEqual(read(f"{self.root}/one.txt"), b"one\n")
        self.client.unmount(self.root)
        self.assertEqual(digest(disk), before)

    def test_hibernated(self):
        def hibernate(root):
            fill(root)
            write(f"{root}/hiberfil.sys", b"hibr".ljust(8192, b"\0"))

        self.refuses_to_write(self.make_disk("hibernated.vhdx", filled=hibernate))

    def test_not_unmounted(self):
        """Its journal holds a restart area of a client that was at work."""
        volume, raw, disk = self.path("volume"), self.path("raw"), self.path("dirty.vhdx")
        disks.make_volume(volume, SMALL_MIB, fill)
        with open(volume, "r+b") as file:
            boot = file.read(512)
            cluster = struct.unpack_from("<H", boot, 11)[0] * boot[13]
            mft, = struct.unpack_from("<Q", boot, 48)
            file.seek(mft * cluster + 2 * 1024)  # $LogFile's record
            record = file.read(1024)
            at, = struct.unpack_from("<H", record, 20)
            while struct.unpack_from("<I", record, at)[0] != 0x80:
                at += struct.unpack_from("<I", record, at + 4)[0]
            runs = at + struct.unpack_from("<H", record, at + 32)[0]
            length_bytes, offset_bytes = record[runs] & 15, record[runs] >> 4
            start = int.from_bytes(record[runs + 1 + length_bytes:runs + 1 + length_bytes + offset_bytes], "little")
            file.seek(start * cluster)
            for _ in range(2):
                file.write(self.restart_page())
        disks.make_disk(raw, ((BASIC, SMALL_MIB, volume),))
        disks.convert(raw, disk)
        self.refuses_to_write(disk)

    @staticmethod
    def restart_page():
        """Of version 1.1, of one client, whose log is in use and was not closed."""
        page = bytearray(4096)
        struct.pack_into("<4sHHQIIHhHH", page, 0, b"RSTR", 0x1E, 9, 0, 4096, 4096, 0x30, 1, 1, 1)
        file_size = 2 << 20
        #                        current_lsn clients free in_use flags seq_bits ra_length clients_at size last_length
        struct.pack_into("<QHHHHIHHQIHHI", page, 0x30, 0x100000, 1, 0xFFFF, 0, 0, 67 - file_size.bit_length(),
                         0x30 + 160, 0x30, file_size, 0, 0x30, 0x40, 0)
        struct.pack_into("<QQHHHHHHI", page, 0x60, 0x100000, 0x100000, 0xFFFF, 0xFFFF, 0, 0, 0, 0, 8)
        page[0x60 + 32:0x60 + 40] = "NTFS".encode("utf-16-le")
        # The update sequence: the last two bytes of each sector lie in the array.
        struct.pack_into("<H", page, 0x1E, 1)
        for sector in range(8):
            end = sector * 512 + 510
            page[0x20 + 2 * sector:0x22 + 2 * sector] = page[end:end + 2]
            struct.pack_into("<H", page, end, 1)
        return bytes(page)

    def test_changed_by_another_program(self):
        self.mount_rw()
        self.edit()
        with open(self.disk, "r+b") as file:
            file.seek(0)
            file.write(b"vhdxfile")  # as it was: but for the times
        changed = digest(self.disk)
        with self.fails("IMAGE_CHANGED"):
            self.commit()
        self.assertEqual(digest(self.disk), changed)
        self.unmount("DISCARD")

    def test_a_volume_that_reaches_over_the_copy_of_the_table(self):
        """It is filled to the brim, and GPT's copy at the end of the disk is as it was."""
        volume, raw, disk = self.path("volume"), self.path("raw"), self.path("over.vhdx")
        disks.make_volume(volume, 8, fill)
        disks.make_disk(raw, ((BASIC, 7, None),), size_mib=9)
        with open(raw, "rb") as file:
            file.seek(-33 * 512, os.SEEK_END)
            table = file.read()
        disks.copy_into(raw, MIB, volume)
        with open(raw, "r+b") as file:
            file.seek(-33 * 512, os.SEEK_END)
            file.write(table)
        disks.convert(raw, disk)
        self.mount_rw(disk)
        with self.assertRaises(OSError) as full:
            for number in range(10_000):
                write(f"{self.root}/file-{number}", number.to_bytes(4, "big") * 8192)
        self.assertEqual(full.exception.errno, errno.ENOSPC)
        os.unlink(f"{self.root}/file-0")  # and it goes on
        write(f"{self.root}/file-0", b"again")
        self.unmount("COMMIT")
        with open(committed := self.raw(disk), "rb") as file:
            file.seek(-33 * 512, os.SEEK_END)
            self.assertEqual(file.read(), table)
        run("sfdisk", "--verify", committed)
        self.client.mount(disk, self.root)
        self.assertGreater(number, 50)
        self.assertEqual(read(f"{self.root}/file-0"), b"again")
        for done in range(1, number):
            self.assertEqual(read(f"{self.root}/file-{done}"), done.to_bytes(4, "big") * 8192)
        self.client.unmount(self.root)

    def test_attributes_and_names_of_the_disk(self):
        """chmod, chown, link and rename change the ctime alone, and nothing that the mount stands on."""
        self.mount_rw()
        self.edit()
        os.chmod(self.disk, 0o660)
        os.chown(self.disk, os.getuid(), 4242)
        self.assertEqual(len(read_anew(f"{self.root}/two.bin")), 102_400)
        os.link(self.disk, self.disk + ".link")
        os.rename(self.disk + ".link", self.disk + ".moved")
        os.unlink(self.disk + ".moved")
        self.commit()
        os.chmod(self.disk, 0o600)
        self.assertEqual(len(read_anew(f"{self.root}/two.bin")), 102_400)
        write(f"{self.root}/again.txt", b"again")
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.unmount("COMMIT")
        self.assert_committed()

    def test_changed_by_another_program_that_puts_the_time_back(self):
        self.mount_rw()
        self.edit()
        before = os.stat(self.disk)
        with open(self.disk, "r+b") as file:
            file.seek(8)
            file.write(b"a creator")
        os.utime(self.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = digest(self.disk)
        with self.fails("IMAGE_CHANGED"):
            self.commit()
        self.assertEqual(digest(self.disk), changed)
        self.unmount("DISCARD")

    def test_locked_by_another_program(self):
        self.mount_rw()
        self.edit()
        holder = subprocess.Popen(["flock", self.disk, "-c", "echo held; read line"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.wait)
        self.assertEqual(holder.stdout.readline(), "held\n")
        before = digest(self.disk)
        with self.fails("IMAGE_IN_USE"):
            self.commit()
        self.assertEqual(digest(self.disk), before)
        holder.communicate("\n")
        self.unmount("COMMIT")
        self.assert_committed()


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


class RecoveryTest(DiskCase):
    """Edits outlive the service's processes."""

    def test_front_and_broker(self):
        self.mount_rw()
        self.edit()
        self.hand_over()
        worker = self.client.get_mount(self.root)["worker_pid"]
        self.service.process.kill()
        self.assert_edited(self.root)
        self.restart()
        self.assertEqual(self.client.get_mount(self.root)["worker_pid"], worker)
        self.kill_worker()
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_committed()

    def kill_all(self):
        for pid in (self.service.pid, *processes.descendants(self.service.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", self.root], check=True)
        self.restart()

    def test_all_killed_and_remounted(self):
        self.mount_rw()
        self.edit()
        with open(f"{self.root}/removed", "wb") as file:
            os.unlink(f"{self.root}/removed")
            file.write(b"nobody can reach it")
            file.flush()
            self.kill_all()
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        with self.fails("NEEDS_REMOUNT"):
            self.commit()
        with self.fails("NEEDS_REMOUNT"):
            self.unmount("COMMIT")
        self.assertFalse(self.pending())  # or the edits could not be discarded
        self.remount()
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_committed()

    def test_sigterm_keeps_edits(self):
        before = digest(self.disk)
        self.mount_rw()
        self.edit()
        self.assertEqual(self.service.stop(), [])
        self.service.start()
        self.new_client()
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        kept = self.disk + ".kept"
        shutil.copy2(self.disk, kept)
        write(self.disk, read(self.disk))
        with self.fails("IMAGE_CHANGED"):
            self.remount()
        shutil.copy2(kept, self.disk)
        self.remount()
        self.assert_edited(self.root)
        self.unmount("DISCARD")
        self.assertEqual(digest(self.disk), before)

    def test_open_when_it_was_removed(self):
        """A file without a name lives until it is closed, and is not in what is committed then."""
        self.mount_rw()
        with open(f"{self.root}/removed", "w+b", buffering=0) as file:
            file.write(b"before")
            os.unlink(f"{self.root}/removed")
            self.kill_worker()
            self.assertEqual(os.pread(file.fileno(), 10, 0), b"before")
            file.write(b" after")
            self.assertEqual(os.pread(file.fileno(), 20, 0), b"before after")
        self.unmount("COMMIT")
        with self.committed() as root:
            self.assertEqual(sorted(os.listdir(root)), ["old.txt", "one.txt", "three", "two.bin"])


class KilledWorkerTest(KillTestCase, DiskCase):
    def test_every_operation(self):
        self.disk = self.make_disk("large.vhdx", mib=128)
        self.mount_rw()
        self.begin(LOADS, self.root)
        pause = random.Random(9)
        kills = self.kill_for(KILL_SECONDS, self.root, lambda: pause.choice((0, 0.01, 0.1, 0.5)))
        if not self.failures():
            self.assert_all_go_on()
        self.end()
        self.assertGreater(kills, 0)
        print(f"{kills} kills")
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        ours = {path: entry.hash for path, entry in list_tree(self.root, ntfs=False).items()}
        self.unmount("COMMIT")
        self.assert_nothing_left(self.root)
        with self.committed(mib=128) as root:
            self.assertEqual({path: entry.hash for path, entry in list_tree(root, ntfs=False).items()}, ours)


class CommitStepsTest(DiskCase):
    """kill -9 at each step of a commit, and what else may end one."""

    crash_at = readwrite_test.CommitCrashTest.crash_at

    def test_before_the_point_of_no_return(self):
        self.mount_rw()
        self.edit()
        before = digest(self.disk)
        for run_it in (self.commit, lambda: self.unmount("COMMIT")):
            failure = self.crash_at("worker-commit-begun", run_it)
            self.assertEqual(failure.reason, "WORKER_DIED")
            self.assertEqual(digest(self.disk), before)
            self.assertEqual(self.status(), "MOUNT_STATUS_OK")
            self.assertFalse(self.pending())
            self.assert_edited(self.root)
        self.unmount("DISCARD")
        self.assertEqual(digest(self.disk), before)

    STEPS = ("overlay-commit-begun", "overlay-commit-halfway", "overlay-commit-unfinished", "overlay-commit-written",
             "worker-commit-finished")

    def exercise(self, run_it):
        """Whoever replaces the worker finishes the commit, and the call succeeds."""
        for number, seam in enumerate(self.STEPS):
            with self.subTest(seam):
                if not self.client.mounts():
                    self.mount_rw()
                word = f"word-{number}"
                write(f"{self.root}/{word}", word.encode() * 300_000)
                self.assertIsNone(self.crash_at(seam, run_it))
                with self.committed() as root:
                    for known in range(number + 1):
                        self.assertEqual(read(f"{root}/word-{known}"), f"word-{known}".encode() * 300_000)

    def test_while_mounted(self):
        self.mount_rw()
        self.exercise(self.commit)
        self.assertFalse(self.pending())
        self.assertFalse(self.client.get_mount(self.root).get("has_changes"))

    def test_at_unmount(self):
        self.exercise(lambda: self.unmount("COMMIT"))
        self.assertEqual(self.client.mounts(), [])

    def test_while_mounted_vhd(self):
        self.disk = self.make_disk("small.vhd")
        self.mount_rw()
        self.exercise(self.commit)

    def test_all_killed(self):
        """The container is sound; the next start finishes what is in it."""
        self.mount_rw()
        self.edit()
        stop = os.path.join(self.seams, "overlay-commit-halfway.stop")
        write(stop, b"")
        committer = threading.Thread(target=lambda: self.assertRaises(RpcFailure, self.commit))
        committer.start()
        wait_until(lambda: os.path.exists(stop.replace(".stop", ".reached")), 20, "the commit to begin")
        RecoveryTest.kill_all(self)
        committer.join(60)
        os.unlink(stop)
        self.assert_sound()
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        self.assertTrue(self.pending())
        reader = self.mount_point("reader")
        with self.fails("IMAGE_IN_USE"):
            self.client.mount(self.disk, reader)
        with self.fails("OPERATION_IN_PROGRESS"):
            self.unmount("DISCARD")
        self.remount()
        self.assertFalse(self.pending())
        self.assert_edited(self.root)
        self.unmount("DISCARD")
        self.assert_committed()

    def test_cancelled(self):
        self.mount_rw()
        self.edit()
        before = digest(self.disk)
        stop = os.path.join(self.seams, "worker-commit-begun.stop")
        write(stop, b"")
        pending = self.client.start("CommitImage", {"mount_path": self.root})
        operation = next(iter(pending)).operation.operation_id
        wait_until(lambda: os.path.exists(stop.replace(".stop", ".reached")), 20, "the commit to begin")
        self.client.call("CancelOperation", {"operation_id": operation})
        wait_until(lambda: "CANCELLED" in str(self.client.call("GetOperation", {"operation_id": operation})), 20,
                   "the commit to end")
        os.unlink(stop)
        self.assertEqual(digest(self.disk), before)
        self.assertFalse(self.pending())
        self.unmount("COMMIT")
        self.assert_committed()

    def test_while_readers_and_writers_run(self):
        self.mount_rw()
        end, errors, written = threading.Event(), [], [0]

        def work():
            try:
                with open(f"{self.root}/log", "wb", buffering=0) as file:
                    while not end.is_set():
                        file.write(b"%8d" % written[0])
                        written[0] += 1
                        self.assertEqual(read(f"{self.root}/three/four.txt"), b"four\n")
            except Exception as error:  # told by the test
                errors.append(repr(error))

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(5):
            write(f"{self.root}/{number}", b"%d" % number * 100_000)
            self.commit()
        before = written[0]
        wait_until(lambda: errors or written[0] > before, 20, "the writer to go on")
        end.set()
        thread.join(60)
        self.assertEqual(errors, [])
        self.unmount("COMMIT")
        with self.committed() as root:
            self.assertEqual(read(f"{root}/log"), b"".join(b"%8d" % i for i in range(written[0])))
            for number in range(5):
                self.assertEqual(read(f"{root}/{number}"), b"%d" % number * 100_000)


class FullDiskTest(DiskCase):
    """Nothing is lost where there is no space, and all goes on when there is."""

    @contextlib.contextmanager
    def small_file_system(self, mib):
        path = tempfile.mkdtemp(prefix="small-")
        run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", path)
        try:
            os.chmod(path, 0o755)
            yield path
        finally:
            run("umount", path)
            os.rmdir(path)

    def test_for_edits(self):
        with self.small_file_system(16) as state:
            self.assertEqual(self.service.stop(), [])
            self.service.state = state
            self.service.start()
            self.new_client()
            self.mount_rw()
            self.edit()
            filler = f"{state}/filler"
            write(filler, bytes(11 << 20))
            with self.assertRaises(OSError):
                write(f"{self.root}/large", os.urandom(8 << 20))
            self.assert_edited(self.root)
            os.unlink(filler)
            write(f"{self.root}/large", b"x" * (4 << 20))
            self.unmount("COMMIT")
            self.assertEqual(self.service.stop(), [])
        with self.committed() as root:
            self.assert_edited(root)
            self.assertEqual(read(f"{root}/large"), b"x" * (4 << 20))

    def test_for_a_commit(self):
        with self.small_file_system(128) as place:
            disk = self.disk = shutil.move(self.make_disk("moved.vhdx", mib=128), f"{place}/moved.vhdx")
            self.mount_rw(disk)
            self.edit()
            write(f"{self.root}/large", os.urandom(30 << 20))
            wanted = digest(f"{self.root}/large")
            before = digest(disk)
            filler = f"{place}/filler"
            self.leave_free(filler, 20)
            with self.fails("DISK_FULL"):
                self.commit()
            self.assertEqual(digest(disk), before)
            self.assertFalse(self.pending())
            os.unlink(filler)
            # And where the space goes after the commit has begun.
            stop = os.path.join(self.seams, "overlay-commit-begun.stop")
            write(stop, b"")
            failures = []

            def commit():
                try:
                    self.commit()
                except RpcFailure as failure:
                    failures.append(failure)

            committer = threading.Thread(target=commit)
            committer.start()
            wait_until(lambda: os.path.exists(stop.replace(".stop", ".reached")), 20, "the commit to begin")
            self.leave_free(filler, 5)
            os.unlink(stop)
            committer.join(60)
            self.assertEqual([failure.reason for failure in failures], ["DISK_FULL"])
            self.assert_sound(disk)
            self.assertTrue(self.pending())
            self.assert_edited(self.root)
            with self.fails("OPERATION_IN_PROGRESS"):
                self.unmount("DISCARD")
            os.unlink(filler)
            self.unmount("COMMIT")
            with self.committed(disk, mib=128) as root:
                self.assert_edited(root)
                self.assertEqual(digest(f"{root}/large"), wanted)
            self.assertEqual(self.service.stop(), [])

    @staticmethod
    def leave_free(filler, mib):
        free = os.statvfs(os.path.dirname(filler))
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (mib << 20))


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
