#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that change, workers that die, file systems that do not answer: a clear error, and nobody else is hurt."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

import processes
from dismd_client import Caller, RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until

OWNER = 4201
OTHER = 4202
HERE = os.path.dirname(os.path.abspath(__file__))


def read_error(path):
    """The errno that reading the whole file ends with; 0: it could be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        return 0
    except OSError as error:
        return error.errno


class ChangedImageTest(ServiceTestCase):
    """The size and times of the image are compared after each read that reaches the file."""

    def setUp(self):
        super().setUp()
        self.copy = self.own_image("ntfs-none.wim")
        self.root = self.mount_point()
        self.client.mount(self.copy, self.root)
        self.victim = os.path.join(self.root, "Windows/System32/size-5242893.bin")
        self.assertEqual(os.stat(self.victim).st_size, (5 << 20) + 13)

    def check_invalid(self):
        self.assertEqual(read_error(self.victim), errno.EIO)
        mount = wait_until(lambda: self.status("MOUNT_STATUS_INVALID"), 10, "the mount to report INVALID")
        self.assertIn(os.path.basename(self.copy), mount["status_message"])
        # And from then on, whatever is read.
        self.assertEqual(read_error(os.path.join(self.root, "Windows/System32/incompressible.bin")), errno.EIO)
        self.assertNotIn("dismd-worker", [processes.name(pid) for pid in self.service.pids() if not processes.alive(pid)])
        self.client.unmount(self.root)
        self.assert_nothing_left(self.root)

    def status(self, wanted):
        mount = self.client.get_mount(self.root)
        return mount if mount["status"] == wanted else None

    def test_truncated(self):
        os.truncate(self.copy, 4096)
        self.check_invalid()

    def test_truncated_to_nothing(self):
        os.truncate(self.copy, 0)
        self.check_invalid()

    def test_overwritten_in_place(self):
        size = os.path.getsize(self.copy)
        with open(self.copy, "r+b") as file:
            file.write(os.urandom(size))
        self.check_invalid()

    def test_grown(self):
        with open(self.copy, "ab") as file:
            file.write(b"tail")
        self.check_invalid()

    def test_replaced_by_another_file(self):
        """rename() over it leaves the file that is mounted: that one still has its content, but a changed ctime."""
        other = os.path.join(self.directory, "other.wim")
        shutil.copyfile(self.image("small.wim"), other)
        os.rename(other, self.copy)
        self.assertIn(read_error(self.victim), (0, errno.EIO))
        self.assertEqual(len(os.listdir(self.root)) > 0, True)
        self.client.unmount(self.root)
        self.assert_nothing_left(self.root)

    def test_deleted(self):
        os.unlink(self.copy)
        self.assertIn(read_error(self.victim), (0, errno.EIO))
        self.client.unmount(self.root)
        self.assert_nothing_left(self.root)

    def test_watchers_are_told(self):
        watch = self.client.start("WatchMounts")
        events = []
        reader = threading.Thread(target=lambda: self.collect(watch, events), daemon=True)
        reader.start()
        wait_until(lambda: any(event.event == 4 for event in events), 10, "SYNCED")
        os.truncate(self.copy, 4096)
        self.assertEqual(read_error(self.victim), errno.EIO)
        changed = wait_until(lambda: [event for event in events if event.event == 2 and event.mount.status == 3], 10,
                             "a CHANGED event with status INVALID")
        self.assertEqual(changed[0].mount.mount_path, self.root)
        self.client.unmount(self.root)
        wait_until(lambda: any(event.event == 3 for event in events), 10, "REMOVED")
        watch.cancel()
        reader.join(10)

    @staticmethod
    def collect(watch, events):
        try:
            for message in watch:
                events.append(message)
        except Exception:  # cancelled at the end
            pass


class DamagedBlobTest(ServiceTestCase):
    def test_damaged_file_gives_eio_and_is_reported(self):
        copy = self.own_image("ntfs-none.wim")
        with open(self.image("ntfs-none.wim"), "rb") as file:
            data = file.read()
        with open(copy, "r+b") as file:
            file.seek(data.index(b"deep\r\n" * 100))
            file.write(b"dEEp")
        root = self.mount_point()
        self.client.mount(copy, root)
        victim = os.path.join(root, "Windows/System32/deep.txt")
        self.assertEqual(read_error(victim), errno.EIO)
        self.assertEqual(read_error(victim), errno.EIO)
        self.assertEqual(read_error(os.path.join(root, "plain.txt")), 0)
        mount = self.client.get_mount(root)
        self.assertEqual(mount["status"], "MOUNT_STATUS_OK")
        self.assertEqual(int(mount["damaged_file_count"]), 1)
        self.assertTrue(mount["damaged_files"][0]["path"].endswith("Windows/System32/deep.txt"))
        self.assertIn("deep.txt", self.service.log())


class DeadWorkerTest(ServiceTestCase):
    """A worker that is killed is replaced. (One that is given up: readwrite_test.GivenUpTest.)"""

    def test_killed_while_reading(self):
        root = self.mount_point()
        self.client.mount(self.image("huge.wim"), root)
        path = os.path.join(root, "huge.bin")
        readers = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
        worker = self.client.get_mount(root)["worker_pid"]
        wait_until(lambda: processes.cpu_seconds(worker) > 0.3, 20, "the worker to be busy")
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: self.client.get_mount(root).get("worker_pid", worker) != worker, 20, "a replacement")
        wait_until(lambda: processes.cpu_seconds(self.client.get_mount(root)["worker_pid"]) > 0.3, 20, "it to be busy")
        for reader in readers:
            self.assertIsNone(reader.poll())  # they read on
            reader.kill()
            _, message = reader.communicate(timeout=20)
            self.assertEqual(message, b"")
        self.client.unmount(root)
        self.assert_nothing_left(root)

    def test_stopped_worker_can_be_unmounted(self):
        """SIGSTOP: it does not answer. The unmount must not wait for it for ever."""
        root = self.mount_point()
        worker = self.client.mount(self.image("small.wim"), root)["worker_pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            self.client.unmount(root)
        except RpcFailure as failure:
            self.assertIn(failure.reason, ("MOUNT_BUSY", "WORKER_DIED"))
            os.kill(worker, signal.SIGCONT)
            self.client.unmount(root)
        self.assert_nothing_left(root)

    def test_stopped_workers_hold_up_nobody_elses_commits(self):
        """Whoever may read a file can have mounts of it, and stop their processes. Its owner's commits wait once."""
        count = 4  # one after the other, before and after the commit, they would take 40 s
        wim = self.own_image("small.wim", OWNER)
        root = self.mount_point(uid=OWNER)
        others = [self.mount_point(f"other{i}", OTHER) for i in range(count)]
        with Caller(self.service.address, OWNER) as owner, Caller(self.service.address, OTHER) as other:
            owner.mount(wim, root, read_only=False)
            workers = [other.mount(wim, path)["worker_pid"] for path in others]
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            begin = time.monotonic()
            for word in ("first", "second"):
                self.assertEqual(owner.run("sh", "-c", f'echo {word} > "$0"', root + "/new").returncode, 0)
                owner.commit(root)
            self.assertLess(time.monotonic() - begin, 20)
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            # They have heard of it when they go on: the file is not what others changed.
            for path in others:
                for _ in range(2):  # answered behind what they were told before (once there may be an older question)
                    other.get_mount(path)
                self.assertEqual(other.run("cat", path + "/one.txt").stdout, b"one\n")
                self.assertEqual(other.get_mount(path)["status"], "MOUNT_STATUS_OK")
                other.unmount(path)
            owner.unmount(root)
        self.assert_nothing_left(root)

    def test_killed_front(self):
        """The mounts go on, or are gone: never half."""
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        front = self.service.front()
        os.kill(front, signal.SIGKILL)
        wait_until(lambda: any(processes.name(pid).startswith("dismd-front") and pid != front
                               for pid in self.service.pids()), 20, "a new front")
        with Caller(self.service.address, 0) as caller:
            wait_until(lambda: self.serves(caller), 20, "the new front to serve")
            if processes.mounts_below(root):
                with open(root + "/one.txt", "rb") as file:
                    self.assertEqual(file.read(), b"one\n")
                caller.unmount(root)
            self.assertEqual(caller.mounts(), [])
        self.assert_nothing_left(root)

    @staticmethod
    def serves(caller):
        try:
            caller.mounts()
            return True
        except RpcFailure:
            return False


