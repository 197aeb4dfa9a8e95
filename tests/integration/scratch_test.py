#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A read-write mount whose edits are kept in a directory of the caller's (MountImageRequest.scratch_directory)."""

import contextlib
import os
import signal
import stat
import subprocess
import threading
import unittest

import processes
from dismd_client import Caller, Client, RpcFailure
from processes import wait_until
from readwrite_test import OWNER, ReadWriteTestCase, SeamTestCase, digest, read, write

ROOTS_WORKER = 65522


class ScratchTestCase(ReadWriteTestCase):
    """Mounts by a user who has a scratch directory."""

    uid = OWNER

    def setUp(self):
        super().setUp()
        os.chmod(self.directory, 0o755)
        self.use(Caller(self.service.address, self.uid) if self.uid else self.client)
        self.wim = self.own_image("two-images.wim", self.uid)
        self.root = self.mount_point("mine", self.uid)
        self.scratch = self.mount_point("scratch", self.uid)
        os.chmod(self.scratch, 0o755)

    def use(self, caller):
        self.caller = caller
        if isinstance(caller, Caller):
            self.addCleanup(caller.close)

    def run_edits(self):
        if self.uid:
            script = f"echo edited >{self.root}/one.txt; head -c 500000 /dev/zero >{self.root}/big.bin"
            done = self.caller.run("/bin/sh", "-ec", script)
            self.assertEqual(done.stderr, b"")
        else:
            write(f"{self.root}/one.txt", b"edited\n")
            write(f"{self.root}/big.bin", bytes(500_000))

    def seen(self, name="one.txt"):
        if not self.uid:
            return read(f"{self.root}/{name}")
        done = self.caller.run("/bin/cat", f"{self.root}/{name}")
        self.assertEqual(done.stderr, b"")
        return done.stdout

    def mount_scratch(self, scratch=None, **fields):
        return self.mount_rw(client=self.caller, scratch_directory=scratch or self.scratch, **fields)

    def staging(self):
        """The one staging directory in the scratch directory."""
        names = os.listdir(self.scratch)
        self.assertEqual(len(names), 1, names)
        return os.path.join(self.scratch, names[0])

    def assert_staged(self, mount):
        staging = self.staging()
        self.assertEqual(os.path.basename(staging), f"dismd-{mount['mount_id']}")
        self.assertEqual(mount["scratch_directory"], self.scratch)
        self.assertEqual(self.caller.get_mount(self.root)["scratch_directory"], self.scratch)
        info = os.stat(staging)
        owner = self.uid or ROOTS_WORKER
        self.assertEqual((info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)), (owner, owner, 0o700))
        self.assertGreater(sum(os.path.getsize(f"{staging}/{name}") for name in os.listdir(staging)), 400_000)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])

    def assert_nothing_kept(self):
        self.assertEqual(os.listdir(self.scratch), [])
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])
        records = [name for name in os.listdir(f"{self.service.state}/broker") if name.startswith("slot-")]
        self.assertEqual(records, [])

    def start_anew(self, killed=False):
        """The next service, and a caller of its."""
        if killed:
            self.restart()
        else:
            self.assertEqual(self.service.stop(), [])
            self.service.start()
            self.client.close()
            self.client = Client(self.service.address)
        self.use(Caller(self.service.address, self.uid) if self.uid else self.client)


