#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits that write the whole image file anew: what stays of the file, of the mount, and after a kill at any step."""

import contextlib
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import unittest

import processes
from dismd_client import Caller, Client, RpcFailure
from readwrite_test import OWNER, ReadWriteTestCase, digest, read, write
from processes import wait_until

MARGIN = 16 << 10
NOISE = random.Random(1).randbytes(1 << 20)


def acl(mode, user):
    """An ACL as the kernel stores it: of owner, the user, group, mask and others."""
    nobody = 0xFFFFFFFF
    entries = [(1, mode >> 6 & 7, nobody), (2, 6, user), (4, mode >> 3 & 7, nobody), (16, mode >> 3 & 7, nobody),
               (32, mode & 7, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


class RebuildTestCase(ReadWriteTestCase):
    def setUp(self):
        super().setUp()
        # A directory of its own, to see what is left in it.
        self.folder = os.path.join(self.directory, "images")
        os.mkdir(self.folder)
        self.wim = shutil.move(self.wim, os.path.join(self.folder, "two-images.wim"))

    def rebuild(self, **options):
        return self.commit(rebuild=True, **options)

    def assert_folder_clean(self):
        wait_until(lambda: os.listdir(self.folder) == [os.path.basename(self.wim)], 10, "temporary files to go")

    def make_dead_space(self):
        write(f"{self.root}/dead", NOISE)
        self.commit()
        os.unlink(f"{self.root}/dead")
        self.commit()

    def optimized_size(self, *options):
        copy = os.path.join(self.directory, "optimized.wim")
        shutil.copyfile(self.wim, copy)
        subprocess.run(["wimoptimize", copy, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return os.path.getsize(copy)

    def compression(self):
        info = subprocess.run(["wiminfo", self.wim], capture_output=True, text=True, check=True).stdout
        return re.search(r"Compression:\s+(\S+)", info).group(1)

    def attributes(self):
        facts = os.stat(self.wim)
        xattrs = {name: os.getxattr(self.wim, name) for name in os.listxattr(self.wim)}
        return facts.st_uid, facts.st_gid, facts.st_mode, xattrs


class RebuildTest(RebuildTestCase):
    def test_while_mounted(self):
        self.mount_rw()
        self.make_dead_space()
        self.edit(word="first")
        inode, before = os.stat(self.wim).st_ino, os.path.getsize(self.wim)
        phases = {snapshot["operation"].get("progress", {}).get("phase") for snapshot in self.client.stream(
            "CommitImage", {"mount_path": self.root, "options": {"rebuild": True}})}
        self.assertIn("PHASE_REBUILDING", phases)
        self.assertNotEqual(os.stat(self.wim).st_ino, inode)
        self.assertLess(os.path.getsize(self.wim), before - len(NOISE) // 2)
        self.assertLess(abs(os.path.getsize(self.wim) - self.optimized_size()), MARGIN)
        self.assert_folder_clean()
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.assertFalse(self.client.get_mount(self.root).get("has_changes", False))
        self.assert_edited(self.root, "first")
        self.assert_edited(self.applied(), "first")
        self.assertEqual(read(f"{self.applied(2)}/two.bin"), b"changed")
        # The old file is gone for good, and the mount goes on with the new one.
        worker = self.client.get_mount(self.root)["worker_pid"]
        deleted = [link for fd in os.listdir(f"/proc/{worker}/fd")
                   if "two-images" in (link := os.readlink(f"/proc/{worker}/fd/{fd}")) and "(deleted)" in link]
        self.assertEqual(deleted, [])
        write(f"{self.root}/one.txt", b"second")
        self.commit()
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"second")
        write(f"{self.root}/one.txt", b"third")
        os.kill(worker, signal.SIGKILL)
        self.assertEqual(read(f"{self.root}/one.txt"), b"third")
        self.assertEqual(len(read(f"{self.root}/two.bin")), 200_000)
        self.rebuild()
        self.unmount("DISCARD")
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"third")

    def test_without_changes(self):
        self.mount_rw()
        self.make_dead_space()
        size = os.path.getsize(self.wim)
        self.commit(rebuild=True, generate_integrity=True)
        self.assertLess(os.path.getsize(self.wim), size - len(NOISE) // 2)
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"one\n")
        self.unmount("DISCARD")
        self.assert_folder_clean()

    def test_at_unmount(self):
        self.mount_rw()
        self.edit()
        self.unmount("COMMIT", rebuild=True, append=True)
        self.assert_nothing_left(self.root)
        self.assert_edited(self.applied(3))
        self.assertEqual(read(f"{self.applied(1)}/one.txt"), b"one\n")
        self.assert_folder_clean()
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])

    def test_compressed_anew(self):
        self.mount_rw()
        for kind in ("LZX", "XPRESS", "LZMS", "LZX", "LZMS", "XPRESS"):
            with self.subTest(kind):
                self.edit(word=f"a{kind}")
                self.commit(recompress=f"COMPRESSION_{kind}")
                self.assertEqual(self.compression().upper(), kind)
                self.assert_edited(self.root, f"a{kind}")
                self.assert_edited(self.applied(), f"a{kind}")
                self.assertEqual(len(read(f"{self.root}/two.bin")), 200_000)
                os.rename(f"{self.root}/three/five-a{kind}.txt", f"{self.root}/three/four.txt")
                shutil.rmtree(f"{self.root}/made-a{kind}")
        self.unmount("COMMIT", recompress="COMPRESSION_LZX")
        self.assertEqual(self.compression().upper(), "LZX")
        self.assertEqual(read(f"{self.applied()}/three/four.txt"), b"four\n")

    def test_owner_mode_and_attributes_are_kept(self):
        os.chmod(self.wim, 0o664)
        os.setxattr(self.wim, "system.posix_acl_access", acl(0o664, OWNER))
        os.setxattr(self.wim, "user.note", b"kept")
        os.setxattr(self.wim, "trusted.note", b"kept as well")
        os.chown(self.wim, OWNER, 0)
        os.setxattr(self.folder, "system.posix_acl_default", acl(0o777, OWNER + 1))
        before = self.attributes()
        self.assertIn("system.posix_acl_access", before[3])
        self.mount_rw()
        self.edit()
        self.rebuild()
        self.assertEqual(self.attributes(), before)
        self.unmount("COMMIT")
        self.assertEqual(self.attributes(), before)

    def test_as_an_ordinary_user(self):
        os.chown(self.folder, OWNER, OWNER)
        os.chown(self.wim, OWNER, OWNER)
        os.chmod(self.wim, 0o640)
        os.setxattr(self.wim, "user.note", b"kept")
        before = self.attributes()
        root = self.mount_point("owned", uid=OWNER)
        with Caller(self.service.address, OWNER) as caller:
            self.mount_rw(root=root, client=caller)
            self.assertEqual(caller.run("sh", "-c", f"echo edited > {root}/one.txt").returncode, 0)
            self.commit(root, caller, rebuild=True)
            self.assertEqual(self.attributes(), before)
            self.assertEqual(read(f"{self.applied()}/one.txt"), b"edited\n")
            self.unmount("COMMIT", root, caller, rebuild=True)
            # A file of somebody else's, that may be written to but not made anew.
            os.chown(self.wim, OWNER + 1, OWNER)
            os.chmod(self.wim, 0o660)
            self.mount_rw(root=root, client=caller)
            before = digest(self.wim)
            with self.fails("ACCESS_DENIED"):
                self.commit(root, caller, rebuild=True)
            self.assertEqual(digest(self.wim), before)
            self.unmount("DISCARD", root, caller)
        self.assert_folder_clean()

    def test_refused_while_there_are_other_mounts(self):
        reader = self.mount_point("reader")
        self.mount_rw()
        self.client.mount(self.wim, reader, index=2)
        self.edit()
        before = digest(self.wim)
        failure = self.fails("IMAGE_IN_USE")
        with failure:
            self.rebuild()
        self.assertIn(reader, failure.message)
        with self.fails("IMAGE_IN_USE"):
            self.unmount("COMMIT", recompress="COMPRESSION_LZX")
        self.assertEqual(digest(self.wim), before)
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.client.unmount(reader)
        self.rebuild()
        self.client.mount(self.wim, reader, index=1)
        self.assert_edited(reader)
        self.client.unmount(reader)
        self.unmount("COMMIT", rebuild=True)
        self.assert_edited(self.applied())

    def test_refused_where_the_file_has_two_names(self):
        """One of them would stay with the old image."""
        os.link(self.wim, f"{self.directory}/second-name.wim")
        self.mount_rw()
        self.edit()
        before = digest(self.wim)
        with self.fails("IMAGE_IN_USE"):
            self.rebuild()
        self.assertEqual(digest(self.wim), before)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_files_in_use_go_on(self):
        """What no image names any more, and somebody still reads: removed files, and old data under newer edits."""
        self.mount_rw()
        write(f"{self.root}/partly", NOISE)
        self.commit()
        old = read(f"{self.root}/two.bin")
        expected = bytearray(NOISE)
        with open(f"{self.root}/two.bin", "rb") as removed, open(f"{self.root}/partly", "r+b", buffering=0) as partly:
            os.unlink(f"{self.root}/two.bin")
            partly.seek(500_000)
            partly.write(b"edited")
            expected[500_000:500_006] = b"edited"
            self.rebuild()
            partly.seek(100)
            partly.write(b"again")
            expected[100:105] = b"again"
            self.assertEqual(read(f"{self.root}/partly"), expected)
            self.rebuild()
            os.kill(self.client.get_mount(self.root)["worker_pid"], signal.SIGKILL)
            self.assertEqual(read(f"{self.root}/partly"), expected)
            self.assertEqual(removed.read(), old)
        self.unmount("COMMIT", rebuild=True)
        self.assertEqual(read(f"{self.applied()}/partly"), expected)
        self.assertFalse(os.path.exists(f"{self.applied()}/two.bin"))

    def test_remounted(self):
        self.mount_rw()
        self.edit(word="first")
        self.rebuild()
        self.edit_again()
        self.assertEqual(self.service.stop(), [])
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)
        self.remount()
        self.assertEqual(read(f"{self.root}/later"), b"later")
        self.assert_edited(self.root, "first")
        self.rebuild()
        self.unmount("DISCARD")
        self.assertEqual(read(f"{self.applied()}/later"), b"later")

    def edit_again(self):
        write(f"{self.root}/later", b"later")

    def test_broker_killed_behind_it(self):
        """The next one adopts the mount with the new file."""
        self.mount_rw()
        self.edit()
        self.rebuild()
        self.edit_again()
        self.service.process.kill()
        self.restart()
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        os.kill(self.client.get_mount(self.root)["worker_pid"], signal.SIGKILL)
        self.assert_edited(self.root)
        self.rebuild()
        self.assertEqual(read(f"{self.applied()}/later"), b"later")
        self.unmount("DISCARD")

    def test_changed_by_another_program(self):
        self.mount_rw()
        self.edit()
        shutil.copy2(self.wim, self.wim + ".new")
        os.rename(self.wim + ".new", self.wim)
        before = digest(self.wim)
        with self.fails("IMAGE_CHANGED"):
            self.rebuild()
        self.assertEqual(digest(self.wim), before)
        self.unmount("DISCARD")