class StalledCase(ServiceTestCase):
    """A FUSE mount of one user's, and another user."""

    def setUp(self):
        super().setUp()
        self.stalled = self.mount_point("stalled", uid=OWNER)
        self.start_fuse()
        self.other = Caller(self.service.address, OTHER)
        self.addCleanup(self.other.close)
        self.others_root = self.mount_point("other", uid=OTHER)
        self.others_are_served()

    def start_fuse(self, *arguments):
        self.fuse = subprocess.Popen([sys.executable, os.path.join(HERE, "stalled_fuse.py"), self.stalled, str(OWNER),
                                      *arguments], stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end_fuse)
        self.assertEqual(self.fuse.stdout.readline(), "mounted\n")

    def end_fuse(self):
        self.fuse.kill()  # its connection ends, and with it everything that waits
        self.fuse.wait()
        self.fuse.stdout.close()
        subprocess.run(["umount", "-q", "-l", self.stalled], check=False)

    def others_are_served(self):
        self.other.mount(self.image("small.wim"), self.others_root)
        self.assertEqual(self.other.run("cat", self.others_root + "/one.txt").stdout, b"one\n")
        self.other.unmount(self.others_root)


class StalledFileSystemTest(StalledCase):
    """Image or mount point inside a FUSE mount of the caller's that does not answer: nobody else waits."""

    def check(self, image, directory, **fields):
        with Caller(self.service.address, OWNER) as owner:
            pending = owner.start("MountImage", {"image_path": image, "mount_path": directory, "image_index": 1,
                                                 "read_only": True, **fields})
            self.others_are_served()
            self.assertFalse(pending.has_ended(), "the others were served after the path's deadline only")
            with self.assertRaises(RpcFailure) as caught:
                list(pending)
            self.assertEqual(caught.exception.reason, "PATH_TIMED_OUT")
        wait_until(lambda: not self.service.workers(), 20, "the workers to end")

    def test_image(self):
        self.check(self.stalled + "/x.wim", self.mount_point(uid=OWNER))

    def test_mount_point(self):
        self.check(self.image("small.wim"), self.stalled + "/mnt")

    def test_scratch_directory(self):
        self.check(self.own_image("small.wim", OWNER), self.mount_point(uid=OWNER), read_only=False,
                   scratch_directory=self.stalled)

    def test_cancelled_while_waiting(self):
        with Caller(self.service.address, OWNER) as owner:
            pending = owner.start("MountImage", {"image_path": self.stalled + "/x.wim", "image_index": 1, "read_only": True,
                                                 "mount_path": self.mount_point(uid=OWNER)})
            self.others_are_served()
            pending.cancel()
            with self.assertRaises(RpcFailure) as caught:
                list(pending)
            self.assertEqual(caught.exception.code, "CANCELLED")

    def test_a_cancelled_mount_ends_at_once(self):
        places = ((self.stalled + "/x.wim", self.mount_point(uid=OWNER)), (self.image("small.wim"), self.stalled + "/mnt"))
        with Caller(self.service.address, OWNER) as owner, Caller(self.service.address, OWNER) as second:
            for image, directory in places:
                pending = owner.start("MountImage", {"image_path": image, "mount_path": directory, "image_index": 1,
                                                     "read_only": True})
                operation = {"operation_id": next(iter(pending))["operation"]["operation_id"]}
                second.call("CancelOperation", operation)
                # The broker would wait for ten seconds.
                wait_until(lambda: "CANCELLED" in str(second.call("GetOperation", operation)), 5, "the operation to end")