class ScratchTest(ScratchTestCase):
    def test_discard(self):
        before = digest(self.wim)
        mount = self.mount_scratch()
        self.run_edits()
        self.assert_staged(mount)
        self.unmount("DISCARD", client=self.caller)
        self.assertEqual(digest(self.wim), before)
        self.assert_nothing_kept()
        self.assert_nothing_left(self.root)

    def test_commit(self):
        mount = self.mount_scratch()
        self.run_edits()
        self.commit(client=self.caller)
        self.assertEqual(os.path.basename(self.staging()), f"dismd-{mount['mount_id']}")
        self.unmount("COMMIT", client=self.caller)
        self.assert_nothing_kept()
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"edited\n")

    def test_worker_killed(self):
        mount = self.mount_scratch()
        self.run_edits()
        os.kill(mount["worker_pid"], signal.SIGKILL)
        self.assertEqual(self.seen(), b"edited\n")
        wait_until(lambda: self.caller.get_mount(self.root)["worker_pid"] != mount["worker_pid"], 20, "a replacement")
        self.assert_staged(mount)
        self.unmount("DISCARD", client=self.caller)
        self.assert_nothing_kept()

    def test_remount_after_sigterm(self):
        """By the path without links: what led there is gone."""
        os.symlink(self.scratch, link := f"{self.directory}/link")
        mount = self.mount_scratch(link)
        os.unlink(link)
        self.run_edits()
        self.start_anew()
        self.assert_staged(mount)
        self.assertEqual(self.caller.get_mount(self.root)["status"], "MOUNT_STATUS_NEEDS_REMOUNT")
        self.assertEqual(self.caller.call("CleanupMountpoints").get("removed", []), [])
        self.remount(client=self.caller)
        self.assertEqual(self.seen(), b"edited\n")
        self.unmount("COMMIT", client=self.caller)
        self.assert_nothing_kept()
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"edited\n")

    def test_broker_killed(self):
        mount = self.mount_scratch()
        self.run_edits()
        self.service.process.kill()
        self.start_anew(killed=True)
        self.assertEqual(self.caller.get_mount(self.root)["worker_pid"], mount["worker_pid"])
        self.assertEqual(self.caller.get_mount(self.root)["scratch_directory"], self.scratch)
        self.assertEqual(self.seen(), b"edited\n")
        self.unmount("DISCARD", client=self.caller)
        self.assert_nothing_kept()

    def test_discarded_without_a_remount(self):
        self.mount_scratch()
        self.run_edits()
        self.start_anew()
        self.caller.call("CleanupMountpoints", {"mount_path": self.root, "force": True})
        self.assertEqual(self.caller.mounts(), [])
        self.assert_nothing_kept()

    def test_gone_at_remount(self):
        self.mount_scratch()
        self.run_edits()
        self.start_anew()
        staging = self.staging()
        os.rename(self.scratch, kept := f"{self.directory}/kept")
        with self.fails("MOUNT_INVALID") as failure:
            self.remount(client=self.caller)
        self.assertIn(staging, failure.message)
        os.rename(kept, self.scratch)  # what was missing may be back
        os.chown(staging, 0, 0)  # not the mount's
        with self.fails("ACCESS_DENIED"):
            self.remount(client=self.caller)
        os.chown(staging, OWNER, OWNER)
        self.remount(client=self.caller)
        self.assertEqual(self.seen(), b"edited\n")
        self.start_anew()
        os.rename(self.scratch, kept)
        cleaned = self.caller.call("CleanupMountpoints")
        self.assertEqual(cleaned.get("removed", []), [])
        self.assertEqual([mount["mount_path"] for mount in cleaned["kept"]], [self.root])
        self.assertIn(staging, cleaned["kept"][0]["status_message"])
        self.caller.call("CleanupMountpoints", {"mount_path": self.root, "force": True})
        self.assertEqual(self.caller.mounts(), [])
        os.rename(kept, self.scratch)

    def test_directories_that_do_not_serve(self):
        file = f"{self.directory}/file"
        write(file, b"")
        os.mkdir(read_only := f"{self.directory}/read-only", 0o755)
        os.mkdir(closed := f"{self.directory}/closed", 0o700)
        os.mkdir(f"{closed}/inside", 0o777)
        for path, reason in ((f"{self.directory}/missing", "INVALID_PATH"), (file, "INVALID_PATH"),
                             ("relative", "INVALID_PATH"), ("/proc/self/cwd", "INVALID_PATH"),
                             ("/proc/self", "INVALID_PATH"), (read_only, "ACCESS_DENIED"),
                             (f"{closed}/inside", "ACCESS_DENIED")):
            with self.subTest(path):
                with self.fails(reason) as failure:
                    self.mount_scratch(path)
                self.assertIn(path, failure.message)
                self.assertEqual(self.caller.mounts(), [])
        self.assertEqual(os.listdir(read_only) + os.listdir(f"{closed}/inside"), [])
        self.assert_nothing_kept()
        self.assert_nothing_left(self.root)

    def test_a_mount_that_fails_leaves_nothing(self):
        os.mkdir(f"{self.root}/in-the-way")
        with self.fails("MOUNT_POINT_NOT_EMPTY"):
            self.mount_scratch()
        self.assert_nothing_kept()
        os.rmdir(f"{self.root}/in-the-way")
        # Not looked at for a read-only mount.
        self.caller.mount(self.wim, self.root, scratch_directory=f"{self.directory}/missing")
        self.caller.unmount(self.root)

    def test_dismctl_and_dism(self):
        for mount, unmount in (
                (("dismctl", "mount", self.wim, self.root, "--scratch-directory", self.scratch),
                 ("dismctl", "unmount", self.root, "--commit")),
                (("dism", "/Mount-Image", f"/ImageFile:{self.wim}", "/Index:1", f"/MountDir:{self.root}",
                  f"/ScratchDir:{self.scratch}"),
                 ("dism", "/Unmount-Image", f"/MountDir:{self.root}", "/Commit"))):
            with self.subTest(mount[0]):
                self.run_program(*mount)
                self.run_edits()
                self.assert_staged(self.caller.get_mount(self.root))
                self.run_program(*unmount)
                self.assert_nothing_kept()
                self.assertEqual(read(f"{self.applied()}/one.txt"), b"edited\n")

    def run_program(self, name, *arguments):
        done = self.caller.run(f"{self.service.bin}/{name}", *arguments,
                               env={**os.environ, "DISMD_ADDRESS": self.service.address, "HOME": self.directory})
        self.assertEqual(done.returncode, 0, done)


