#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits and unmounts whose front, broker or worker is killed: they go on, and whoever asks is told what they came to."""

import contextlib
import os
import shutil
import signal
import subprocess
import unittest

import processes
from dismd_client import Client, RpcFailure
from processes import wait_until
from readwrite_test import SeamTestCase, digest, read, write

BEGUN = "worker-commit-begun"  # nothing is written yet
WRITTEN = "worker-commit-written"  # the file is the new one
SECONDS = 60


class OperationTestCase(SeamTestCase):
    def stop_at(self, seam):
        write(f"{self.seams}/{seam}.stop", b"")

    def await_seam(self, seam):
        wait_until(lambda: os.path.exists(f"{self.seams}/{seam}.reached"), SECONDS, f"the commit to reach {seam}")

    def go_on(self, seam):
        for end in ("stop", "reached"):
            os.unlink(f"{self.seams}/{seam}.{end}")

    def begin(self, method, seam=None, **request):
        """Starts it by the API, and waits until it has come to the seam; returns the operation's id."""
        if seam:
            self.stop_at(seam)
        pending = self.client.start(method, {"mount_path": self.root, **request})
        operation = next(iter(pending)).operation.operation_id
        if seam:
            self.await_seam(seam)
        return operation

    def unmount_request(self):
        return {"changes": "CHANGES_COMMIT"}

    def dismctl(self, *arguments):
        """A client that waits for its answer whatever dies."""
        process = subprocess.Popen([f"{self.service.bin}/dismctl", "--address", self.service.address, *arguments],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def assert_succeeds(self, process):
        output, errors = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 0, output + errors)

    def kill_front(self):
        front = self.service.front()
        os.kill(front, signal.SIGKILL)
        wait_until(lambda: not processes.alive(front), SECONDS, "the front to end")
        self.connect()

    def connect(self):
        self.client.close()
        self.client = Client(self.service.address)
        wait_until(self.serves, SECONDS, "the service to answer")

    def serves(self):
        try:
            self.client.mounts()
            return True
        except RpcFailure:
            return False

    def operation(self, operation):
        return self.client.call("GetOperation", {"operation_id": operation})["operation"]

    def outcome(self, operation):
        """The state, and the reason where it failed."""
        wait_until(lambda: self.operation(operation)["state"] != "OPERATION_STATE_RUNNING", SECONDS, "the outcome")
        ended = self.operation(operation)
        return ended["state"].removeprefix("OPERATION_STATE_"), ended.get("error", {}).get("reason", "")

    def assert_unmounted(self):
        self.assertEqual(self.client.mounts(), [])
        self.assert_nothing_left(self.root)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])


class SlowRemovalTest(OperationTestCase):
    """A file system may take long to free what edits took: only who throws them away waits for that."""

    REMOVING = "broker-removing-staging"

    def removal(self, operation):
        self.await_seam(self.REMOVING)
        other = self.mount_point("other")
        self.client.mount(self.wim, other, index=2)
        self.client.unmount(other)
        self.assertEqual(self.operation(operation)["state"], "OPERATION_STATE_RUNNING")
        self.go_on(self.REMOVING)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_unmounted()

    def test_unmount(self):
        self.mount_rw()
        self.edit()
        self.stop_at(self.REMOVING)
        self.removal(self.begin("UnmountImage", changes="CHANGES_DISCARD"))

    def test_of_a_mount_that_needs_a_remount(self):
        self.mount_rw()
        self.edit()
        subprocess.run(["umount", self.root], check=True)
        wait_until(lambda: self.status() == "MOUNT_STATUS_NEEDS_REMOUNT", SECONDS, "the mount to be missed")
        self.stop_at(self.REMOVING)
        self.removal(self.begin("UnmountImage", changes="CHANGES_DISCARD"))


