# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks for the tests: NTFS volumes (ntfs_volume.py) in partitions, as VHD and VHDX by qemu-img.

  disk.raw                       GPT: EFI system (FAT), Microsoft reserved, basic data (NTFS, filled by ntfs_volume.fill)
  disk-dynamic.vhd, ...          the same disk in each format that qemu-img writes
"""

import os
import struct
import uuid

import ntfs_volume
from ntfs_volume import run

MIB = 1 << 20
VOLUME_MIB = 256
VHD_BLOCK = 2 * MIB
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


def partition(raw, offset, mib, target):
    """The volume at `offset` of a raw disk, into a file of its own."""
    run("dd", f"if={raw}", f"of={target}", "bs=1M", f"skip={offset // MIB}", f"count={mib}", "conv=sparse", "status=none")


def _vhd_checksum(data, at):
    return struct.pack(">I", ~sum(data[:at] + data[at + 4:]) & 0xFFFFFFFF)


def make_child(parent, child):
    """A differencing VHD without anything of its own, that stands on the dynamic or fixed VHD beside it."""
    with open(parent, "rb") as file:
        file.seek(-512, os.SEEK_END)
        footer = bytearray(file.read(512))
    size, = struct.unpack_from(">Q", footer, 48)
    parent_id, name = bytes(footer[68:84]), os.path.basename(parent)
    struct.pack_into(">Q", footer, 16, 512)  # where the dynamic header is
    struct.pack_into(">I", footer, 60, 4)    # differencing
    footer[68:84] = uuid.uuid4().bytes
    footer[64:68] = _vhd_checksum(footer, 64)
    entries, locator = -(-size // VHD_BLOCK), (".\\" + name).encode("utf-16-le")
    table_at = 512 + 1024 + 512
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, table_at, 0x10000, entries, VHD_BLOCK)
    header[40:56] = parent_id
    header[64:64 + 2 * len(name)] = name.encode("utf-16-be")
    struct.pack_into(">4sIIIQ", header, 576, b"W2ru", 512, len(locator), 0, 512 + 1024)
    header[36:40] = _vhd_checksum(header, 36)
    with open(child, "wb") as file:
        file.write(footer + header + locator.ljust(512, b"\0") + b"\xff" * (-(-entries * 4 // 512) * 512) + footer)


def flatten_child(parent_raw, child):
    """Lays the sectors of a differencing VHD over its parent's, a raw file."""
    with open(child, "rb") as file, open(parent_raw, "r+b") as raw:
        file.seek(512 + 16)
        table_at, _, entries, block = struct.unpack(">QIII", file.read(20))
        file.seek(table_at)
        for number, sector in enumerate(struct.unpack(f">{entries}I", file.read(4 * entries))):
            if sector == 0xFFFFFFFF:
                continue
            file.seek(sector * 512)
            bitmap, data = file.read(-(-block // 512 // 8 // 512) * 512), file.read(block)
            for i in range(block // 512):
                if bitmap[i // 8] >> (7 - i % 8) & 1:
                    raw.seek(number * block + i * 512)
                    raw.write(data[i * 512:(i + 1) * 512])


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
