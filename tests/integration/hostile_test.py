#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged NTFS volumes mounted read-write: whatever is done to them, the worker lives, answers, and keeps within its memory,
a discard leaves the file as it was, and a commit leaves a sound container.

Which bytes are damaged and what is done follows from a seed; a failure names it. The volumes are those that syzkaller made
(DISMD_FIXTURES), and one of ntfs_volume.py with bytes of its metadata changed.

Environment: DISMD_HOSTILE_SEED (a number, or "random"), DISMD_HOSTILE_ROUNDS, DISMD_HOSTILE_OPERATIONS.
"""

import errno
import os
import random
import shutil
import subprocess
import sys
import unittest

import disks
import ntfs_volume
from disks import MIB
from dismd_client import RpcFailure
from ntfs_volume import run
from readwrite_test import ReadWriteTestCase, digest

SEED = os.environ.get("DISMD_HOSTILE_SEED", "20261129")
ROUNDS = int(os.environ.get("DISMD_HOSTILE_ROUNDS", "6"))
OPERATIONS = int(os.environ.get("DISMD_HOSTILE_OPERATIONS", "60"))
SECONDS = 60  # for all of a round's operations: a library that walks in circles does not come back
MOST_MEMORY = 256 * MIB
REFUSED = {"BAD_IMAGE_FORMAT", "UNSUPPORTED_VOLUME", "VOLUME_HIBERNATED", "OUT_OF_RESOURCES"}
MOST_ENTRIES = 300


def edit(root, seed, operations):
    """Runs in a process of its own, which can be killed where a request hangs. Prints what succeeded."""
    rng = random.Random(seed)
    files, folders, done = [], [root], {}

    def look():
        del files[:], folders[1:]
        for top, below, names in os.walk(root):
            below[:] = below[:20]
            folders.extend(os.path.join(top, name) for name in below)
            files.extend(os.path.join(top, name) for name in names[:20])
            if len(files) + len(folders) > MOST_ENTRIES:
                break

    def new():
        return os.path.join(rng.choice(folders), f"n{rng.randrange(30)}")

    def some():
        return rng.choice(files) if files and rng.random() < 0.8 else new()

    def write(path):
        with open(path, "r+b" if os.path.exists(path) else "wb") as file:
            file.seek(rng.choice((0, rng.randrange(1 << 16), rng.randrange(1 << 22))))
            file.write(rng.randbytes(rng.choice((1, 600, 5000, 200_000))))
            if rng.random() < 0.2:
                os.fsync(file.fileno())

    def read(path):
        with open(path, "rb") as file:
            while file.read(1 << 20):
                if file.tell() > 1 << 24:
                    break

    def attributes(path):
        for name in os.listxattr(path, follow_symlinks=False)[:20]:
            os.getxattr(path, name, follow_symlinks=False)

    kinds = {
        "write": lambda: write(some()),
        "read": lambda: read(some()),
        "truncate": lambda: os.truncate(some(), rng.choice((0, 1, 4096, 1 << 20, 1 << 34))),
        "unlink": lambda: os.unlink(some()),
        "mkdir": lambda: os.mkdir(new()),
        "rmdir": lambda: os.rmdir(rng.choice(folders)),
        "rename": lambda: os.rename(rng.choice(files + folders[1:] or [new()]), new()),
        "link": lambda: os.link(some(), new()),
        "symlink": lambda: os.symlink("somewhere", new()),
        "times": lambda: os.utime(some(), (1, 2)),
        "chmod": lambda: os.chmod(some(), rng.choice((0o444, 0o644))),
        "list": lambda: os.listdir(rng.choice(folders)),
        "xattrs": lambda: attributes(some()),
        "stream": lambda: os.setxattr(some(), "user.stream", rng.randbytes(rng.choice((3, 3000)))),
        "attributes": lambda: os.setxattr(some(), "system.ntfs_attrib", rng.randbytes(4)),
        "acl": lambda: os.setxattr(some(), "system.ntfs_acl", rng.randbytes(40)),
        "remove": lambda: os.removexattr(some(), "user.stream"),
        "free": lambda: os.statvfs(root),
        "look": look,
    }
    look()
    for _ in range(operations):
        kind = rng.choice(list(kinds))
        try:
            kinds[kind]()
            done[kind] = done.get(kind, 0) + 1
        except OSError as error:
            done[errno.errorcode[error.errno]] = done.get(errno.errorcode[error.errno], 0) + 1
    print(done)


class HostileTestCase(ReadWriteTestCase):
    def setUp(self):
        super().setUp()
        self.seed = random.randrange(1 << 32) if SEED == "random" else int(SEED)

    def path(self, name):
        return os.path.join(self.directory, name)

    def peak(self, pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))

    def round(self, disk, seed):
        """Whether it could be mounted."""
        before = digest(disk)
        try:
            mount = self.mount_rw(disk)
        except RpcFailure as failure:
            self.assertIn(failure.reason, REFUSED, failure.message)
            self.assertEqual(digest(disk), before)
            self.assert_nothing_left(self.root)
            return False
        command = [sys.executable, os.path.abspath(__file__), "edit", self.root, str(seed), str(OPERATIONS)]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            self.fail("a request is not answered")
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        now = self.client.get_mount(self.root)
        self.assertEqual((now["status"], now["worker_pid"]), ("MOUNT_STATUS_OK", mount["worker_pid"]), done.stdout)
        if os.environ["DISMD_BUILD_KIND"] == "plain":
            self.assertLess(self.peak(mount["worker_pid"]), MOST_MEMORY)
        self.assertEqual(digest(disk), before)
        if seed % 2:
            self.unmount("COMMIT")
            run("qemu-img", "check", "-f", "vhdx", disk)
        else:
            self.unmount("DISCARD")
            self.assertEqual(digest(disk), before)
        return True


class DamagedVolumeTest(HostileTestCase):
    def test_random_edits(self):
        volume, damaged, disk = self.path("volume"), self.path("damaged"), self.path("damaged.vhdx")
        ntfs_volume.create(volume, 24 * MIB)
        with ntfs_volume.mounted(volume) as root:
            for number in range(120):
                os.makedirs(folder := f"{root}/folder{number % 7}/inner{number % 3}", exist_ok=True)
                with open(f"{folder}/file{number}", "wb") as file:
                    file.write(random.Random(number).randbytes(number * 97))
        with open(volume, "rb") as file:
            sound = file.read()
        # The records that there are: where damage is met.
        places = [at for at in range(0, len(sound), 1024) if sound[at:at + 4] in (b"FILE", b"INDX")]
        mounted = 0
        for number in range(ROUNDS):
            seed = self.seed + number
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                with open(damaged, "wb") as file:
                    file.write(sound)
                    for _ in range(rng.choice((1, 4, 20, 100))):
                        file.seek(rng.choice(places) + rng.randrange(1024))
                        file.write(rng.choice((b"\0", b"\xff", b"\x80", rng.randbytes(1), rng.randbytes(4))))
                disks.convert(damaged, disk)
                mounted += self.round(disk, seed)
        self.assertGreater(mounted, 0)


class FixtureTest(HostileTestCase):
    def test_random_edits(self):
        """Of volumes that syzkaller made to break others' drivers."""
        directory = self.image("syzkaller-ntfs/")
        mounted = 0
        for number, name in enumerate(sorted(os.listdir(directory))):
            with self.subTest(volume=name, seed=self.seed + number):
                shutil.copyfile(directory + name, raw := self.path("volume"))
                disks.convert(raw, disk := self.path("volume.vhdx"))
                mounted += self.round(disk, self.seed + number)
        self.assertGreater(mounted, 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["edit"]:
        edit(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        unittest.main()
