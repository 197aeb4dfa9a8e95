#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many callers at once: nothing grows, nothing is mixed up."""

import contextlib
import os
import random
import threading
import unittest

import processes
from dismd_client import Caller, RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until

UIDS = (4221, 4222, 4223, 4224)
CYCLES = 200
WARM_UP_CYCLES = 40
# Allocators and gRPC settle; a leak of a kilobyte a cycle would show.
MEMORY_SLACK_KIB = 4096


class CyclesTest(ServiceTestCase):
    def test_cycles_leave_no_trace(self):
        """200 mounts and unmounts in parallel from 4 uids: no descriptor, process, mount or memory more than before."""
        callers = [Caller(self.service.address, uid) for uid in UIDS]
        for caller in callers:
            self.addCleanup(caller.close)
        roots = [self.mount_point(f"mnt-{caller.uid}", uid=caller.uid) for caller in callers]
        image = self.image("small.wim")

        def cycles(count):
            failures = []

            def work(caller, root):
                try:
                    for _ in range(count // len(callers)):
                        caller.mount(image, root)
                        result = caller.run("cat", root + "/one.txt")
                        if result.stdout != b"one\n":
                            raise AssertionError(result)
                        caller.unmount(root)
                        if os.listdir(root):
                            raise AssertionError(f"{root} is not empty")
                except Exception as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=pair) for pair in zip(callers, roots)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(failures, [])
            wait_until(lambda: not self.service.workers(), 20, "the workers to end")

        cycles(WARM_UP_CYCLES)
        before = self.footprint()
        cycles(CYCLES)
        # Some of it is given back a little after the call that it was for; what has leaked stays.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.grown(before, self.footprint()) == [], 20, "everything to be given back")
        after = self.footprint()
        self.assertEqual(self.grown(before, after), [])
        self.assertEqual(after["processes"], before["processes"])
        self.assertEqual(after["mounts"], [])
        self.assertEqual(after["state"], before["state"])
        if "sanitize" in os.environ.get("DISMD_BUILD_KIND", ""):
            return  # a sanitizer keeps freed memory for a while: growth proves nothing
        for pid, kib in before["memory"].items():
            self.assertLess(after["memory"][pid], kib + MEMORY_SLACK_KIB, processes.name(pid))

    @staticmethod
    def grown(before, after):
        """Processes that were not there, or have more descriptors than before: (pid, name, before, after)."""
        return [(pid, processes.name(pid), before["descriptors"].get(pid, 0), count)
                for pid, count in after["descriptors"].items() if count > before["descriptors"].get(pid, 0)]

    def footprint(self):
        wait_until(self.service.spare_workers, 20, "a spare worker")  # of which dismd has descriptors
        pids = self.service.pids()
        return {"processes": pids, "mounts": processes.mounts_below(self.directory),
                "descriptors": {pid: processes.descriptor_count(pid) for pid in pids},
                "memory": {pid: processes.status_kib(pid, "VmRSS") for pid in pids},
                # But for the records of what has ended, which are kept for some minutes.
                "state": sum(not name.startswith("operation-") for _, _, files in os.walk(self.service.state)
                             for name in files)}

    def test_many_mounts_at_once_and_the_limit(self):
        """A uid gets as many mounts as the service says, then TOO_MANY_MOUNTS; another uid is not concerned."""
        limit = int(self.client.call("GetServerInfo")["limits"]["mounts_per_uid"])
        with Caller(self.service.address, UIDS[0]) as caller, Caller(self.service.address, UIDS[1]) as other:
            image = self.image("small.wim")
            for i in range(limit):
                caller.mount(image, self.mount_point(f"many-{i}", uid=caller.uid))
            with self.assertRaises(RpcFailure) as caught:
                caller.mount(image, self.mount_point("one-more", uid=caller.uid))
            self.assertEqual(caught.exception.reason, "TOO_MANY_MOUNTS")
            self.assertIn(str(limit), caught.exception.message)
            other.mount(image, self.mount_point("other", uid=other.uid))
            self.assertEqual(len(caller.mounts()), limit)
            for mount in caller.mounts():
                caller.unmount(mount["mount_path"])


class IdentityTest(ServiceTestCase):
    """The identity is the connection's: processes of several uids come, are killed and come again, and never is one
    taken for another."""

    UIDS = (4231, 4232, 4233, 4234, 4235)
    CALLERS = 10
    ROUNDS = 120

    def test_identities_never_mix(self):
        failures = []
        lock = threading.Lock()

        def work(number):
            uid = self.UIDS[number % len(self.UIDS)]
            chance = random.Random(number)
            root = self.mount_point(f"mnt-{number}", uid=uid)
            caller = Caller(self.service.address, uid)
            try:
                for round_number in range(self.ROUNDS):
                    answer = caller.call("GetServerInfo")
                    if int(answer.get("caller_uid", 0)) != uid:
                        raise AssertionError(f"{uid} was taken for {answer}")
                    owners = {int(mount.get("owner_uid", 0)) for mount in caller.mounts()}
                    if owners - {uid}:
                        raise AssertionError(f"{uid} sees mounts of {owners}")
                    if round_number % 20 == number % 20:
                        caller.mount(self.image("small.wim"), root)
                        caller.unmount(root)
                    if chance.random() < 0.05:
                        caller.process.kill()
                        caller.close()
                        caller = Caller(self.service.address, uid)
            except Exception as error:
                with lock:
                    failures.append(f"caller {number}, uid {uid}: {error!r}")
            finally:
                caller.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(self.CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


if __name__ == "__main__":
    unittest.main()
