#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-write mounts of disks that are refused, or by whose edits or commits: each with its reason."""

import errno
import os
import struct
import subprocess
import unittest

import disks
from disk_case import OWNER, SMALL_MIB, DiskCase, fill
from disks import BASIC, MIB
from dismd_client import Caller
from ntfs_volume import run
from readwrite_test import digest, read, read_anew, write


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


if __name__ == "__main__":
    unittest.main()
