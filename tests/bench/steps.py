# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: the steps, the files they read, and what dismd is to reach.

A Sequence is done on one fresh mount, each of its Steps timed in turn.
"""

import dataclasses
import os
import random
import shutil
import subprocess
import threading
from typing import Callable, Optional

SMALL_FILE_BYTES = 64 << 10
HEAD_BYTES = 4 << 20
READERS = 4
COPIED_LIBRARIES = 60
SMALL_FILES = 1000
LARGE_BYTES = 100 << 20
MANY_FILES = 20_000
MANY_FOLDERS = 20


class Files:
    """Which files of the tree the steps read."""

    def __init__(self, tree):
        self.tree = tree
        system = os.path.join(tree, "Windows/System32")
        self.large = sorted(os.path.join("Windows/System32", name) for name in os.listdir(system) if name.endswith(".dll"))
        self.large_bytes = sum(os.path.getsize(os.path.join(tree, name)) for name in self.large)
        self.biggest = max(self.large, key=lambda name: os.path.getsize(os.path.join(tree, name)))
        self.small_directory, self.small_count = self._fullest_folder()
        self.small = sorted(self._small_files())
        self.names = 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(tree))

    def _fullest_folder(self):
        """The folder at depth three or so with the most small files: what a component store is made of."""
        best = ("", 0)
        for top, folders, _ in os.walk(self.tree):
            depth = os.path.relpath(top, self.tree).count(os.sep)
            if depth == 2:
                folders.clear()
                count = sum(1 for where, _, files in os.walk(top) for name in files
                            if os.path.getsize(os.path.join(where, name)) <= SMALL_FILE_BYTES)
                if count > best[1]:
                    best = (os.path.relpath(top, self.tree), count)
        return best

    def _small_files(self):
        for top, _, files in os.walk(self.tree):
            for name in files:
                path = os.path.join(top, name)
                if 0 < os.path.getsize(path) <= SMALL_FILE_BYTES:
                    yield os.path.relpath(path, self.tree)


def shell(command, *arguments, stdin=None):
    subprocess.run(["bash", "-c", f"set -o pipefail; {command}", "bash", *arguments], check=True, input=stdin,
                   stdin=subprocess.DEVNULL if stdin is None else None, stdout=subprocess.DEVNULL)


# Each action takes the mount, the Files and the number of the run.


def list_root(mount, _files, _run):
    if not os.listdir(mount):
        raise RuntimeError(f"{mount} is empty")


def find_all(mount, files, _run):
    lines = int(subprocess.run(["bash", "-c", 'set -o pipefail; find "$1" -printf "%s %T@\\n" | wc -l', "bash", mount],
                               check=True, stdout=subprocess.PIPE).stdout)
    if lines != files.names:
        raise RuntimeError(f"find saw {lines} names, not {files.names}")


def tar(mount, names):
    # Through a pipe: GNU tar reads nothing when it sees that it writes to /dev/null.
    shell('tar -C "$1" -cf - --files-from - | cat >/dev/null', mount, stdin="\n".join(names).encode())


def tar_large(mount, files, _run):
    tar(mount, files.large)


def tar_small(mount, files, _run):
    tar(mount, [files.small_directory])


def random_small(mount, files, run):
    for name in random.Random(run).sample(files.small, 30):
        with open(os.path.join(mount, name), "rb") as file:
            file.read()


def head_of_large(mount, files, _run):
    with open(os.path.join(mount, files.biggest), "rb") as file:
        if len(file.read(HEAD_BYTES)) != HEAD_BYTES:
            raise RuntimeError("read less than asked")


def four_readers(mount, files, _run):
    failures = []

    def read(names):
        try:
            tar(mount, names)
        except Exception as error:  # reported by the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=read, args=(files.large[i::READERS],)) for i in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# Of read-write mounts.


def edit(mount, files, run):
    """What an image builder does: libraries copied, small files made, one large one."""
    folder = os.path.join(mount, f"bench-{run}")
    os.mkdir(folder)
    for number, name in enumerate(files.large[:COPIED_LIBRARIES]):
        shutil.copyfile(os.path.join(files.tree, name), os.path.join(folder, f"copy-{number:02}.dll"))
    for number in range(SMALL_FILES):
        with open(os.path.join(folder, f"small-{number:04}.txt"), "wb") as file:
            file.write(b"%08d\n" % number * 100)
    write_file(os.path.join(folder, "large.bin"), LARGE_BYTES)


def write_file(path, size, sync=False):
    block = random.Random(size).randbytes(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for number in range(size >> 20):
            # No two blocks alike, and half of each compressible.
            file.write(number.to_bytes(8, "little") + block[8:1 << 19] + bytes(1 << 19))
        if sync:
            os.fsync(file.fileno())


def create_many(mount, _files, _run):
    for folder in range(MANY_FOLDERS):
        path = os.path.join(mount, "many", str(folder))
        os.makedirs(path)
        for number in range(MANY_FILES // MANY_FOLDERS):
            with open(os.path.join(path, f"file-{number:04}"), "wb") as file:
                file.write(b"%08d\n" % number * 10)


def remove_many(mount, _files, _run):
    shell('rm -r "$1"', os.path.join(mount, "many"))


def write_into_large(mount, _files, _run):
    descriptor = os.open(os.path.join(mount, "one-gib.bin"), os.O_WRONLY)
    os.pwrite(descriptor, b"4" * 4096, (512 << 20) + 1000)
    os.close(descriptor)


def write_new(mount, _files, run):
    write_file(os.path.join(mount, f"new-{run}.bin"), 1 << 30)


def write_new_and_sync(mount, _files, run):
    write_file(os.path.join(mount, f"synced-{run}.bin"), 1 << 30, sync=True)


def check_committed(image, run):
    """The edits are in the file, as wimlib reads it."""
    listing = subprocess.run(["wimdir", image, "1", f"--path=/bench-{run}"], check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL).stdout
    if listing.count(b"\n") != 1 + COPIED_LIBRARIES + SMALL_FILES + 1:
        raise RuntimeError(f"{image} has {listing.count(10)} entries of the edits")


@dataclasses.dataclass
class Step:
    label: str
    action: Callable
    cold: bool
    # dismd's time over the peer's is to be at most this; None: no target.
    to_wimmount: Optional[float] = None
    to_squashfs: Optional[float] = None
    # At most so many seconds, whatever a peer takes.
    seconds: Optional[float] = None


@dataclasses.dataclass
class Sequence:
    name: str  # for --only
    images: tuple
    steps: tuple
    # The time of the mount itself counts: the first step begins before it.
    with_mount: bool = False
    squashfs: bool = True
    # Read-write: on a copy of the image; the last step's action is None where it is the unmount that commits.
    ext4: bool = False
    floor: bool = False  # is done on an empty FUSE file system too


WIM = ("win-xpress.wim", "win-lzx.wim")
ESD = ("win-solid.esd",)

SEQUENCES = (
    Sequence("mount", WIM + ESD, (Step("mount to first ls, image in page cache", list_root, False, 0.4),),
             with_mount=True, squashfs=False),
    Sequence("find", WIM, (Step("find with stat of all, cold", find_all, True, 1 / 15, 0.9),
                           Step("find with stat of all, warm", find_all, False, 1 / 60, 0.9))),
    Sequence("large", WIM, (Step("tar of the large files, cold", tar_large, True, 1 / 1.5, 0.7),
                            Step("tar of the large files, warm", tar_large, False, 1 / 1.7, 0.8))),
    Sequence("small", WIM, (Step("tar of many small files, cold", tar_small, True, 1 / 10, 0.8),)),
    Sequence("random", ESD, (Step("30 random small files, cold", random_small, True, 1 / 4.5),), squashfs=False),
    Sequence("head", ESD, (Step("first 4 MiB of a large file, cold", head_of_large, True, 1 / 30),), squashfs=False),
    Sequence("readers", WIM, (Step("four readers at once, large files, cold", four_readers, True, 1 / 2.5),)),
)

# On read-write mounts. The third system is not squashfs but the file system below (`to_squashfs` is to that).
ONE_GIB = "one-gib.wim"  # made by bench.py
READ_WRITE = (
    Sequence("edits", ("win-lzx.wim",),
             (Step("copy 60 libraries, make 1,000 small files, write 100 MiB", edit, False, 1 / 5),
              Step("commit of these, at unmount", None, False, 0.8))),
    Sequence("many", ("win-lzx.wim",), (Step("make 20,000 small files", create_many, False, 1 / 10),
                                        Step("rm -r of them", remove_many, False, 1 / 10)), floor=True),
    Sequence("patch", (ONE_GIB,),
             (Step("open a 1 GiB file, write 4 KiB, close", write_into_large, True, seconds=0.010),)),
    Sequence("write", ("win-lzx.wim",),
             (Step("sequential write of 1 GiB into a new file", write_new, False, None, 1 / 0.6),
              Step("the same with fsync", write_new_and_sync, False, None, 1 / 0.6)), ext4=True, floor=True),
)

# Done with dismd alone.
MEMORY_LIMIT_MIB = 48  # of a worker that walked and read everything, besides the chunk cache
IDLE_MOUNTS = 200
IDLE_LIMIT_MIB = 3 * 1024  # of the whole service
