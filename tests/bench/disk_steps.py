# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured on virtual disks: the steps, and what dismd is to reach. As steps.py, for disk_bench.py."""

import dataclasses
import json
import os
import subprocess
from typing import Callable, Optional

import steps

IMAGES = ("disk-dynamic.vhdx", "disk-dynamic.vhd")
CREATES = 2000
WRITTEN_BYTES = 200 << 20


def tar_all(mount, _files, _run):
    steps.tar(mount, ["."])


def random_reads(block_size, total):
    """Reads at random places of the largest file, past the page cache of the mount: the seconds that fio says it took."""

    def action(mount, files, run):
        result = subprocess.run(
            ["fio", "--name=read", f"--filename={os.path.join(mount, files.biggest)}", "--rw=randread",
             "--direct=1", "--readonly", "--ioengine=psync", f"--bs={block_size}", f"--io_size={total}", "--norandommap",
             f"--randseed={run + 1}", "--output-format=json"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        (job,) = json.loads(result.stdout)["jobs"]
        return job["read"]["runtime"] / 1000

    return action


def create(mount, _files, run):
    folder = os.path.join(mount, f"created-{run}")
    os.mkdir(folder)
    for number in range(CREATES):
        with open(os.path.join(folder, f"file-{number:04}"), "wb") as file:
            file.write(b"%08d\n" % number * 10)


def write_and_sync(mount, _files, run):
    block = os.urandom(1 << 20)
    with open(os.path.join(mount, f"written-{run}"), "wb", buffering=0) as file:
        for _ in range(WRITTEN_BYTES >> 20):
            file.write(block)
        os.fsync(file.fileno())


@dataclasses.dataclass
class Step:
    label: str
    action: Callable  # of (mount, Files, number of the run); may give the seconds itself
    cold: bool
    # dismd's time over the peer's is to be at most this; None: no target.
    to_vhdimount: Optional[float]
    to_qemu: Optional[float]
    # The same of the CPU time of the processes that serve the mount.
    cpu_to_vhdimount: Optional[float] = None
    cpu_to_qemu: Optional[float] = None


@dataclasses.dataclass
class Sequence:
    name: str  # for --only
    steps: tuple
    with_mount: bool = False  # the time of the mount itself counts
    read_write: bool = False  # on a copy of the image, without vhdimount, which only reads


SEQUENCES = (
    Sequence("mount", (Step("mount to first ls, image in page cache", steps.list_root, False, 0.5, 0.5),), with_mount=True),
    Sequence("find", (Step("find with stat of all, cold", steps.find_all, True, 1 / 3, 1 / 3),
                      Step("find with stat of all, warm", steps.find_all, False, 1 / 2, 1 / 1.2))),
    Sequence("tar", (Step("tar of everything, cold", tar_all, True, 1 / 4, 1 / 3, 0.4, 0.6),
                     Step("tar of everything, warm", tar_all, False, 1 / 2, 1 / 2))),
    Sequence("fio", (Step("random reads of 4 KiB, O_DIRECT", random_reads("4k", "128m"), True, 1 / 2, 1 / 2),
                     Step("random reads of 128 KiB, O_DIRECT", random_reads("128k", "2g"), False, 1 / 1.3, 1 / 1.5))),
    Sequence("create", (Step(f"make {CREATES:,} small files", create, False, None, 1 / 3),), read_write=True),
    Sequence("write", (Step("write 200 MiB, with fsync", write_and_sync, False, None, 1 / 3),), read_write=True),
)