class StalledCloseTest(StalledCase):
    """A file system that answers everything but the question that the kernel asks when a file is closed. The broker has
    the descriptors of all users, and each of its children closes them."""

    def start_fuse(self, *arguments):
        super().start_fuse(self.image("small.wim"))

    def test_it_is_not_opened(self):
        image = self.stalled + "/image.wim"
        mount = {"image_path": image, "mount_path": self.mount_point(uid=OWNER), "image_index": 1, "read_only": True}
        with Caller(self.service.address, OWNER) as owner:
            for ask in (lambda: list(owner.stream("MountImage", mount)),
                        lambda: owner.call("GetImageInfo", {"image_path": image})):
                with self.assertRaises(RpcFailure) as caught:
                    ask()
                self.assertEqual(caught.exception.reason, "IMAGE_ON_NETWORK")
                self.others_are_served()
        wait_until(lambda: not self.service.workers(), 20, "the others' workers to end")

    def test_nor_as_a_part_of_a_set(self):
        """The mount lies beneath the image's directory, and a link there leads into it."""
        parts = self.mount_point("parts", uid=OWNER)
        first = shutil.copy(self.image("ntfs-split.swm"), parts)
        self.end_fuse()
        self.stalled = self.mount_point("parts/inside", uid=OWNER)
        self.start_fuse()
        os.symlink("inside/image.wim", parts + "/ntfs-split2.swm")
        os.chown(first, OWNER, OWNER)
        with Caller(self.service.address, OWNER) as owner:
            with self.assertRaises(RpcFailure) as caught:
                owner.mount(first, self.mount_point(uid=OWNER))
            self.assertIn("a user's program serves", caught.exception.message)
        self.others_are_served()


