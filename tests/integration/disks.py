# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks for the tests: NTFS volumes (ntfs_volume.py) in partitions, as VHD and VHDX by qemu-img.

  disk.raw                       GPT: EFI system (FAT), Microsoft reserved, basic data (NTFS, filled by ntfs_volume.fill)
  disk-dynamic.vhd, ...          the same disk in each format that qemu-img writes
"""

import os

import ntfs_volume
from ntfs_volume import run

MIB = 1 << 20
VOLUME_MIB = 256
FORMATS = {
    "disk-fixed.vhd": ("vpc", "subformat=fixed,force_size=on"),
    "disk-dynamic.vhd": ("vpc", "subformat=dynamic,force_size=on"),
    "disk-fixed.vhdx": ("vhdx", "subformat=fixed,block_state_zero=off"),
    "disk-dynamic.vhdx": ("vhdx", "subformat=dynamic"),
    "disk-dynamic-1m.vhdx": ("vhdx", "subformat=dynamic,block_size=1M"),
}

EFI = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
RESERVED = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
BASIC = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
RECOVERY = "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"


def copy_into(disk, offset, source):
    """Sparse, as both are."""
    run("dd", f"if={source}", f"of={disk}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse", "status=none")


def make_disk(path, parts, label="gpt", size_mib=None):
    """A raw disk. `parts`: (type, MiB, file with the volume or None) one after the other from 1 MiB on."""
    offsets, at = [], 1
    script = [f"label: {label}"]
    for kind, mib, _ in parts:
        script.append(f"start={at}MiB, size={mib}MiB, type={kind}")
        offsets.append(at * MIB)
        at += mib
    with open(path, "wb") as file:
        file.truncate((size_mib or at + 1) * MIB)
    script_path = path + ".sfdisk"
    with open(script_path, "w", encoding="ascii") as file:
        file.write("\n".join(script) + "\n")
    with open(script_path, "rb") as file:
        run("sh", "-c", 'sfdisk -q "$0" < "$1"', path, script_path)
    os.unlink(script_path)
    for offset, (_, _, volume) in zip(offsets, parts):
        if volume:
            copy_into(path, offset, volume)
    return offsets


def convert(raw, target):
    """Into the format that the target's name stands for in FORMATS, or else by its extension."""
    kind, options = FORMATS.get(os.path.basename(target)) or {
        ".vhd": ("vpc", "subformat=dynamic,force_size=on"), ".vhdx": ("vhdx", "subformat=dynamic"),
    }[os.path.splitext(target)[1]]
    run("qemu-img", "convert", "-f", "raw", "-O", kind, "-o", options, raw, target)


def make_volume(path, mib, fill=None, label=None):
    with open(path, "wb") as file:
        file.truncate(mib * MIB)
    run("/sbin/mkntfs", "-F", "-Q", "-q", "-s", "512", "-p", "0", "-H", "0", "-S", "0",
        *(("-L", label) if label else ()), path)
    if fill:
        with ntfs_volume.mounted(path, "streams_interface=windows") as root:
            fill(root)


def make(directory, work):
    """The disks, into `directory`; and disk-volume.ntfs, the NTFS volume that is in them."""
    volume = os.path.join(directory, "disk-volume.ntfs")
    make_volume(volume, VOLUME_MIB, ntfs_volume.fill, label="Windows")
    fat = os.path.join(work, "efi.fat")
    with open(fat, "wb") as file:
        file.truncate(16 * MIB)
    run("/sbin/mkfs.vfat", fat)
    raw = os.path.join(directory, "disk.raw")
    make_disk(raw, ((EFI, 16, fat), (RESERVED, 1, None), (BASIC, VOLUME_MIB, volume)))
    for name in FORMATS:
        convert(raw, os.path.join(directory, name))
