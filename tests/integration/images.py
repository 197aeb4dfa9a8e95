#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the WIMs that the mount tests use, with wimlib:  images.py DIR

Each is made once and kept in DIR as long as this file and ntfs_volume.py do not change. What is in them stands in
ntfs_volume.py; here is in which formats.

  ntfs-none.wim, ntfs-xpress.wim, ntfs-lzx.wim (integrity table), ntfs-lzms.wim, ntfs-solid.esd
  ntfs-xpress-4k.wim, ntfs-lzx-2m.wim    other chunk sizes
  ntfs-pipable.wim                       resources in another order, with their own headers
  ntfs-split.swm, -split2.swm, ...       a split set
  two-images.wim                         two images that share blobs, LZX
  unix.wim                               captured of a directory with --unix-data: owners, modes, links, a fifo, a device
  small.wim                              three files: for tests that mount a lot
  long-names.wim                         names of 255 UTF-16 units that take more than 255 bytes in UTF-8
  huge.wim                               a sparse file of 5 GiB
  disk-*.vhd, disk-*.vhdx                disks with an NTFS volume (disks.py)
"""

import hashlib
import os
import shutil
import stat
import sys
import tempfile

import disks
import ntfs_volume
from ntfs_volume import run

HERE = os.path.dirname(os.path.abspath(__file__))

# Made from the NTFS volume, by file name: what wimcapture is told.
NTFS_IMAGES = {
    "ntfs-none.wim": ("--compress=none",),
    "ntfs-xpress.wim": ("--compress=XPRESS",),
    "ntfs-lzx.wim": ("--compress=LZX", "--check"),
    "ntfs-lzms.wim": ("--compress=LZMS",),
    "ntfs-solid.esd": ("--solid", "--compress=LZMS", "--solid-chunk-size=1M"),
    "ntfs-xpress-4k.wim": ("--compress=XPRESS", "--chunk-size=4K"),
    "ntfs-lzx-2m.wim": ("--compress=LZX", "--chunk-size=2M"),
    "ntfs-pipable.wim": ("--compress=XPRESS", "--pipable"),
}


def make_unix_tree(root):
    os.makedirs(os.path.join(root, "dir"))
    for name, mode, owner in (("executable", 0o755, (1000, 1000)), ("private", 0o600, (1234, 4321)),
                              ("setuid", 0o4755, (0, 0)), ("dir/read-only", 0o444, (65534, 65534))):
        path = os.path.join(root, name)
        ntfs_volume.write(path, name.encode() * 10)
        os.chown(path, *owner)
        os.chmod(path, mode)
    os.chmod(os.path.join(root, "dir"), 0o1777)
    os.symlink("dir/read-only", os.path.join(root, "relative"))
    os.symlink("/dir/read-only", os.path.join(root, "absolute"))
    os.symlink("../../../../etc/passwd", os.path.join(root, "escaping"))
    os.setxattr(os.path.join(root, "executable"), "user.colour", b"blue")
    os.link(os.path.join(root, "private"), os.path.join(root, "dir/linked"))
    os.mkfifo(os.path.join(root, "fifo"), 0o640)
    os.mknod(os.path.join(root, "null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def make_small_tree(root):
    ntfs_volume.write(os.path.join(root, "one.txt"), b"one\n")
    ntfs_volume.write(os.path.join(root, "two.bin"), ntfs_volume.words(200_000, 2))
    os.mkdir(os.path.join(root, "three"))
    ntfs_volume.write(os.path.join(root, "three/four.txt"), b"four\n")


def make(directory, work):
    """Makes all images into `directory`; `work` is for what they are made of."""
    volume = os.path.join(work, "volume.ntfs")
    ntfs_volume.create(volume)
    with ntfs_volume.mounted(volume, "streams_interface=windows") as root:
        ntfs_volume.fill(root)
    for name, options in NTFS_IMAGES.items():
        run("wimcapture", volume, os.path.join(directory, name), "NTFS", "from an NTFS volume", "--norpfix", *options)
    run("wimsplit", os.path.join(directory, "ntfs-xpress.wim"), os.path.join(directory, "ntfs-split.swm"), "1")

    for name, fill in (("unix", make_unix_tree), ("small", make_small_tree)):
        tree = os.path.join(work, name)
        os.mkdir(tree)
        fill(tree)
        options = ("--unix-data",) if name == "unix" else ("--no-acls",)
        run("wimcapture", tree, os.path.join(directory, f"{name}.wim"), name.capitalize(), "--norpfix",
            "--compress=XPRESS", *options)
    two = os.path.join(directory, "two-images.wim")
    run("wimcapture", os.path.join(work, "small"), two, "First", "--no-acls", "--compress=LZX")
    ntfs_volume.write(os.path.join(work, "small/two.bin"), b"changed")
    run("wimappend", os.path.join(work, "small"), two, "Second", "--no-acls")

    for name, fill_volume in (("long-names.wim", ntfs_volume.fill_long_names), ("huge.wim", ntfs_volume.fill_huge)):
        ntfs_volume.create(volume)
        with ntfs_volume.mounted(volume) as root:
            fill_volume(root)
        run("wimcapture", volume, os.path.join(directory, name), name, "--compress=XPRESS", "--chunk-size=64K")
    disks.make(directory, work)


def main():
    directory = os.path.abspath(sys.argv[1])
    version = hashlib.sha256()
    for name in ("images.py", "ntfs_volume.py", "disks.py"):
        with open(os.path.join(HERE, name), "rb") as file:
            version.update(file.read())
    done = os.path.join(directory, "made-by")
    if os.path.exists(done) and open(done, encoding="ascii").read() == version.hexdigest():
        return
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    with tempfile.TemporaryDirectory(prefix="images-") as work:
        make(directory, work)
    for name in os.listdir(directory):
        os.chmod(os.path.join(directory, name), 0o644)
    with open(done, "w", encoding="ascii") as file:
        file.write(version.hexdigest())


if __name__ == "__main__":
    main()