class RootScratchTest(ScratchTestCase):
    """What parses the image is not root, and cannot enter the scratch directory; it has its staging directory all the
    same."""

    uid = 0

    def test_of_another_user(self):
        os.chown(self.scratch, OWNER, OWNER)
        os.chmod(self.scratch, 0o700)
        mount = self.mount_scratch()
        self.run_edits()
        self.assert_staged(mount)
        self.start_anew()
        self.remount()
        self.assertEqual(self.seen(), b"edited\n")
        self.unmount("COMMIT")
        self.assert_nothing_kept()
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"edited\n")

    def test_a_file_system_without_owners(self):
        """Others could read the edits there."""
        image = f"{self.directory}/ntfs"
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkntfs", "-q", "-F", image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(["ntfs-3g", image, self.scratch], check=True)
        try:
            with self.fails("INVALID_PATH") as failure:
                self.mount_scratch()
            self.assertIn("does not keep owners", failure.message)
            self.assert_nothing_kept()
        finally:
            subprocess.run(["umount", self.scratch], check=True)


class KilledScratchTest(ScratchTestCase, SeamTestCase):
    def test_all_killed_while_it_is_mounted(self):
        """The next broker finds in the record what was never a mount."""
        stop, reached = (f"{self.seams}/front-before-create.{end}" for end in ("stop", "reached"))
        write(stop, b"")
        with Caller(self.service.address, self.uid) as other:
            call = threading.Thread(target=self.ends_somehow, args=(other,))
            call.start()
            wait_until(lambda: os.path.exists(reached), 30, "the mount to be on its way")
            self.assertTrue(os.listdir(self.staging()))
            for pid in (self.service.pid, *processes.descendants(self.service.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            call.join()
        os.unlink(stop)
        self.start_anew(killed=True)
        wait_until(lambda: os.listdir(self.scratch) == [], 20, "what was left to be removed")
        self.assertEqual(self.caller.mounts(), [])

    def ends_somehow(self, caller):
        with contextlib.suppress(RpcFailure):
            self.mount_rw(client=caller, scratch_directory=self.scratch)


if __name__ == "__main__":
    unittest.main()
