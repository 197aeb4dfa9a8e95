#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the processes under mounts that are at work in every kind of operation (rw/load.py): no program sees an
error, and nothing that was acknowledged is lost or done twice.

Environment: DISMD_KILL_SECONDS (how long workers are killed, default 15).
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import unittest

import processes
from processes import wait_until
from readwrite_test import SeamTestCase, write

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "rw"))
import load

SECONDS = float(os.environ.get("DISMD_KILL_SECONDS", "15"))
KILLS_A_MINUTE = 50  # at least
LOAD = load.__file__
STEP_SECONDS = 60  # within which each program gets on, whatever is killed


class Program:
    """A running load.py."""

    def __init__(self, kind, directory):
        self.kind, self.steps = kind, 0
        self.process = subprocess.Popen([sys.executable, LOAD, kind, directory], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._count, daemon=True)
        self.reader.start()

    def _count(self):
        while data := self.process.stdout.read1(4096):
            self.steps += len(data)

    def failed(self):
        return self.process.poll() not in (None, 0)

    def finish(self):
        """Lets it look at everything and end; returns what is wrong."""
        self.process.stdin.close()
        try:
            self.process.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return f"{self.kind} hangs after {self.steps} steps"
        errors = self.process.stderr.read().decode(errors="replace")
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return f"{self.kind} after {self.steps} steps: {errors}" if self.process.returncode != 0 else None


class KillTestCase(SeamTestCase):
    def setUp(self):
        super().setUp()
        self.programs = []
        self.addCleanup(self.abort)

    def abort(self):
        """What hangs would keep the service from stopping."""
        if not self.programs:
            return
        for path in processes.mounts_below(self.directory):
            subprocess.run(["umount", "-f", "-l", path], check=False)
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                program.process.kill()

    def begin(self, kinds, root):
        self.programs = [Program(kind, root if kind == "ReadOnly" else f"{root}/{kind}") for kind in kinds]
        wait_until(lambda: self.failures() or all(program.steps for program in self.programs), STEP_SECONDS, "all to work")

    def failures(self):
        return [program.kind for program in self.programs if program.failed()]

    def end(self):
        wrong = [message for program in self.programs if (message := program.finish())]
        self.assertEqual(wrong, [])
        print(", ".join(f"{program.kind} {program.steps}" for program in self.programs))
        self.programs = []

    def worker(self, root):
        return self.client.get_mount(root).get("worker_pid", 0)

    def kill_for(self, seconds, root, pause):
        """Kills the worker, and each that replaces it after `pause()` seconds; returns how many."""
        kills, start = 0, time.monotonic()
        while time.monotonic() < start + seconds and not self.failures():
            worker = self.worker(root)
            if worker:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    kills += 1
            try:
                wait_until(lambda: self.worker(root) not in (0, worker), STEP_SECONDS, "a replacement")
            except AssertionError:
                raise AssertionError(f"no replacement for {worker}: {processes.threads(worker)}") from None
            time.sleep(pause())
        return kills

    def assert_all_go_on(self):
        before = [program.steps for program in self.programs]
        wait_until(lambda: self.failures() or all(now.steps > then for now, then in zip(self.programs, before)),
                   STEP_SECONDS, "all to go on")


class KilledWorkerTest(KillTestCase):
    def exercise(self, kinds):
        self.mount_rw(unix_data=True)
        self.begin(kinds, self.root)
        # Mostly while it works; now and then before it does.
        pause = random.Random(7)
        kills = self.kill_for(SECONDS, self.root, lambda: pause.choice((0, 0.01, 0.1, 0.5, 1)))
        if not self.failures():
            self.assert_all_go_on()
        self.end()
        self.assertGreaterEqual(kills, SECONDS * KILLS_A_MINUTE / 60)
        print(f"{kills} kills")
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.unmount("COMMIT")
        self.assert_nothing_left(self.root)
        target = self.applied()
        self.assertEqual(sorted(os.listdir(target))[:len(kinds)], sorted(kinds))

    def test_every_operation(self):
        self.exercise(load.KINDS)

    def test_every_operation_without_resend(self):
        """The kernels before 6.9, emulated: what was under way is known from the in-flight table alone."""
        write(f"{self.seams}/worker-no-resend.on", b"")
        self.exercise(load.KINDS)

    def test_readers_of_a_read_only_mount(self):
        """Small files are pushed into the page cache ahead of reading: a notification may wait for another's READ."""
        image = self.image("ntfs-xpress.wim")
        self.client.mount(image, self.root)
        self.begin(["ReadOnly"] * 6, self.root)
        pause = random.Random(8)
        self.kill_for(SECONDS, self.root, lambda: pause.choice((0.05, 0.2, 0.5)))
        if not self.failures():
            self.assert_all_go_on()
        self.end()
        self.client.unmount(self.root)
        self.assert_nothing_left(self.root)


if __name__ == "__main__":
    unittest.main()
