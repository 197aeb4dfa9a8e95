#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount cancelled at every phase leaves nothing: no mount, no process, no descriptor, no directory.

The service stops at a test seam (libmount/base/test_seam.h; only in builds with DISMD_TEST_SEAMS), the call is
cancelled, or its connection lost, and what is left is looked at.
"""

import os
import unittest

import processes
from dismd_client import Caller, RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until

OWNER = 4211
SEAMS = (
    "front-opening", "broker-inspect-child", "front-inspected", "worker-opening", "worker-reading-metadata",
    "worker-checking-integrity", "front-before-create", "broker-create-child", "worker-before-serving",
    "front-before-attach",
)
# So many looks in succession, 5 ms apart, find a service at rest the same.
SAME_STATES = 10
# Reached in time or not at all for being past the point of no return: the mount may succeed.
POINT_OF_NO_RETURN = "broker-attach-child"


class CancelTest(ServiceTestCase):
    def new_service(self):
        self.seams = os.path.join(self.directory, "seams")
        os.mkdir(self.seams)
        os.chmod(self.seams, 0o777)
        self.service_options = {"environment": {"DISMD_TEST_SEAM_DIR": self.seams}}
        return super().new_service()

    def setUp(self):
        super().setUp()
        self.root = self.mount_point(uid=OWNER)
        self.caller = Caller(self.service.address, OWNER)
        self.addCleanup(self.caller.close)
        # Once through, so that what is made for the first caller only is there.
        self.mount()
        self.caller.unmount(self.root)
        wait_until(lambda: not self.service.workers(), 10, "the workers to end")
        self.before = self.settled_state()

    def request(self):
        return {"image_path": self.image("ntfs-lzx.wim"), "mount_path": self.root, "image_index": 1, "read_only": True,
                "check_integrity": True}

    def mount(self):
        return list(self.caller.stream("MountImage", self.request()))[-1]

    def state(self):
        """Processes with their descriptors, mounts, the state directory."""
        found = {}
        for pid in self.service.pids():
            found[f"{pid} {processes.name(pid)}"] = processes.descriptor_count(pid)
        return {"processes": found, "mounts": processes.mounts_below(self.directory),
                "state": sorted(os.path.join(top, name) for top, folders, files in os.walk(self.service.state)
                                for name in folders + files if not name.startswith("operation-")),
                "mount point": os.listdir(self.root)}  # (what has ended is remembered for some minutes)

    def settled_state(self):
        """state(), once nothing of what was done before is still being given back."""
        states = []

        def is_settled():
            states.append(self.state())
            return len(states) >= SAME_STATES and all(state == states[-1] for state in states[-SAME_STATES:])

        wait_until(is_settled, 20, "the service to come to rest")
        return states[-1]

    def path(self, seam, suffix):
        return os.path.join(self.seams, f"{seam}.{suffix}")

    def begin_and_stop_at(self, seam):
        for other in SEAMS:  # where a subtest before has failed
            self.let_go(other)
        open(self.path(seam, "stop"), "wb").close()
        pending = self.caller.start("MountImage", self.request())
        wait_until(lambda: os.path.exists(self.path(seam, "reached")), 20, f"the mount to come to {seam}")
        return pending

    def let_go(self, seam):
        for suffix in ("stop", "reached"):
            if os.path.exists(self.path(seam, suffix)):
                os.unlink(self.path(seam, suffix))

    def check_nothing_left(self):
        try:
            wait_until(lambda: self.state() == self.before, 20, "everything to be as before")
        except AssertionError:
            self.assertEqual(self.state(), self.before)
        # And the service goes on.
        self.mount()
        self.assertTrue(processes.mounts_below(self.root))
        self.caller.unmount(self.root)

    def test_cancelled_at_each_seam(self):
        for seam in SEAMS:
            with self.subTest(seam=seam):
                pending = self.begin_and_stop_at(seam)
                pending.cancel()
                with self.assertRaises(RpcFailure) as caught:
                    list(pending)
                self.assertEqual(caught.exception.code, "CANCELLED")
                # Without being let go: it must see by itself that it is no longer wanted. A child of the broker's is
                # killed, whatever it waits for.
                wait_until(lambda: not self.service.workers(), 20, "the worker to end")
                self.let_go(seam)
                self.check_nothing_left()

    def test_cancelled_by_another_call(self):
        for seam in SEAMS:
            with self.subTest(seam=seam):
                pending = self.begin_and_stop_at(seam)
                number = next(pending)["operation"]["operation_id"]
                self.caller.call("CancelOperation", {"operation_id": number})
                with self.assertRaises(RpcFailure) as caught:
                    list(pending)
                self.assertEqual(caught.exception.reason, "CANCELLED")
                self.let_go(seam)
                operation = self.caller.call("GetOperation", {"operation_id": number})["operation"]
                self.assertEqual(operation["state"], "OPERATION_STATE_CANCELLED")
                self.assertEqual(operation["error"]["reason"], "CANCELLED")
                self.check_nothing_left()

    def test_caller_killed_at_each_seam(self):
        for seam in SEAMS:
            with self.subTest(seam=seam):
                self.before = self.settled_state()
                with Caller(self.service.address, OWNER) as victim:
                    open(self.path(seam, "stop"), "wb").close()
                    victim.start("MountImage", self.request())
                    wait_until(lambda: os.path.exists(self.path(seam, "reached")), 20, f"the mount to come to {seam}")
                    victim.process.kill()
                    victim.process.wait()
                wait_until(lambda: not self.service.workers(), 20, "the worker to end")
                self.let_go(seam)
                self.check_nothing_left()

    def test_late_cancel_does_no_harm(self):
        """Past the point of no return the mount is made, or it is not there at all."""
        pending = self.begin_and_stop_at(POINT_OF_NO_RETURN)
        pending.cancel()
        self.let_go(POINT_OF_NO_RETURN)
        try:
            list(pending)
        except RpcFailure as failure:
            self.assertEqual(failure.code, "CANCELLED")
        wait_until(lambda: bool(processes.mounts_below(self.root)) == bool(self.service.workers()), 20, "mount and worker to agree")
        if processes.mounts_below(self.root):
            self.assertEqual(self.caller.run("ls", self.root).returncode, 0)
            self.caller.unmount(self.root)
        self.check_nothing_left()

    def test_progress_never_goes_backwards(self):
        snapshots = [message["operation"] for message in self.caller.stream("MountImage", self.request())]
        progress = [(snapshot.get("progress", {}).get("current", 0)) for snapshot in snapshots]
        self.assertEqual(progress, sorted(progress))
        self.assertEqual(snapshots[-1]["state"], "OPERATION_STATE_SUCCEEDED")
        self.assertEqual(snapshots[-1]["progress"]["current"], snapshots[-1]["progress"]["total"])
        self.assertTrue(all(snapshot.get("progress", {}).get("current", 0) < 100 for snapshot in snapshots[:-1]))
        self.caller.unmount(self.root)


if __name__ == "__main__":
    unittest.main()
