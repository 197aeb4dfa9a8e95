# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes files of the Windows registry: keys with values, as little of the format as libhivex asks for.

    build({"Microsoft": {"Windows NT": {"CurrentVersion": {"ProductName": "Windows", "UBR": 7}}}})

A dict is a key, a str a REG_SZ, an int a REG_DWORD, a list of str a REG_MULTI_SZ.
"""

import struct

HEADER_SIZE = 4096
REG_SZ, REG_DWORD, REG_MULTI_SZ = 1, 4, 7
NONE = 0xFFFFFFFF


class _Writer:
    def __init__(self):
        self.cells = bytearray(32)  # behind the header of the one bin

    def cell(self, content):
        """Its offset. The content is behind a size, which is negative where the cell is in use."""
        offset = len(self.cells)
        size = (4 + len(content) + 7) // 8 * 8
        self.cells += struct.pack("<i", -size) + content + bytes(size - 4 - len(content))
        return offset

    def value(self, name, value):
        if isinstance(value, int):
            kind, size, data = REG_DWORD, 4 | 0x80000000, value  # in the cell itself
        else:
            kind = REG_SZ if isinstance(value, str) else REG_MULTI_SZ
            text = value + "\0" if isinstance(value, str) else "".join(item + "\0" for item in value) + "\0"
            content = text.encode("utf-16-le")
            size, data = len(content), self.cell(content)
        return self.cell(b"vk" + struct.pack("<HIIIHH", len(name), size, data, kind, 1, 0) + name.encode())

    def key(self, name, entries, is_root=False):
        values = [self.value(*item) for item in entries.items() if not isinstance(item[1], dict)]
        subkeys = [self.key(*item) for item in sorted(entries.items(), key=lambda item: item[0].upper())
                   if isinstance(item[1], dict)]
        subkey_list = self.cell(b"li" + struct.pack(f"<H{len(subkeys)}I", len(subkeys), *subkeys)) if subkeys else NONE
        value_list = self.cell(struct.pack(f"<{len(values)}I", *values)) if values else NONE
        return self.cell(b"nk" + struct.pack("<HQ15IHH", 0x2C if is_root else 0x20, 0, 0, 0, len(subkeys), 0, subkey_list,
                                             NONE, len(values), value_list, NONE, NONE, 0, 0, 0, 0, 0, len(name), 0)
                         + name.encode())


def build(entries):
    writer = _Writer()
    root = writer.key("ROOT", entries, is_root=True)
    cells = writer.cells
    free = -len(cells) % 4096
    if free:
        cells += struct.pack("<i", free) + bytes(free - 4)
    cells[:32] = b"hbin" + struct.pack("<II8xQ4x", 0, len(cells), 0)
    header = b"regf" + struct.pack("<IIQ7I", 1, 1, 0, 1, 5, 0, 1, root, len(cells), 1)
    header += bytes(508 - len(header))
    checksum = 0
    for (word,) in struct.iter_unpack("<I", header):
        checksum ^= word
    return header + struct.pack("<I", checksum) + bytes(HEADER_SIZE - 512) + bytes(cells)
