# SPDX-License-Identifier: GPL-3.0-or-later
"""The three that are compared, each as something that mounts and unmounts, with the processes that serve the mount."""

import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import processes  # noqa: E402
from dismd_client import Client  # noqa: E402
from dismd_service import Service  # noqa: E402


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Dismd:
    """This service, through dismctl, as a user would."""

    name = "dismd"

    def __init__(self, scratch):
        directory = os.path.join(scratch, "service")
        os.mkdir(directory)
        os.chmod(directory, 0o755)
        self.service = Service(directory)
        self.service.start()
        self.client = Client(self.service.address)
        self.dismctl = os.path.join(self.service.bin, "dismctl")
        self.environment = {**os.environ, "DISMD_ADDRESS": self.service.address}

    def mount(self, image, directory, read_only=True):
        subprocess.run([self.dismctl, "mount", image, directory, "--index", "1", *["--read-only"] * read_only],
                       check=True, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def unmount(self, directory, commit=False):
        subprocess.run([self.dismctl, "unmount", directory, "--commit" if commit else "--discard"], check=True,
                       env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def pids(self, directory):
        """The mount's worker, which does all the work of serving it."""
        return [self.client.get_mount(directory)["worker_pid"]]

    def all_pids(self):
        return self.service.pids()

    def cache_bytes(self, directory):
        return int(self.client.get_mount(directory).get("stats", {}).get("cache_bytes", 0))

    def close(self):
        self.client.close()
        wrong = self.service.stop()
        if wrong:
            print("dismd:", *wrong, sep="\n  ", file=sys.stderr)


class Wimmount:
    """wimlib's own FUSE mount: a process for each mount."""

    name = "wimmount"

    def __init__(self, _scratch):
        self.serving = {}

    def mount(self, image, directory, read_only=True):
        before = set(self._processes())
        run("wimlib-imagex", "mount" if read_only else "mountrw", image, "1", directory)
        self.serving[directory] = [pid for pid in self._processes() if pid not in before]

    def unmount(self, directory, commit=False):
        run("wimlib-imagex", "unmount", directory, *["--commit"] * commit)
        for pid in self.serving.pop(directory):
            processes.wait_until(lambda: not processes.alive(pid), 60, "wimmount's process to end")

    def pids(self, directory):
        return self.serving[directory]

    @staticmethod
    def _processes():
        return [int(pid) for pid in os.listdir("/proc")
                if pid.isdigit() and processes.read(f"/proc/{pid}/cmdline").startswith("wimlib-imagex\0mount")]

    def close(self):
        for directory in list(self.serving):
            self.unmount(directory)


class Squashfs:
    """The kernel's own read-only file system, on a loop device. `image` is that of the WIM: the tree is the same."""

    name = "squashfs"

    def __init__(self, image):
        self.image = image
        self.mounted = set()

    @staticmethod
    def make(tree, image):
        if not os.path.exists(image):
            print("making the squashfs image ...", file=sys.stderr)
            run("mksquashfs", tree, image + ".part", "-comp", "zstd", "-b", "32K", "-noappend", "-quiet", "-no-progress")
            os.rename(image + ".part", image)

    def mount(self, _image, directory):
        run("mount", "-t", "squashfs", "-o", "loop,ro", self.image, directory)
        self.mounted.add(directory)

    def unmount(self, directory):
        run("umount", directory)
        self.mounted.discard(directory)

    def pids(self, _directory):
        return []

    def close(self):
        for directory in list(self.mounted):
            self.unmount(directory)


class Ext4:
    """The file system of the scratch directory itself: what a write costs without any service."""

    name = "ext4"

    def __init__(self, _scratch):
        pass

    def mount(self, _image, _directory, read_only=True):
        pass

    def unmount(self, directory, commit=False):
        shutil.rmtree(directory)
        os.mkdir(directory)

    def pids(self, _directory):
        return []

    def close(self):
        pass


class FuseFloor:
    """A FUSE file system that does nothing: what no other can be faster than."""

    name = "floor"

    def __init__(self, scratch):
        here = os.path.dirname(os.path.abspath(__file__))
        self.program = os.path.join(scratch, "fuse_floor")
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, stdout=subprocess.PIPE, text=True)
        run("g++", "-std=c++20", "-O2", os.path.join(here, "fuse_floor.cc"), "-o", self.program, *flags.stdout.split())
        self.serving = None

    def mount(self, directory):
        self.serving = subprocess.Popen([self.program, directory], stdin=subprocess.DEVNULL)
        processes.wait_until(lambda: os.path.ismount(directory), 20, "the empty file system")

    def unmount(self, directory):
        run("umount", directory)
        self.serving.wait()


class Usage:
    """CPU seconds and peak memory of processes over a `with` block."""

    def __init__(self, pids):
        self.pids = pids
        self.cpu = self.peak_mib = None

    def __enter__(self):
        for pid in self.pids:
            processes.reset_peak(pid)
        self.before = sum(map(processes.cpu_seconds, self.pids))
        self.started = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.started
        if self.pids:
            self.cpu = sum(map(processes.cpu_seconds, self.pids)) - self.before
            self.peak_mib = sum(processes.status_kib(pid, "VmHWM") for pid in self.pids) / 1024
