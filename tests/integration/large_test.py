#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits of files beyond 4 GiB, whose chunk tables have entries of 8 bytes. Takes minutes: tests/soak.sh runs it."""

import hashlib
import os
import subprocess
import unittest

import ntfs_volume
from dismd_service import ServiceTestCase

BLOCK = 1 << 20
PATCH = (9 << 29) + 4000  # beyond 4 GiB, across pages
DATA = b"patched " * 2000


def expected_hash(patches):
    """Of ntfs_volume.fill_huge's file, with these written over it."""
    found = hashlib.sha256()
    for start in range(0, ntfs_volume.HUGE_BYTES, BLOCK):
        block = bytearray(min(BLOCK, ntfs_volume.HUGE_BYTES - start))
        for offset, data in (*ntfs_volume.HUGE_ISLANDS, *patches):
            first, last = max(offset, start), min(offset + len(data), start + len(block))
            if first < last:
                block[first - start:last - start] = data[first - offset:last - offset]
        found.update(block)
    return found.hexdigest()


class LargeTest(ServiceTestCase):
    def committed_hash(self, image, path):
        """As wimlib reads it, after having verified all."""
        subprocess.run(["wimverify", image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = hashlib.sha256()
        with subprocess.Popen(["wimextract", image, "1", path, "--to-stdout"], stdout=subprocess.PIPE) as reader:
            while block := reader.stdout.read(BLOCK):
                found.update(block)
        self.assertEqual(reader.returncode, 0)
        return found.hexdigest()

    def test_edited_and_made(self):
        wim = self.own_image("huge.wim")
        root = self.mount_point()
        self.client.mount(wim, root, read_only=False)
        with open(f"{root}/huge.bin", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), DATA, PATCH)
        ntfs_volume.fill_huge(self.make(f"{root}/made"))
        # Not by the client in Python, which waits two minutes.
        subprocess.run([f"{self.service.bin}/dismctl", "--address", self.service.address, "unmount", root, "--commit"],
                       check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.committed_hash(wim, "/huge.bin"), expected_hash([(PATCH, DATA)]))
        self.assertEqual(self.committed_hash(wim, "/made/huge.bin"), expected_hash([]))

    @staticmethod
    def make(directory):
        os.mkdir(directory)
        return directory


if __name__ == "__main__":
    unittest.main()
