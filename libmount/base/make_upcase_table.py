#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes upcase_table.inc: the case mapping of a volume that NTFS tools make, as runs.

Takes the table of libntfs-3g (ntfs_upcase_table_build) as the reference. Run: make_upcase_table.py > upcase_table.inc
"""
import ctypes

UNITS = 0x10000


def reference_table():
    library = ctypes.CDLL("libntfs-3g.so.89")
    table = (ctypes.c_uint16 * UNITS)()
    library.ntfs_upcase_table_build(table, ctypes.c_uint32(2 * UNITS))
    return list(table)


def runs(table):
    """(first, last, step, delta): every step-th unit from first to last maps to itself plus delta."""
    mapped = [(unit, (table[unit] - unit) & 0xFFFF) for unit in range(UNITS) if table[unit] != unit]
    result = []
    for unit, delta in mapped:
        if result:
            first, last, step, run_delta = result[-1]
            distance = unit - last
            if delta == run_delta and distance <= 2 and (step == 0 or step == distance):
                result[-1] = (first, unit, distance, delta)
                continue
        result.append((unit, unit, 0, delta))
    return [(first, last, step or 1, delta) for first, last, step, delta in result]


def main():
    print("// SPDX-License-Identifier: GPL-3.0-or-later")
    print("// Made by make_upcase_table.py. {first, last, step, delta modulo 65536}")
    for first, last, step, delta in runs(reference_table()):
        print(f"{{0x{first:04x}, 0x{last:04x}, {step}, 0x{delta:04x}}},")


main()