class RebuildFullDiskTest(RebuildTestCase):
    def test_the_file_is_as_it_was(self):
        small = tempfile.mkdtemp(prefix="small-")
        self.addCleanup(os.rmdir, small)
        size = os.path.getsize(self.wim)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2 // 4096 * 4096 + (1 << 20)}", "tmpfs", small],
                       check=True)
        # A child of the broker's may still hold the image for a moment.
        self.addCleanup(wait_until, lambda: subprocess.run(["umount", small], check=False).returncode == 0, 10, "umount")
        self.wim = shutil.move(self.wim, f"{small}/image.wim")
        self.folder = small
        write(f"{small}/filler", NOISE[:1 << 20])
        self.mount_rw()
        write(f"{self.root}/noise", NOISE[: size // 2 + (1 << 19)])
        before, free = digest(self.wim), os.statvfs(small).f_bfree
        with self.fails("DISK_FULL"):
            self.rebuild()
        self.assertEqual(digest(self.wim), before)
        # The file that did not fit goes when the broker has been told, which nobody waits for.
        wait_until(lambda: os.statvfs(small).f_bfree == free, 10, "the space to be free again")
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        os.unlink(f"{small}/filler")
        self.assert_folder_clean()
        self.unmount("DISCARD")


class RebuildCrashTest(RebuildTestCase):
    """kill -9 at each step: the file is the old or the new one, the edits are there, and nothing is left over."""

    def setUp(self):
        self.seams = tempfile.mkdtemp(prefix="seams-")
        self.addCleanup(shutil.rmtree, self.seams, ignore_errors=True)
        os.chmod(self.seams, 0o777)
        self.service_options = {"environment": {"DISMD_TEST_SEAM_DIR": self.seams}}
        super().setUp()

    @contextlib.contextmanager
    def stopped_at(self, seam, run):
        """`run` in a thread, up to the seam; goes on when the block ends. Gives a list that gets the outcome."""
        stop, reached = (os.path.join(self.seams, f"{seam}.{end}") for end in ("stop", "reached"))
        write(stop, b"")
        outcome = []

        def call():
            try:
                run()
                outcome.append(None)
            except RpcFailure as failure:
                outcome.append(failure)

        thread = threading.Thread(target=call)
        thread.start()
        try:
            wait_until(lambda: os.path.exists(reached) or outcome, 30, f"the commit to reach {seam}")
            self.assertEqual(outcome, [])
            yield outcome
        finally:
            os.unlink(stop)
            os.unlink(reached)
            thread.join(120)
        self.assertEqual(len(outcome), 1)

    def prepare(self):
        self.mount_rw()
        write(f"{self.root}/partly", NOISE)
        self.commit()
        self.edit()
        with open(f"{self.root}/partly", "r+b") as file:
            file.seek(1000)
            file.write(b"edited")
        self.partly = NOISE[:1000] + b"edited" + NOISE[1006:]

    def assert_all_there(self):
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.assert_edited(self.root)
        self.assertEqual(read(f"{self.root}/partly"), self.partly)

    def worker(self):
        return self.client.get_mount(self.root)["worker_pid"]

    def test_worker_killed_before_the_exchange(self):
        self.prepare()
        for seam in ("worker-commit-begun", "rebuild-begin", "rebuild-resource", "rebuild-resources-written",
                     "rebuild-tables-written", "worker-rebuilt"):
            with self.subTest(seam):
                before = digest(self.wim)
                with self.stopped_at(seam, self.rebuild) as outcome:
                    os.kill(self.worker(), signal.SIGKILL)
                    wait_until(lambda: outcome, 60, "the commit to fail")
                self.assertEqual(outcome[0].reason, "WORKER_DIED")
                self.assertEqual(digest(self.wim), before)
                self.assert_folder_clean()
                self.assert_all_there()
        self.rebuild()
        self.assert_edited(self.applied())
        self.assertEqual(read(f"{self.applied()}/partly"), self.partly)
        self.unmount("DISCARD")

    def test_worker_killed_behind_the_exchange(self):
        for seam in ("broker-image-prepared", "broker-image-exchanged", "worker-replaced", "worker-rebuild-finished"):
            with self.subTest(seam):
                shutil.copyfile(self.own_image("two-images.wim"), self.wim)
                self.prepare()
                inode = os.stat(self.wim).st_ino
                with self.stopped_at(seam, self.rebuild) as outcome:
                    os.kill(self.worker(), signal.SIGKILL)
                self.assertEqual(outcome, [None])
                self.assertNotEqual(os.stat(self.wim).st_ino, inode)
                self.assert_all_there()
                self.assert_folder_clean()
                target = self.applied()
                self.assert_edited(target)
                self.assertEqual(read(f"{target}/partly"), self.partly)
                with open(f"{self.root}/partly", "r+b") as file:
                    file.write(b"later")
                self.unmount("COMMIT")
                self.assertEqual(read(f"{self.applied()}/partly"), b"later" + self.partly[5:])

    def test_worker_killed_at_unmount(self):
        self.prepare()
        for seam, done in (("rebuild-tables-written", False), ("worker-rebuilt", False), ("worker-replaced", True)):
            with self.subTest(seam):
                before = digest(self.wim)
                with self.stopped_at(seam, lambda: self.unmount("COMMIT", rebuild=True, append=True)) as outcome:
                    os.kill(self.worker(), signal.SIGKILL)
                    wait_until(lambda: outcome, 60, "the commit to end")
                self.assert_folder_clean()
                if done:
                    self.assertEqual(outcome, [None])
                    self.assertEqual(self.client.mounts(), [])
                    self.assert_edited(self.applied(3))
                else:
                    self.assertEqual(outcome[0].reason, "WORKER_DIED")
                    self.assertEqual(digest(self.wim), before)
                    self.assert_all_there()

    def test_written_to_meanwhile(self):
        """What is written while the file is written anew is not in it, and is not lost."""
        self.prepare()
        with self.stopped_at("worker-rebuilt", self.rebuild) as outcome:
            with open(f"{self.root}/partly", "r+b") as file:
                file.write(b"meanwhile")
            write(f"{self.root}/new", b"new")
            os.unlink(f"{self.root}/two.bin")
        self.assertEqual(outcome, [None])
        self.assertEqual(read(f"{self.applied()}/partly"), self.partly)
        self.assertTrue(self.client.get_mount(self.root).get("has_changes"))
        self.partly = b"meanwhile" + self.partly[9:]
        self.assert_all_there()
        os.kill(self.worker(), signal.SIGKILL)
        self.assert_all_there()
        with self.stopped_at("worker-replaced", self.rebuild) as outcome:
            os.kill(self.worker(), signal.SIGKILL)
        self.assertEqual(outcome, [None])
        self.assert_all_there()
        self.unmount("COMMIT")
        target = self.applied()
        self.assertEqual(read(f"{target}/partly"), self.partly)
        self.assertEqual(read(f"{target}/new"), b"new")
        self.assertFalse(os.path.exists(f"{target}/two.bin"))

    def test_broker_killed_in_the_exchange(self):
        """Its child goes on, and the next broker is asked again."""
        for seam in ("broker-image-prepared", "broker-image-exchanged"):
            with self.subTest(seam):
                shutil.copyfile(self.own_image("two-images.wim"), self.wim)
                self.prepare()
                inode = os.stat(self.wim).st_ino
                with self.stopped_at(seam, self.rebuild):
                    self.service.process.kill()
                self.restart()
                wait_until(lambda: os.stat(self.wim).st_ino != inode, 30, "the exchange")
                wait_until(lambda: self.commit_runs() == [], 60, "the commit to end")
                self.assert_all_there()
                self.assert_folder_clean()
                os.kill(self.worker(), signal.SIGKILL)
                self.assert_all_there()
                self.unmount("COMMIT")
                self.assertEqual(read(f"{self.applied()}/partly"), self.partly)

    def commit_runs(self):
        """Tried by committing: the mount is busy while the commit of before runs."""
        try:
            self.commit()
            return []
        except RpcFailure as failure:
            return [failure.reason]

    def test_all_killed_in_the_exchange(self):
        for seam in ("broker-image-prepared", "broker-image-exchanged", "worker-replaced"):
            with self.subTest(seam):
                shutil.copyfile(self.own_image("two-images.wim"), self.wim)
                self.prepare()
                with self.stopped_at(seam, self.rebuild):
                    for pid in (self.service.pid, *processes.descendants(self.service.pid)):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                subprocess.run(["umount", "-l", self.root], check=True)
                subprocess.run(["wimverify", self.wim], check=True, stdout=subprocess.DEVNULL)
                self.restart()
                self.assert_folder_clean()
                self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
                self.remount()
                self.assert_all_there()
                self.unmount("COMMIT", rebuild=True)
                self.assertEqual(read(f"{self.applied()}/partly"), self.partly)
                self.assert_folder_clean()

    def test_cancelled(self):
        self.prepare()
        before = digest(self.wim)
        operations = []

        def run():
            for snapshot in self.client.stream("CommitImage", {"mount_path": self.root, "options": {"rebuild": True}}):
                operations.append(snapshot["operation"]["operation_id"])

        with self.stopped_at("rebuild-resources-written", run) as outcome:
            self.client.call("CancelOperation", {"operation_id": operations[0]})
            wait_until(lambda: outcome, 30, "the commit to end")
        self.assertEqual(outcome[0].reason, "CANCELLED")
        self.assertEqual(digest(self.wim), before)
        self.assert_folder_clean()
        self.assert_all_there()
        self.unmount("COMMIT")


if __name__ == "__main__":
    unittest.main()
