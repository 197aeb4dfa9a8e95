# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of the contract's rows, in each format, with what can be wrong with them: make_images(directory, "vhdx").

  small          hello.txt; of a WIM two files more
  garbage, empty, short, private, directory.*, small.txt, small
  WIM            two, checked, check-fails, solid.esd, split.swm, lonely.swm (its other part is missing), pipable, being-written,
                 write-protected, windows (says what Windows Setup says)
  VHD, VHDX      hibernated, locked (BitLocker)
"""

import hashlib
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

import disks  # noqa: E402
import ntfs_volume  # noqa: E402
from ntfs_volume import run  # noqa: E402

HELLO = b"Hello, world\n"
DISK_VOLUME_MIB = 16

# Offsets in a WIM, and flags in its header.
FLAGS_OFFSET = 16
FLAG_READ_ONLY = 0x4
FLAG_WRITE_IN_PROGRESS = 0x40
IN_A_BLOB = 208 + 1000  # the header's 208 bytes are followed by file data

# Of ManagedDism's test images: what Windows Setup writes into the XML of a WIM.
WINDOWS = {
    "WINDOWS/ARCH": "9", "WINDOWS/EDITIONID": "WindowsPE", "WINDOWS/INSTALLATIONTYPE": "WindowsPE",
    "WINDOWS/PRODUCTNAME": "Microsoft Windows Operating System", "WINDOWS/PRODUCTTYPE": "WinNT",
    "WINDOWS/LANGUAGES/LANGUAGE": "en-US", "WINDOWS/LANGUAGES/DEFAULT": "en-US", "WINDOWS/SYSTEMROOT": "WINDOWS",
    "WINDOWS/VERSION/MAJOR": "6", "WINDOWS/VERSION/MINOR": "3", "WINDOWS/VERSION/BUILD": "9600",
    "WINDOWS/VERSION/SPBUILD": "16384", "WINDOWS/VERSION/SPLEVEL": "0",
}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def fill(tree):
    os.makedirs(f"{tree}/folder")
    write(f"{tree}/hello.txt", HELLO)
    # Two files that no codec makes small, so that a set split at 1 MiB has two parts.
    for number, name in enumerate(("noise", "more")):
        write(f"{tree}/folder/{name}.bin", b"".join(hashlib.sha256(b"%d %d" % (number, i)).digest()
                                                  for i in range(800 << 5)))


def make_wims(directory):
    tree = f"{directory}/tree"
    fill(tree)

    def capture(name, image_name, *options):
        run("wimcapture", tree, f"{directory}/{name}", image_name, "--no-acls", *options)

    capture("small.wim", "Small", "--compress=XPRESS")
    capture("two.wim", "First", "--compress=LZX")
    run("wimappend", tree, f"{directory}/two.wim", "Second", "--no-acls")
    capture("checked.wim", "Checked", "--compress=XPRESS", "--check")
    capture("solid.esd", "Solid", "--solid")
    capture("pipable.wim", "Pipable", "--pipable")
    run("wimsplit", f"{directory}/small.wim", f"{directory}/split.swm", "1")
    shutil.copyfile(f"{directory}/split.swm", f"{directory}/lonely.swm")
    shutil.copyfile(f"{directory}/two.wim", f"{directory}/windows.wim")
    run("wiminfo", f"{directory}/windows.wim", "1",
        *(f"--image-property={name}={value}" for name, value in WINDOWS.items()))
    shutil.rmtree(tree)

    def changed(name, source, offset, value):
        data = bytearray(read(f"{directory}/{source}"))
        data[offset] ^= value
        write(f"{directory}/{name}", data)

    changed("check-fails.wim", "checked.wim", IN_A_BLOB, 1)  # only the table tells
    changed("being-written.wim", "small.wim", FLAGS_OFFSET, FLAG_WRITE_IN_PROGRESS)
    changed("write-protected.wim", "small.wim", FLAGS_OFFSET, FLAG_READ_ONLY)


def make_disks(directory, extension):
    def make(name, volume):
        raw = f"{directory}/raw"
        disks.make_disk(raw, ((disks.BASIC, DISK_VOLUME_MIB, volume),))
        disks.convert(raw, f"{directory}/{name}.{extension}")
        os.unlink(raw)

    volume = f"{directory}/volume"
    disks.make_volume(volume, DISK_VOLUME_MIB, lambda root: write(f"{root}/hello.txt", HELLO))
    make("small", volume)
    with ntfs_volume.mounted(volume) as root:
        write(f"{root}/hiberfil.sys", b"HIBR" + bytes(4096))
    make("hibernated", volume)
    with open(volume, "wb") as file:
        file.truncate(DISK_VOLUME_MIB * disks.MIB)
        file.write(b"\xeb\x58\x90-FVE-FS-")
        file.seek(510)
        file.write(b"\x55\xaa")
    make("locked", volume)
    os.unlink(volume)


def make_images(directory, extension):
    """All images of a format, and the damaged ones, which are the same in each."""
    os.mkdir(directory)
    if extension == "wim":
        make_wims(directory)
    else:
        make_disks(directory, extension)
    small = read(f"{directory}/small.{extension}")
    write(f"{directory}/garbage.{extension}", hashlib.sha512(b"garbage").digest() * 2000)
    write(f"{directory}/empty.{extension}", b"")
    write(f"{directory}/short.{extension}", small[:len(small) // 2])
    write(f"{directory}/private.{extension}", small)
    write(f"{directory}/small.txt", small)
    write(f"{directory}/small", small)
    os.mkdir(f"{directory}/directory.{extension}")
    for name in os.listdir(directory):
        os.chmod(f"{directory}/{name}", 0o755 if name.startswith("directory") else 0o644)
    os.chmod(f"{directory}/private.{extension}", 0o600)
    os.chmod(directory, 0o755)