class KilledFrontTest(OperationTestCase):
    def test_commit(self):
        """The file's other mounts go on, and notice again when somebody else changes it."""
        self.mount_rw()
        other = self.mount_point("other")
        self.client.mount(self.wim, other, index=2)
        self.edit()
        operation = self.begin("CommitImage", BEGUN)
        self.kill_front()
        self.assertEqual(self.operation(operation)["state"], "OPERATION_STATE_RUNNING")
        with self.fails("OPERATION_IN_PROGRESS"):
            self.commit()
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_edited(self.applied())
        self.assertEqual(read(f"{other}/one.txt"), b"one\n")
        self.assertEqual(self.status(other), "MOUNT_STATUS_OK")
        with open(self.wim, "ab") as file:
            file.write(b"more")
        os.listdir(other)
        with self.assertRaises(OSError):
            read(f"{other}/two.bin")
        wait_until(lambda: self.status(other) == "MOUNT_STATUS_INVALID", SECONDS, "the other mount to be invalid")
        self.client.unmount(other)
        self.unmount("DISCARD")

    def test_before_the_worker_has_heard(self):
        self.mount_rw()
        self.edit()
        operation = self.begin("CommitImage", "front-committing")
        os.unlink(f"{self.seams}/front-committing.stop")
        self.stop_at(BEGUN)  # where the first front does not come to, or does: one commit it is
        self.kill_front()
        self.await_seam(BEGUN)
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.unmount("DISCARD")
        self.assert_edited(self.applied())

    def test_commits_that_wait_for_their_turn(self):
        other = self.mount_point("other")
        self.mount_rw()
        self.mount_rw(root=other, index=2)
        self.edit()
        self.edit(other, "second")
        first = self.begin("CommitImage", BEGUN)
        waiting = self.client.start("CommitImage", {"mount_path": other})
        second = next(iter(waiting)).operation.operation_id
        wait_until(lambda: self.operation(second)["progress"].get("phase") == "PHASE_WAITING", SECONDS, "it to wait")
        self.kill_front()
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(first), ("SUCCEEDED", ""))
        self.assertEqual(self.outcome(second), ("SUCCEEDED", ""))
        self.unmount("DISCARD")
        self.unmount("DISCARD", other)
        self.assert_edited(self.applied())
        self.assert_edited(self.applied(2), "second")

    def test_commits_of_other_files_do_not_wait(self):
        other_wim, other = os.path.join(self.mount_point("elsewhere"), "other.wim"), self.mount_point("other")
        shutil.copyfile(self.wim, other_wim)
        worker = self.mount_rw()["worker_pid"]
        self.mount_rw(other_wim, other)
        self.edit()
        self.edit(other)
        operation = self.begin("CommitImage", BEGUN)
        os.kill(worker, signal.SIGSTOP)
        self.addCleanup(self.wake, worker)
        self.go_on(BEGUN)
        self.unmount("COMMIT", other)
        self.assertEqual(self.operation(operation)["state"], "OPERATION_STATE_RUNNING")
        os.kill(worker, signal.SIGCONT)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_edited(self.applied(image=other_wim))
        self.unmount("DISCARD")

    @staticmethod
    def wake(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def test_unmount(self):
        self.mount_rw()
        self.edit()
        operation = self.begin("UnmountImage", BEGUN, **self.unmount_request())
        self.kill_front()
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_unmounted()
        self.assert_edited(self.applied())

    def test_a_second_unmount_that_waits(self):
        """It has not begun: what the first one commits is not thrown away by it, and the next front is not held up."""
        self.mount_rw()
        self.edit()
        operation = self.begin("UnmountImage", BEGUN, **self.unmount_request())
        waiting = self.client.start("UnmountImage", {"mount_path": self.root, "changes": "CHANGES_DISCARD"})
        second = next(iter(waiting)).operation.operation_id
        wait_until(lambda: self.operation(second)["state"] == "OPERATION_STATE_RUNNING", SECONDS, "the second unmount")
        self.kill_front()
        with self.assertRaises(RpcFailure) as forgotten:
            self.operation(second)
        self.assertEqual(forgotten.exception.reason, "OPERATION_NOT_FOUND")
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_unmounted()
        self.assert_edited(self.applied())

    def test_commit_that_waits_for_a_replacement(self):
        """The worker that is to commit still takes over from one that died: it hears of the commit from both fronts."""
        self.mount_rw()
        self.edit()
        self.stop_at("worker-resuming")
        self.stop_at(BEGUN)
        os.kill(self.client.get_mount(self.root)["worker_pid"], signal.SIGKILL)
        self.await_seam("worker-resuming")
        pending = self.client.start("CommitImage", {"mount_path": self.root})
        operation = next(iter(pending)).operation.operation_id
        wait_until(lambda: self.operation(operation)["progress"].get("phase") == "PHASE_COMMITTING", SECONDS,
                   "the commit to be asked for")
        self.kill_front()
        self.go_on("worker-resuming")
        self.await_seam(BEGUN)
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_edited(self.applied())
        self.unmount("DISCARD")

    def test_unmount_whose_worker_dies_as_it_is_told(self):
        """The one that is asked first dies before it has answered; its replacement commits."""
        self.mount_rw()
        self.edit()
        worker = self.client.get_mount(self.root)["worker_pid"]
        os.kill(worker, signal.SIGSTOP)
        operation = self.begin("UnmountImage", **self.unmount_request())
        self.client.mounts()  # meanwhile it is being asked
        os.kill(worker, signal.SIGKILL)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_unmounted()
        self.assert_edited(self.applied())

    def test_remount(self):
        """Nothing came of it, and nothing is lost: whoever reads the message must not think so."""
        self.mount_rw()
        self.edit()
        subprocess.run(["umount", self.root], check=True)
        wait_until(lambda: self.status() == "MOUNT_STATUS_NEEDS_REMOUNT", SECONDS, "the mount to be missed")
        operation = self.begin("RemountImage", "worker-opening")
        self.kill_front()
        self.go_on("worker-opening")
        self.assertEqual(self.outcome(operation), ("FAILED", "SHUTTING_DOWN"))
        self.assertIn("all edits are kept", self.operation(operation)["error"]["message"])
        self.remount()
        self.assert_edited(self.root)
        self.unmount("DISCARD")

    def test_who_waits_is_told(self):
        """dismctl and libdismapi find their operation again."""
        self.mount_rw()
        self.edit()
        self.stop_at(BEGUN)
        commit = self.dismctl("commit", self.root)
        self.await_seam(BEGUN)
        self.kill_front()
        self.kill_front()
        self.go_on(BEGUN)
        self.assert_succeeds(commit)
        self.assert_edited(self.applied())
        write(f"{self.root}/later", b"later")
        self.stop_at(BEGUN)
        unmount = self.dismctl("unmount", self.root, "--commit")
        self.await_seam(BEGUN)
        self.kill_front()
        self.go_on(BEGUN)
        self.assert_succeeds(unmount)
        self.assert_unmounted()
        self.assertEqual(read(f"{self.applied()}/later"), b"later")

    def test_cancelled_afterwards(self):
        self.mount_rw()
        self.edit()
        before = digest(self.wim)
        operation = self.begin("CommitImage", BEGUN)
        self.kill_front()
        self.client.call("CancelOperation", {"operation_id": operation})
        self.assertEqual(self.outcome(operation), ("CANCELLED", "CANCELLED"))
        self.go_on(BEGUN)
        self.assertEqual(digest(self.wim), before)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_what_has_ended_is_still_known(self):
        self.mount_rw()
        self.edit()
        done = self.begin("CommitImage")
        self.assertEqual(self.outcome(done), ("SUCCEEDED", ""))
        with open(self.wim, "ab") as file:
            file.write(b"more")
        write(f"{self.root}/more", b"more")
        failed = self.begin("CommitImage")
        self.assertEqual(self.outcome(failed), ("FAILED", "IMAGE_CHANGED"))
        told = self.operation(failed)
        self.kill_front()
        self.assertEqual(self.outcome(done), ("SUCCEEDED", ""))
        self.assertEqual(self.operation(failed), told)
        self.unmount("DISCARD")

    def test_worker_killed_as_well(self):
        """By the unmount's commit, too: what was written counts, what was not is there to be committed again."""
        made = []
        for method, request in (("CommitImage", {}), ("UnmountImage", self.unmount_request())):
            for seam, expected in ((BEGUN, ("FAILED", "WORKER_DIED")), (WRITTEN, ("SUCCEEDED", ""))):
                for worker_first in (True, False):
                    with self.subTest(method=method, seam=seam, worker_first=worker_first):
                        if not self.client.mounts():
                            self.mount_rw()
                        made.append(f"{method}-{seam}-{worker_first}")
                        write(f"{self.root}/{made[-1]}", made[-1].encode())
                        operation = self.begin(method, seam, **request)
                        worker = self.service.workers()[0]
                        if worker_first:
                            os.kill(worker, signal.SIGKILL)
                        self.kill_front()
                        self.go_on(seam)
                        if not worker_first:
                            os.kill(worker, signal.SIGKILL)
                        self.assertEqual(self.outcome(operation), expected)
                        if seam == BEGUN or method == "CommitImage":
                            self.assertEqual(self.status(), "MOUNT_STATUS_OK")
                            self.assertEqual(read(f"{self.root}/{made[-1]}"), made[-1].encode())
                        else:
                            self.assert_unmounted()
                            target = self.applied()
                            self.assertEqual([read(f"{target}/{name}") for name in made], [name.encode() for name in made])


class KilledBrokerTest(OperationTestCase):
    def kill_broker(self):
        self.service.process.kill()
        self.restart()

    def test_commit(self):
        self.mount_rw()
        self.edit()
        operation = self.begin("CommitImage", BEGUN)
        self.kill_broker()
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_edited(self.applied())
        self.unmount("DISCARD")

    def test_unmount(self):
        """The process that commits ends with the broker: what it has written counts."""
        self.mount_rw()
        self.edit()
        operation = self.begin("UnmountImage", BEGUN, **self.unmount_request())
        self.kill_broker()
        self.go_on(BEGUN)
        self.assertEqual(self.outcome(operation), ("FAILED", "WORKER_DIED"))
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.assert_edited(self.root)
        operation = self.begin("UnmountImage", WRITTEN, **self.unmount_request())
        self.kill_broker()
        self.go_on(WRITTEN)
        self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
        self.assert_unmounted()
        self.assert_edited(self.applied())

    def test_unmount_that_ends_while_there_is_nobody(self):
        """Front and broker are dead when the worker has committed: it waits for the next ones, and nothing is lost."""
        for first in ("front", "broker"):
            with self.subTest(first=first):
                self.mount_rw()
                self.edit(word=first)
                operation = self.begin("UnmountImage", BEGUN, **self.unmount_request())
                worker, = self.service.workers()
                front = self.service.front()
                before = digest(self.wim)
                if first == "front":
                    self.service.process.send_signal(signal.SIGSTOP)  # or it starts the next front
                    os.kill(front, signal.SIGKILL)
                    wait_until(lambda: not processes.alive(front), SECONDS, "the front to end")
                self.service.process.kill()
                self.service.process.wait()
                wait_until(lambda: not processes.alive(front), SECONDS, "the front to end")
                self.stop_at(WRITTEN)
                self.go_on(BEGUN)
                self.await_seam(WRITTEN)

                def busy():
                    return "task" in [name for name, *_ in processes.threads(worker)]

                self.assertTrue(busy())
                self.go_on(WRITTEN)
                wait_until(lambda: not busy(), SECONDS, "the worker to have committed")
                self.assertTrue(processes.alive(worker))
                self.assertNotEqual(digest(self.wim), before)
                self.restart()
                self.assertEqual(self.outcome(operation), ("SUCCEEDED", ""))
                wait_until(lambda: not processes.alive(worker), SECONDS, "the worker to end")
                self.assert_unmounted()
                self.assert_edited(self.applied(), first)
                shutil.copyfile(self.image("two-images.wim"), self.wim)

    def test_hand_over(self):
        self.mount_rw()
        self.edit()
        self.stop_at(BEGUN)
        commit = self.dismctl("commit", self.root)
        self.await_seam(BEGUN)
        front = self.service.front()
        self.service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not processes.alive(front), SECONDS, "the front to end")
        self.connect()
        self.go_on(BEGUN)
        self.assert_succeeds(commit)
        self.unmount("DISCARD")
        self.assert_edited(self.applied())


if __name__ == "__main__":
    unittest.main()
