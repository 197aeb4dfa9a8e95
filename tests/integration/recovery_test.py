#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the processes under mounts that are at work in every kind of operation (rw/load.py): no program sees an
error, and nothing that was acknowledged is lost or done twice.

Environment: DISMD_KILL_SECONDS (how long workers are killed, default 15), DISMD_KILL_PAUSE (seconds between kills under
random edits, default 2), DISMD_EDIT_SEED (of these).
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
EDIT_PROGRAM = os.path.join(os.path.dirname(LOAD), "edit_program.py")
SEED = os.environ.get("DISMD_EDIT_SEED", "20261122")
TREE_PAUSE = float(os.environ.get("DISMD_KILL_PAUSE", "2"))
FRUITLESS = 3  # deaths in a row that the broker has patience with, and more
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
        """Each kind in a directory of its own; of several of one kind each in its own, too."""
        self.programs = [Program(kind, root if kind == "ReadOnly" else f"{root}/{kind}{number or ''}")
                         for kind, number in zip(kinds, self.numbers(list(kinds)))]
        wait_until(lambda: self.failures() or all(program.steps for program in self.programs), STEP_SECONDS, "all to work")

    @staticmethod
    def numbers(kinds):
        return [kinds[:at].count(kind) for at, kind in enumerate(kinds)]

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
        """Kills the worker, and each that replaces it after `pause()` seconds; returns how many.

        Several that have answered nothing would be the mount's end: a few in a row are not given the time."""
        kills, start, in_a_row = 0, time.monotonic(), 0
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
            in_a_row += 1
            if in_a_row >= FRUITLESS:
                self.await_progress()
                in_a_row = 0
        return kills

    def await_progress(self):
        """Something was answered."""
        if not hasattr(self.programs[0], "steps"):
            return
        before = sum(program.steps for program in self.programs)
        wait_until(lambda: self.failures() or sum(program.steps for program in self.programs) > before + len(self.programs),
                   STEP_SECONDS, "work to go on")

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

    def test_large_writes(self):
        """Often killed while one is received, also as the first thing a replacement does."""
        write(f"{self.seams}/worker-no-resend.on", b"")
        self.mount_rw(unix_data=True)
        self.begin(["LargeBlocks"] * 3, self.root)
        pause = random.Random(9)
        self.kill_for(SECONDS / 2, self.root, lambda: pause.choice((0, 0.005, 0.01, 0.02, 0.05)))
        self.end()
        self.unmount("DISCARD")
        self.assert_nothing_left(self.root)

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


class KilledWorkerTreeTest(KillTestCase):
    """In the manner of fsstress: processes that do anything to a tree, and a model of it (edit_model.py)."""

    PROCESSES = 4

    def start(self, number, seed):
        directory, model = f"{self.root}/part-{number}", os.path.join(self.directory, f"model-{number}")
        os.mkdir(model)
        process = subprocess.Popen([sys.executable, EDIT_PROGRAM, directory, model, str(seed + number)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        for end in (process.stdin, process.stdout, process.stderr):
            self.addCleanup(end.close)
        return process

    def order(self, processes_, what):
        for process in processes_:
            process.stdin.write(what + "\n")
            process.stdin.flush()

    def answers(self, processes_):
        """One line of each; what they wrote of an error, where one has ended."""
        lines = [process.stdout.readline().strip() for process in processes_]
        self.assertEqual([process.stderr.read() for process, line in zip(processes_, lines) if not line], [])
        return lines

    def test_random_edits(self):
        seed = random.randrange(1 << 31) if SEED == "random" else int(SEED)
        print(f"DISMD_EDIT_SEED={seed}", flush=True)
        wim = self.own_image("ntfs-lzx.wim")
        self.mount_rw(wim)
        # Each has some of the image's own files.
        parts = [f"{self.root}/part-{number}" for number in range(self.PROCESSES)]
        names = sorted(name for name in os.listdir(self.root) if name not in ("links", "Windows"))
        for part in parts:
            os.mkdir(part)
        for number, name in enumerate(names):
            os.rename(f"{self.root}/{name}", f"{parts[number % self.PROCESSES]}/{name}")
        editors = [self.start(number, seed) for number in range(self.PROCESSES)]
        self.programs = [Editor(process) for process in editors]  # for abort
        self.order(editors, "compare")
        self.assertEqual(self.answers(editors), ["same"] * self.PROCESSES)
        self.order(editors, f"run {SECONDS}")
        kills = self.kill_for(SECONDS, self.root, lambda: TREE_PAUSE)
        print(f"{sum(map(int, self.answers(editors)))} operations, {kills} kills")
        self.compare(editors)
        self.commit()
        self.compare(editors)
        self.unmount("COMMIT")
        subprocess.run(["wimverify", wim], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client.mount(wim, self.root)
        self.compare(editors)
        self.programs = []
        self.client.unmount(self.root)

    def compare(self, editors):
        self.order(editors, "compare")
        self.assertEqual(self.answers(editors), ["same"] * self.PROCESSES)


class Editor:
    """As a Program, for KillTestCase."""

    def __init__(self, process):
        self.process = process

    def failed(self):
        return self.process.poll() is not None

    kind = "editor"


if __name__ == "__main__":
    unittest.main()