class NestedTest(ServiceTestCase):
    """An image in a mount of ours, as winre.wim is in install.wim."""

    def setUp(self):
        super().setUp()
        self.owner, self.other = Caller(self.service.address, OWNER), Caller(self.service.address, OTHER)
        self.addCleanup(self.owner.close)
        self.addCleanup(self.other.close)
        self.outer_image = self.own_image("two-images.wim", OWNER)
        self.outer, self.inner = self.mount_point("outer", uid=OWNER), self.mount_point("inner", uid=OWNER)
        self.others_root = self.mount_point("other", uid=OTHER)
        self.owner.mount(self.outer_image, self.outer, read_only=False)
        self.image_inside = self.outer + "/winre.wim"
        self.run_as_owner("cp", self.image("small.wim"), self.image_inside)
        self.owner.mount(self.image_inside, self.inner, read_only=False)

    def run_as_owner(self, *command):
        done = self.owner.run(*command)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def others_are_served(self):
        self.other.mount(self.image("small.wim"), self.others_root)
        self.other.unmount(self.others_root)

    def test_edits_and_commits(self):
        self.run_as_owner("cp", self.image("small.wim"), self.inner + "/added")
        self.owner.unmount(self.inner, "CHANGES_COMMIT")
        self.owner.unmount(self.outer, "CHANGES_COMMIT")
        self.owner.mount(self.outer_image, self.outer)
        self.owner.mount(self.image_inside, self.inner)
        self.run_as_owner("cmp", self.image("small.wim"), self.inner + "/added")
        self.owner.unmount(self.inner)
        self.owner.unmount(self.outer)

    def test_nobody_waits_for_a_worker_that_is_stopped(self):
        """The kernel first writes what is dirty of a file that is closed, and a user may stop his workers."""
        script = ("import mmap, os, sys\nview = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096)\n"
                  "view[100:104] = bytes(4)\nprint('dirty', flush=True)\nsys.stdin.read()")
        writer = subprocess.Popen([sys.executable, "-c", script, self.image_inside], user=OWNER, group=OWNER,
                                  extra_groups=[], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(writer.stdout.readline(), b"dirty\n")
        worker = self.owner.get_mount(self.outer)["worker_pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            self.others_are_served()
            self.others_are_served()
        finally:
            os.kill(worker, signal.SIGCONT)
            writer.communicate()
        self.owner.unmount(self.inner)
        self.owner.unmount(self.outer)


class FloodTest(ServiceTestCase):
    """What one user's connections make the service hold is bounded, and others are served meanwhile."""

    TAKEN_MIB = 768  # more than that is without bounds: the connections' own windows are a quarter of it
    HELD_KIB = 256 << 10

    def test_messages_that_never_end(self):
        socket_path = self.service.address.removeprefix("unix:")
        flood = subprocess.Popen([sys.executable, os.path.join(HERE, "request_flood.py"), socket_path, str(OWNER),
                                  "16", "100", str(self.TAKEN_MIB)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(flood.wait)
        self.addCleanup(flood.kill)
        with Caller(self.service.address, OTHER) as other:
            while flood.poll() is None:
                self.assertEqual(other.mounts(), [])
        self.assertEqual(flood.returncode, 0)
        self.assertLess(int(flood.communicate()[0]), self.TAKEN_MIB)
        with Caller(self.service.address, OWNER) as owner:
            self.assertEqual(owner.mounts(), [])
        if "sanitize" not in os.environ["DISMD_BUILD_KIND"]:  # which keeps freed memory for a while
            self.assertLess(processes.status_kib(self.service.front(), "VmHWM"), self.HELD_KIB)


class PrivacyTest(ServiceTestCase):
    """Another uid cannot read, unmount, see or watch a mount that is not its own."""

    def setUp(self):
        super().setUp()
        self.root = self.mount_point(uid=OWNER)
        self.owner = Caller(self.service.address, OWNER)
        self.addCleanup(self.owner.close)
        self.other = Caller(self.service.address, OTHER)
        self.addCleanup(self.other.close)
        self.owner.mount(self.image("small.wim"), self.root)

    def test_the_owner_reads(self):
        self.assertEqual(self.owner.run("cat", self.root + "/one.txt").stdout, b"one\n")
        self.assertEqual([mount["mount_path"] for mount in self.owner.mounts()], [self.root])
        self.assertEqual(self.owner.mounts()[0]["owner_uid"], OWNER)

    def test_another_uid_cannot_read(self):
        for command in (("cat", self.root + "/one.txt"), ("ls", self.root), ("stat", self.root + "/one.txt")):
            result = self.other.run(*command)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(b"Permission denied", result.stderr)
        # Nor root, without allow_other.
        with self.assertRaises(PermissionError):
            os.listdir(self.root)

    def test_allow_other_lets_others_in(self):
        root = self.mount_point("shared", uid=OWNER)
        try:
            self.owner.mount(self.image("small.wim"), root, allow_other=True)
        except RpcFailure as failure:
            self.assertEqual(failure.reason, "DENIED_BY_POLICY")
            return
        self.assertEqual(self.other.run("cat", root + "/one.txt").stdout, b"one\n")

    def test_another_uid_does_not_see_it(self):
        self.assertEqual(self.other.mounts(), [])
        for request in ({"mount_path": self.root}, {"mount_id": self.owner.mounts()[0]["mount_id"]}):
            with self.assertRaises(RpcFailure) as caught:
                self.other.call("GetMount", request)
            self.assertEqual(caught.exception.reason, "NOT_MOUNTED")
        self.assertEqual([mount["mount_path"] for mount in self.client.mounts()], [self.root])  # root sees all

    def test_another_uid_cannot_unmount(self):
        for request in ({"mount_path": self.root}, {"mount_id": self.owner.mounts()[0]["mount_id"]}):
            with self.assertRaises(RpcFailure) as caught:
                list(self.other.stream("UnmountImage", {**request, "changes": "CHANGES_DISCARD"}))
            self.assertEqual(caught.exception.reason, "NOT_MOUNTED")
        self.assertEqual(self.other.call("CleanupMountpoints").get("removed", []), [])
        self.assertEqual(self.owner.run("cat", self.root + "/one.txt").stdout, b"one\n")

    def test_another_uid_cannot_watch(self):
        watch = self.other.start("WatchMounts")
        self.assertEqual(next(watch)["event"], "MOUNT_EVENT_SYNCED")
        self.owner.unmount(self.root)
        # Its own comes through, and nothing of the owner's before it.
        mine = self.mount_point("mine", uid=OTHER)
        self.other.mount(self.image("small.wim"), mine)
        event = next(watch)
        self.assertEqual((event["event"], event["mount"]["mount_path"]), ("MOUNT_EVENT_ADDED", mine))
        watch.cancel()

    def test_another_uid_cannot_see_operations(self):
        operation = list(self.owner.stream("UnmountImage", {"mount_path": self.root, "changes": "CHANGES_DISCARD"}))[-1]
        number = operation["operation"]["operation_id"]
        self.assertEqual(self.owner.call("GetOperation", {"operation_id": number})["operation"]["state"],
                         "OPERATION_STATE_SUCCEEDED")
        for call in ("GetOperation", "CancelOperation"):
            with self.assertRaises(RpcFailure) as caught:
                self.other.call(call, {"operation_id": number})
            self.assertEqual(caught.exception.reason, "OPERATION_NOT_FOUND")

    def test_a_private_image_and_a_foreign_directory(self):
        private = self.own_image("small.wim", uid=OWNER)
        os.chmod(private, 0o600)
        for image, directory in ((private, self.mount_point("mine", uid=OTHER)),
                                 (self.image("small.wim"), self.mount_point("not-mine", uid=OWNER))):
            with self.assertRaises(RpcFailure) as caught:
                self.other.mount(image, directory)
            self.assertEqual(caught.exception.reason, "ACCESS_DENIED")
        self.owner.mount(private, self.mount_point("owned", uid=OWNER))


if __name__ == "__main__":
    unittest.main()
