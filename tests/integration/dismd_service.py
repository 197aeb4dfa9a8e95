# SPDX-License-Identifier: GPL-3.0-or-later
"""A private dismd for a test in Python, as service.h is for C++: started, waited for, stopped, looked after.

  class MyTest(ServiceTestCase):
      def test_x(self):
          directory = self.mount_point()
          self.client.mount(self.image("small.wim"), directory)

What the service leaves behind (mount, process, socket), and a process of it that crashed, is a failure of the test.
Environment: DISMD_BIN_DIR (where dismd is), DISMD_TEST_IMAGES (made by images.py), DISMD_FIXTURES.
"""

import atexit
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import processes
from dismd_client import Caller, Client, RpcFailure, grpc, stubs
from processes import wait_until

START_SECONDS = 60
STOP_SECONDS = 60
END_SECONDS = 10  # for the service's other processes, after it
# Of a failed test: what is seen of its output may be the end only.
LOG_LINES = 30
LOG_LINE_LENGTH = 400

# By its own doing: illegal instruction, abort, bus, arithmetic, segmentation fault, forbidden system call.
CRASH = r".* killed by signal (?:4|6|7|8|11|31) .*"


class Service:
    """One dismd with its own socket and state directory below `directory`."""

    def __init__(self, directory, uid=0, gid=0, environment=None, arguments=()):
        self.bin = os.environ["DISMD_BIN_DIR"]
        self.directory = directory
        self.socket = os.path.join(directory, "dismd.sock")
        self.address = f"unix:{self.socket}"
        self.state = os.path.join(directory, "state")
        self.log_path = os.path.join(directory, "dismd.log")
        self.uid, self.gid = uid, gid
        self.arguments = list(arguments)
        self.environment = environment or {}
        self.process = None

    def start(self):
        processes.become_subreaper()
        os.makedirs(self.state, exist_ok=True)
        os.chown(self.state, self.uid, self.gid)
        options = {}
        if self.uid:
            options = {"user": self.uid, "group": self.gid, "extra_groups": []}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(self.bin, "dismd"), "--socket", self.socket, "--state-dir", self.state, *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, **self.environment}, **options)
        wait_until(self.ready, START_SECONDS, "the service to serve")
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"dismd ended with {self.process.returncode}\n{self.end_of_log()}")
        if not os.path.exists(self.socket):
            return False
        if self.uid:
            return self._serves_its_user()
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            health = stubs().health_rpc.HealthStub(channel)
            try:
                answer = health.Check(stubs().health.HealthCheckRequest(), timeout=5)
                return answer.status == stubs().health.HealthCheckResponse.SERVING
            except grpc.RpcError:
                return False

    def _serves_its_user(self):
        """Rootless: nobody else is served, not even root."""
        with Caller(self.address, self.uid, self.gid) as caller:
            try:
                caller.call("GetServerInfo")
                return True
            except RpcFailure:
                return False

    @property
    def pid(self):
        return self.process.pid

    def pids(self):
        """Without a worker that waits to be needed: any number of mounts later it is another process."""
        return [self.pid, *(pid for pid in processes.descendants(self.pid) if not self._is_spare(pid))]

    def workers(self):
        """Of mounts and images: without the one that waits to become one of these."""
        return [pid for pid in self._all_workers() if not self._is_spare(pid)]

    def spare_workers(self):
        return list(filter(self._is_spare, self._all_workers()))

    def _all_workers(self):
        return [pid for pid in processes.descendants(self.pid) if processes.name(pid).startswith("dismd-worker")]

    @staticmethod
    def _is_spare(pid):
        arguments = processes.read(f"/proc/{pid}/cmdline")
        # None, of one that lives: it is just being started, and no mount waits for that one.
        return "\0--spare" in arguments or (not arguments and processes.alive(pid))

    def front(self):
        return next(pid for pid in processes.descendants(self.pid) if processes.name(pid).startswith("dismd-front"))

    def log(self):
        return processes.read(self.log_path)

    def end_of_log(self):
        return "\n".join(line[:LOG_LINE_LENGTH] for line in self.log().splitlines()[-LOG_LINES:])

    def stop(self, number=signal.SIGTERM):
        """Ends the service. Returns what is wrong, a list of sentences."""
        if self.process is None:
            return []
        wrong = []
        below = processes.descendants(self.pid)
        self.process.send_signal(number)
        try:
            status = self.process.wait(STOP_SECONDS)
            if status != 0:
                wrong.append(f"dismd ended with {status}")
        except subprocess.TimeoutExpired:
            wrong.append(f"dismd did not end within {STOP_SECONDS} s of signal {number}")
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(map(processes.alive, below)), END_SECONDS, "the service's processes to end")
        for pid in below:
            if processes.alive(pid):
                wrong.append(f"left behind: process {pid} {processes.name(pid)}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)  # ours, if its parent has ended
        for path in processes.mounts_below(os.path.dirname(self.directory)):
            wrong.append(f"left behind: mount {path}")
            subprocess.run(["umount", "-l", path], check=False)
        if os.path.exists(self.socket):
            wrong.append("left behind: the socket")
        for crash in re.findall(CRASH, self.log()):
            wrong.append(f"the log tells of a crash: {crash}")
        for text in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "LeakSanitizer"):
            if text in self.log():
                wrong.append(f"the log tells of {text}")
        self.process = None
        return wrong


