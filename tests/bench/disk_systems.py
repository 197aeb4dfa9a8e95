# SPDX-License-Identifier: GPL-3.0-or-later
"""What disks are mounted with today: a program that shows the disk in a VHD or VHDX as a file, a loop device on its
NTFS partition, and ntfs-3g. To mount and unmount, as the classes of systems.py."""

import json
import os
import subprocess
import tempfile

from systems import processes, run


def ntfs_offset(raw):
    """Where the largest partition of a raw disk begins."""
    table = json.loads(subprocess.run(["sfdisk", "--json", raw], check=True, stdout=subprocess.PIPE).stdout)
    return max(table["partitiontable"]["partitions"], key=lambda partition: partition["size"])["start"] * 512


def process_of(program, argument):
    """The pid of a process with this name and this among its arguments."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        arguments = processes.read(f"/proc/{pid}/cmdline").split("\0")
        if os.path.basename(arguments[0]) == program and argument in arguments:
            return int(pid)
    raise RuntimeError(f"no {program} serves {argument}")


class LoopedDisk:
    """Shows a disk, loops its partition, and mounts that."""

    name = ""

    def __init__(self, offset):
        self.offset = offset
        self.mounted = {}  # by directory: what is to be undone, in order
        self.servers = {}

    def show(self, image, read_only, undo):
        """Path of the disk as a file, and the process that shows it. What is to be undone is appended to `undo`."""
        raise NotImplementedError

    def mount(self, image, directory, read_only=True):
        undo = self.mounted[directory] = []
        disk, self.servers[directory] = self.show(image, read_only, undo)
        loop = subprocess.run(["losetup", "--find", "--show", *["--read-only"] * read_only, f"--offset={self.offset}",
                               disk], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        undo.append(lambda: run("losetup", "-d", loop))
        run("ntfs-3g", "-o", "ro" if read_only else "big_writes", loop, directory)
        undo.append(lambda: run("umount", directory))

    def unmount(self, directory, commit=False):
        pids = self.pids(directory)
        undo = self.mounted.pop(directory)
        while undo:
            undo.pop()()
        for pid in pids:
            processes.wait_until(lambda: not processes.alive(pid), 60, f"process {pid} to end")

    def pids(self, directory):
        return [self.servers[directory], process_of("ntfs-3g", directory)]

    def close(self):
        for undo in self.mounted.values():
            while undo:
                undo.pop()()


class Vhdimount(LoopedDisk):
    """libvhdi's. It only reads."""

    name = "vhdimount"

    def show(self, image, read_only, undo):
        point = tempfile.mkdtemp(prefix="vhdimount-")
        undo.append(lambda: os.rmdir(point))
        run("vhdimount", image, point)
        undo.append(lambda: run("umount", point))
        return os.path.join(point, "vhdi1"), process_of("vhdimount", point)


class StorageDaemon(LoopedDisk):
    """QEMU's block layer, exported through FUSE."""

    name = "qemu"

    def show(self, image, read_only, undo):
        point = tempfile.NamedTemporaryFile(prefix="qemu-", delete=False).name
        undo.append(lambda: os.unlink(point))
        driver = "vpc" if image.endswith(".vhd") else "vhdx"
        read_only_text, writable = ("on", "off") if read_only else ("off", "on")
        server = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=file,filename={image},read-only={read_only_text}",
             "--blockdev", f"driver={driver},node-name=disk,file=file,read-only={read_only_text}", "--export",
             f"type=fuse,id=export,node-name=disk,mountpoint={point},writable={writable}"], stdin=subprocess.DEVNULL)
        undo.append(lambda: (server.terminate(), server.wait()))
        processes.wait_until(lambda: os.path.ismount(point) or server.poll() is not None, 60, "qemu-storage-daemon")
        return point, server.pid
