# SPDX-License-Identifier: GPL-3.0-or-later
"""What attributes the files of an NTFS volume have, read out of its MFT records and by no NTFS library.

For volumes of the tests: records of 1 KiB, attributes in the file's own record, not compressed.

Format: "[MS-FSCC]" 2.4.15 (FILE_FULL_EA_INFORMATION), and the NTFS documentation of the Linux-NTFS project.
"""

import struct

RECORD = 1024
STANDARD_INFORMATION, FILE_NAME, DATA, EA_INFORMATION, EA, END = 0x10, 0x30, 0x80, 0xD0, 0xE0, 0xFFFFFFFF
DOS_NAME = 2


class Volume:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        sector, per_cluster = struct.unpack_from("<HB", self.bytes, 11)
        self.cluster = sector * per_cluster
        mft_cluster, = struct.unpack_from("<Q", self.bytes, 48)
        first = self._record(self.bytes[mft_cluster * self.cluster:][:RECORD])
        self.mft = dict(self._attributes(first))[(DATA, "")]

    @staticmethod
    def _record(raw):
        """With the last two bytes of each sector put back."""
        record = bytearray(raw)
        at, count = struct.unpack_from("<HH", record, 4)
        for sector in range(1, count):
            record[sector * 512 - 2:sector * 512] = raw[at + 2 * sector:at + 2 * sector + 2]
        return record

    def _runs(self, record, at):
        data, cluster = b"", 0
        while record[at]:
            length_bytes, offset_bytes = record[at] & 15, record[at] >> 4
            length = int.from_bytes(record[at + 1:at + 1 + length_bytes], "little")
            offset = record[at + 1 + length_bytes:at + 1 + length_bytes + offset_bytes]
            cluster += int.from_bytes(offset, "little", signed=True)
            hole = bytes(length * self.cluster)
            data += self.bytes[cluster * self.cluster:(cluster + length) * self.cluster] if offset else hole
            at += 1 + length_bytes + offset_bytes
        return data

    def _attributes(self, record):
        """((type, name), value) of each."""
        at, = struct.unpack_from("<H", record, 20)
        while struct.unpack_from("<I", record, at)[0] != END:
            kind, size, non_resident, name_length, name_at = struct.unpack_from("<IIBBH", record, at)
            name = record[at + name_at:at + name_at + 2 * name_length].decode("utf-16-le")
            if non_resident:
                value = self._runs(record, at + struct.unpack_from("<H", record, at + 32)[0])
                value = value[:struct.unpack_from("<Q", record, at + 48)[0]]
            else:
                length, value_at = struct.unpack_from("<IH", record, at + 16)
                value = bytes(record[at + value_at:at + value_at + length])
            yield (kind, name), value
            at += size

    def files(self):
        """{name: {(type, name): value}} of all that have a name; two of one name are not told apart."""
        found = {}
        for at in range(0, len(self.mft), RECORD):
            raw = self.mft[at:at + RECORD]
            in_use = struct.unpack_from("<H", raw, 22)[0] & 1
            if raw[:4] != b"FILE" or not in_use or struct.unpack_from("<Q", raw, 32)[0]:
                continue
            attributes, name = {}, None
            for key, value in self._attributes(self._record(raw)):
                attributes[key] = value
                if key[0] == FILE_NAME and value[65] != DOS_NAME:
                    name = value[66:66 + 2 * value[64]].decode("utf-16-le", "surrogatepass")
            found[name] = attributes
        return found


def eas(value):
    """[(flags, name, value)] of an $EA attribute; entries begin with the offset of the next one."""
    found, at = [], 0
    while at < len(value):
        step, flags, name_length, length = struct.unpack_from("<IBBH", value, at)
        name_end = at + 8 + name_length
        assert value[name_end] == 0 and step >= 8 + name_length + 1 + length, (at, step)
        found.append((flags, value[at + 8:name_end], value[name_end + 1:name_end + 1 + length]))
        at += step
    return found


def ea_information(value):
    """(bytes of all packed, how many must be understood, bytes of the attribute) of an $EA_INFORMATION attribute."""
    return struct.unpack("<HHI", value)
