#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and sizes at the limits, on the images that images.py makes."""

import os
import unittest

import ntfs_volume
from dismd_service import ServiceTestCase
from tree_listing import list_tree


class NamesTest(ServiceTestCase):
    def mounted(self, image, **fields):
        root = self.mount_point()
        self.client.mount(self.image(image), root, **fields)
        return root

    def content(self, *parts):
        with open(os.path.join(*map(os.fsencode, parts)), "rb") as file:
            return file.read()

    def test_other_case_finds_the_file(self):
        root = self.mounted("ntfs-xpress.wim")
        for name in ("plain.txt", "PLAIN.TXT", "Plain.Txt", "WINDOWS/system32/DEEP.txt", "names/mixedcase.txt"):
            with self.subTest(name=name):
                self.content(root, name)
        self.assertEqual(os.stat(root + "/PLAIN.TXT").st_ino, os.stat(root + "/plain.txt").st_ino)
        self.assertEqual(self.content(root, "NAMES/GR\u00d6\u00dfE \u0130\u0131 \u03a3\u03c2.TXT"), b"case folding")
        with self.assertRaises(FileNotFoundError):
            self.content(root, "plain.tx")
        # Listed once, as it was written.
        self.assertEqual([name for name in os.listdir(root) if name.lower() == "plain.txt"], ["plain.txt"])

    def test_short_name_finds_the_file(self):
        root = self.mounted("ntfs-lzx.wim")
        self.assertEqual(self.content(root, "names/ALONGN~1.TEX"), b"short")
        self.assertEqual(self.content(root, "names/alongd~1/inside.txt"), b"inside")
        self.assertNotIn("ALONGN~1.TEX", os.listdir(root + "/names"))

    def test_names_of_255_units(self):
        root = self.mounted("long-names.wim")
        self.assertEqual(self.content(root, "names", "\u6587" * 255), b"255 units, 765 bytes")
        self.assertEqual(self.content(root, "names", "\U0001F600" * 127 + "a"), b"255 units, 127 of them pairs")
        listed = os.listdir(root + "/names")
        self.assertIn("\u6587" * 255, listed)
        self.assertIn("\U0001F600" * 127 + "a", listed)

    def test_unpaired_surrogates(self):
        root = self.mounted("ntfs-solid.esd")
        self.assertEqual(self.content(root, "names", b"lone-high-\xed\xa0\xbd.txt"), b"unpaired high surrogate")
        self.assertEqual(self.content(root, "names", b"lone-low-\xed\xb8\x80.txt"), b"unpaired low surrogate")
        self.assertIn(b"lone-low-\xed\xb8\x80.txt", os.listdir(os.fsencode(root) + b"/names"))

    def test_five_gibibytes(self):
        root = self.mounted("huge.wim")
        path = os.path.join(root, "huge.bin")
        self.assertEqual(os.stat(path).st_size, ntfs_volume.HUGE_BYTES)
        with open(path, "rb", buffering=0) as file:
            for offset, data in ntfs_volume.HUGE_ISLANDS:
                before = min(offset, 100)
                found = os.pread(file.fileno(), before + len(data) + 100, offset - before)
                after = min(100, ntfs_volume.HUGE_BYTES - offset - len(data))
                self.assertEqual(found, b"\0" * before + data + b"\0" * after)
            # From every GiB a piece of nothing.
            for gib in range(5):
                self.assertEqual(os.pread(file.fileno(), 4096, (gib << 30) + (300 << 20)), b"\0" * 4096)
            self.assertEqual(os.pread(file.fileno(), 10, ntfs_volume.HUGE_BYTES), b"")

    def test_images_by_index_and_name(self):
        image = self.image("two-images.wim")
        contents = []
        for i, which in enumerate(({"image_index": 1}, {"image_index": 2}, {"image_name": "first"}, {"image_name": "SECOND"})):
            root = self.mount_point(f"mnt{i}")
            self.client.mount(image, root, index=None, **which)
            contents.append(self.content(root, "two.bin")[:7])
        self.assertEqual(contents[1], b"changed")
        self.assertEqual(contents[0], contents[2])
        self.assertEqual(contents[1], contents[3])
        self.assertNotEqual(contents[0], contents[1])

    def test_read_only(self):
        root = self.mounted("small.wim")
        for attempt in (lambda: open(root + "/new", "wb"), lambda: open(root + "/one.txt", "ab"),
                        lambda: os.unlink(root + "/one.txt"), lambda: os.mkdir(root + "/d"),
                        lambda: os.setxattr(root + "/one.txt", "user.x", b"y")):
            with self.assertRaises(OSError) as caught:
                attempt()
            self.assertEqual(caught.exception.errno, 30)  # EROFS

    def test_node_ids_are_the_same_in_every_mount(self):
        image = self.image("ntfs-xpress.wim")
        listings = []
        for name in ("first", "second"):
            root = self.mount_point(name)
            self.client.mount(image, root)
            listings.append({path: entry.inode for path, entry in list_tree(root, ntfs=False).items()})
        self.assertEqual(listings[0], listings[1])


if __name__ == "__main__":
    unittest.main()