class ServiceTestCase(unittest.TestCase):
    """Each test with a private service, a client of root's, and a directory that goes with it."""

    service_options = {}
    maxDiff = None

    def setUp(self):
        if os.geteuid() != 0:
            self.fail("this test makes mounts and changes uids: run it as root")
        if not os.path.exists("/dev/fuse"):
            self.fail("/dev/fuse is missing: load the kernel's fuse module, or give the device to this container")
        self.directory = tempfile.mkdtemp(prefix="mount-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        os.chmod(self.directory, 0o755)
        self.service = self.new_service()
        self.addCleanup(self._stop_service)
        self.service.start()
        self.client = Client(self.service.address)
        self.addCleanup(self.client.close)

    def new_service(self):
        directory = os.path.join(self.directory, "service")
        os.mkdir(directory)
        os.chmod(directory, 0o755)
        return Service(directory, **self.service_options)

    def _stop_service(self):
        wrong = self.service.stop()
        if wrong or self._failed():
            # At the end of the program: after what unittest says of the failure.
            atexit.register(print, f"--- end of the log of {self.id()}'s service\n{self.service.end_of_log()}\n---",
                            file=sys.stderr)
        self.assertEqual(wrong, [])

    def _failed(self):
        result = self._outcome.result
        failed = getattr(result, "failures", []) + getattr(result, "errors", [])
        return any(getattr(test, "test_case", test) is self for test, _ in failed)  # its subtests too

    def mount_point(self, name="mnt", uid=0, gid=None):
        path = os.path.join(self.directory, name)
        os.mkdir(path)
        os.chown(path, uid, uid if gid is None else gid)
        return path

    def image(self, name):
        """An image made by images.py, or a fixture ("wimlib/cyclic.wim")."""
        base = os.environ["DISMD_FIXTURES"] if "/" in name else os.environ["DISMD_TEST_IMAGES"]
        return os.path.join(base, name)

    def own_image(self, name, uid=0):
        """A copy of image(name) that the test may change."""
        copy = os.path.join(self.directory, os.path.basename(name))
        shutil.copyfile(self.image(name), copy)
        os.chown(copy, uid, uid)
        return copy

    def assert_nothing_left(self, directory=None):
        """No mount below the test's directory, no worker, and the mount point empty."""
        self.assertEqual(processes.mounts_below(self.directory), [])
        wait_until(lambda: not self.service.workers(), 10, "the workers to end")
        if directory:
            self.assertEqual(os.listdir(directory), [])
