#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker that waits to be needed: what it has, who it becomes, and that nothing depends on it."""

import contextlib
import os
import signal
import unittest

import processes
from dismd_client import Caller, RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until

OWNER = 4300
GROUPS = (4301, 4302)
# What becoming a user takes.
CAPABILITIES = 1 << 6 | 1 << 7 | 1 << 8  # CAP_SETGID, CAP_SETUID, CAP_SETPCAP
MOUNTS = 10
TRIES = 10


class SpareWorkerTest(ServiceTestCase):
    def spare(self):
        """The one that waits, once it does: it sleeps, and has closed what the loader opened."""

        def waiting():
            for pid in self.service.spare_workers():
                with contextlib.suppress(OSError):
                    if self.status(pid, "State")[0] == "S" and set(os.listdir(f"/proc/{pid}/fd")) == {"0", "1", "2", "3"}:
                        return pid
            return None

        return wait_until(waiting, 20, "a spare worker")

    def status(self, pid, field):
        return next((line.split(":", 1)[1].split() for line in processes.read(f"/proc/{pid}/status").splitlines()
                     if line.startswith(field + ":")), [""])

    def mount(self, caller, root, image="small.wim"):
        return caller.mount(self.image(image), root)["worker_pid"]

    def mount_by_spare(self, caller, root):
        """Its worker. A busy machine may keep one from answering in time: then it is not waited for."""
        for _ in range(TRIES):
            spare = self.spare()
            if self.mount(caller, root) == spare:
                return spare
            caller.unmount(root)
        return self.fail("no mount got the worker that waited")

    def test_it_holds_no_more_than_it_needs(self):
        spare = self.spare()
        self.assertEqual(set(self.status(spare, "Uid")), {"0"})
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(int(self.status(spare, kind)[0], 16), CAPABILITIES, kind)
        self.assertEqual(self.status(spare, "NoNewPrivs"), ["1"])

    def test_it_becomes_the_next_mounts(self):
        with Caller(self.service.address, OWNER, OWNER, GROUPS) as caller:
            for number in range(3):
                root = self.mount_point(f"root-{number}", uid=OWNER)
                spare = self.mount_by_spare(caller, root)
                self.assertEqual(set(self.status(spare, "Uid")), {str(OWNER)})
                self.assertEqual(set(self.status(spare, "Gid")), {str(OWNER)})
                self.assertEqual(set(self.status(spare, "Groups")), set(map(str, GROUPS)))
                for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"):
                    self.assertEqual(int(self.status(spare, kind)[0], 16), 0, kind)
                self.assertEqual(self.status(spare, "Seccomp"), ["2"])
                mount_id = self.client.get_mount(root)["mount_id"]
                self.assertEqual(processes.read(f"/proc/{spare}/cmdline").split("\0")[1], f"--mount-id={mount_id}")

    def test_one_of_roots_mounts_is_nobody(self):
        spare = self.mount_by_spare(self.client, self.mount_point())
        self.assertEqual(set(self.status(spare, "Uid")), {"65522"})
        self.assertEqual(self.status(spare, "Groups"), [])

    def test_many_groups(self):
        """More than fit into a packet of the socket."""
        groups = tuple(range(100_000, 120_000))
        with Caller(self.service.address, OWNER, OWNER, groups) as caller:
            root = self.mount_point(uid=OWNER)
            spare = self.mount_by_spare(caller, root)
            self.assertEqual(len(self.status(spare, "Groups")), len(groups))
            caller.unmount(root)

    def test_killed_ones_fail_no_mount(self):
        """Dead or dying, whether the service has noticed or not."""
        for number in range(MOUNTS):
            spare = self.spare()
            os.kill(spare, signal.SIGKILL)
            root = self.mount_point(f"root-{number}")
            self.assertNotEqual(self.mount(self.client, root), spare)

    def test_one_that_stands_still_fails_no_mount(self):
        spare = self.spare()
        os.kill(spare, signal.SIGSTOP)
        self.assertNotEqual(self.mount(self.client, self.mount_point()), spare)
        self.assertFalse(os.path.exists(f"/proc/{spare}"))

    def test_after_an_error_there_is_one(self):
        spare = self.spare()
        with self.assertRaises(RpcFailure):
            self.client.mount(self.image("small.wim"), self.mount_point(), index=7)
        self.assertNotEqual(self.spare(), spare)

    def test_it_ends_with_the_service(self):
        """However that ends: killed, or handing over to a new one."""
        spare = self.spare()
        self.service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.spare() != spare, 20, "the new service's")
        self.assertFalse(os.path.exists(f"/proc/{spare}"))
        spare = self.spare()
        self.service.process.kill()
        self.service.process.wait()
        self.service.process = None
        wait_until(lambda: not processes.alive(spare), 20, "the spare worker to end")
        self.service.start()


if __name__ == "__main__":
    unittest.main()
