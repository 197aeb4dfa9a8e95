#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks mounted read-write: services, workers and commits that are killed at each step, and disks that are full.

Environment: DISMD_KILL_SECONDS (as recovery_test.py).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

import processes
import readwrite_test
from disk_case import DiskCase
from dismd_client import RpcFailure
from ntfs_volume import run
from processes import wait_until
from readwrite_test import digest, read, write
from recovery_test import KillTestCase
from tree_listing import list_tree

KILL_SECONDS = float(os.environ.get("DISMD_KILL_SECONDS", "8"))
# Without those whose subject is UNIX data, which NTFS does not keep.
LOADS = ["Names", "OtherCase", "Blocks", "Append", "Unlinked", "Read", "Map", "Allocate"]


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


if __name__ == "__main__":
    unittest.main()
