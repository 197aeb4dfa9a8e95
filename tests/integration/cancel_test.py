#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount cancelled at every phase leaves nothing: no mount, no process, no descriptor, no directory.

The service stops at a test seam (libmount/base/test_seam.h; only in builds with DISMD_TEST_SEAMS), the call is
cancelled, or its connection lost, and what is left is looked at. And without stopping: at random times, by libdismapi's
cancel event.

Environment: DISMD_CANCELS (how many random times, default 100), DISMD_CANCEL_SEED.
"""

import os
import random
import time
import unittest

import dismapi
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
CANCELLED = 0x800704C7
# Reached in time or not at all for being past the point of no return: the mount may succeed.
POINT_OF_NO_RETURN = "broker-attach-child"


class TracelessTestCase(ServiceTestCase):
    """Can tell whether everything is as it was."""

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
        wait_until(self.service.spare_workers, 20, "a spare worker")  # of which dismd has descriptors
        states = []

        def is_settled():
            states.append(self.state())
            return len(states) >= SAME_STATES and all(state == states[-1] for state in states[-SAME_STATES:])

        wait_until(is_settled, 20, "the service to come to rest")
        return states[-1]

    def check_nothing_left(self):
        try:
            wait_until(lambda: self.state() == self.before, 20, "everything to be as before")
        except AssertionError:
            self.assertEqual(self.state(), self.before)
        # And the service goes on.
        self.mount()
        self.assertTrue(processes.mounts_below(self.root))
        self.caller.unmount(self.root)


class CancelTest(TracelessTestCase):
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


class RandomTimesTest(TracelessTestCase):
    """An event that is signalled at a random moment of a mount: the mount is there wholly, or nothing is."""

    def setUp(self):
        super().setUp()
        library = os.path.join(os.path.dirname(os.environ["DISMD_BIN_DIR"]), "lib/libdismapi.so")
        self.program = dismapi.DismApi(library, {**os.environ, "DISMD_ADDRESS": self.service.address}, OWNER)
        self.addCleanup(self.program.close)
        self.program.call("DismInitialize", 0, None, None)
        seed = int(os.environ.get("DISMD_CANCEL_SEED", "1"))
        self.random = random.Random(seed)
        self.rounds = int(os.environ.get("DISMD_CANCELS", "100"))

    def begin(self, image, manual_reset, signalled=False, signal_at=None):
        self.program.prepare_event(manual_reset, signalled, signal_at)
        self.program.start("DismMountImage", image, self.root, 1, None, 0, 1, dismapi.EVENT, dismapi.PROGRESS, None)

    def unmount(self):
        answer = self.program.call("DismUnmountImage", self.root, 1, None, None, None)
        self.assertEqual(answer.hresult, 0, answer.message)

    def test_random_times(self):
        image = self.image("small.wim")
        times = []
        for _ in range(5):
            start = time.monotonic()
            self.begin(image, True)
            self.assertEqual(self.program.finish().hresult, 0)
            times.append(time.monotonic() - start)
            self.unmount()
        longest = 1.2 * sorted(times)[2]
        wait_until(lambda: not self.service.workers(), 10, "the workers to end")
        self.before = self.settled_state()
        outcomes = {0: 0, CANCELLED: 0}
        for number in range(self.rounds):
            manual_reset = number % 2 == 0
            # From another thread at any time of the call; each tenth from its callback, or before it.
            how = {8: {"signal_at": self.random.randrange(101)}, 9: {"signalled": True}}.get(number % 10, {})
            self.begin(image, manual_reset, **how)
            if not how:
                time.sleep(self.random.random() * longest)
                self.program.signal()
            answer = self.program.finish()
            self.assertIn(answer.hresult, outcomes, answer.message)
            outcomes[answer.hresult] += 1
            mounts = processes.mounts_below(self.root)
            self.assertEqual(mounts, [self.root] if answer.hresult == 0 else [], f"round {number}")
            if mounts:
                self.assertEqual(self.caller.run("cat", f"{self.root}/one.txt").stdout, b"one\n")
                self.unmount()
        self.assertTrue(all(outcomes.values()), outcomes)
        print(f"{outcomes[0]} mounts were made, {outcomes[CANCELLED]} cancelled")
        self.check_nothing_left()


if __name__ == "__main__":
    unittest.main()
