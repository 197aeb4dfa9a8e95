#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mounted image against what wimlib makes of it:  content_test.py IMAGE [INDEX]

wimapply lays the image out in a directory and on an NTFS volume; names, contents, times, hard links, attributes,
security descriptors, short names, streams, reparse data, EAs and object ids must be the same in the mount.
IMAGE is one of images.py, or a fixture ("wimlib/longpaths.wim").
"""

import os
import subprocess
import sys
import unittest

import ntfs_volume
from dismd_service import ServiceTestCase
from ntfs_volume import LINKS, run
from tree_listing import kind_in_ntfs_3g, link_groups, list_tree

IMAGE = None
INDEX = 1

# What a WIM records of how NTFS stored a file, and an NTFS volume filled from it may do otherwise.
STORAGE_ATTRIBUTES = 0x200 | 0x800 | 0x80  # sparse, compressed, normal ("none of the others")
DIRECTORY = ntfs_volume.ATTRIBUTE_DIRECTORY


# Captured of Linux directories: what wimapply restores of them there, an NTFS volume cannot hold.
LINUX_IMAGES = ("unix.wim", "linux_xattrs_old.wim")


class ContentCase(ServiceTestCase):
    apply_options = ()

    def setUp(self):
        super().setUp()
        self.root = self.mount_point()
        self.path = self.image(IMAGE)
        self.client.mount(self.path, self.root, index=INDEX)

    def parts(self):
        """What wimlib must be told of the other parts of a split set."""
        stem, extension = os.path.splitext(self.path)
        return (f"--ref={stem}*.swm",) if extension == ".swm" else ()

    def apply(self, target):
        run("wimapply", self.path, str(INDEX), target, "--norpfix", *self.apply_options, *self.parts())

    def applied_to_a_directory(self):
        applied = os.path.join(self.directory, "applied")
        self.apply(applied)
        return list_tree(applied, ntfs=False)


class WindowsContentTest(ContentCase):
    def test_as_applied_to_a_directory(self):
        ours, theirs = list_tree(self.root, ntfs=False), self.applied_to_a_directory()
        self.assertEqual(sorted(ours), sorted(theirs))
        for path, reference in theirs.items():
            if reference.kind != "file" or ours[path].kind != "file":
                continue
            with self.subTest(path=path):
                self.assertEqual((ours[path].size, ours[path].hash), (reference.size, reference.hash))
                # A WIM counts in 100 nanoseconds.
                self.assertEqual(ours[path].modified // 100, reference.modified // 100)

    def test_as_applied_to_an_ntfs_volume(self):
        volume = os.path.join(self.directory, "applied.ntfs")
        ntfs_volume.create(volume, 1 << 30)
        self.apply(volume)
        ours = list_tree(self.root)
        with ntfs_volume.mounted(volume, "ro", "streams_interface=xattr") as mounted:
            theirs = list_tree(mounted)
        self.assertEqual(sorted(ours), sorted(theirs))
        for path, reference in theirs.items():
            with self.subTest(path=path):
                self.compare(ours[path], reference)
        groups = link_groups(ours)
        self.assertEqual(groups, link_groups(theirs))
        names = {path: len(group) for group in groups for path in group}
        for path, entry in ours.items():
            if entry.kind == "file":
                # (ntfs-3g counts a short name as a link.)
                self.assertEqual(entry.links, names.get(path, 1), path)

    def compare(self, entry, reference):
        if not reference.ntfs["reparse_data"]:
            self.assertEqual(kind_in_ntfs_3g(entry), reference.kind)
        if entry.kind == reference.kind == "file":
            self.assertEqual((entry.size, entry.hash), (reference.size, reference.hash))
        self.assertEqual(entry.modified, reference.modified)
        ignored = STORAGE_ATTRIBUTES | DIRECTORY
        self.assertEqual(entry.attributes & ~ignored, reference.attributes & ~ignored)
        for name in ("dos_name", "crtime", "reparse_data", "ea", "object_id"):
            theirs = reference.ntfs.get(name)
            # wimlib writes short names in upper case, whatever stands in the image.
            ours = entry.ntfs.get(name) if name != "dos_name" or theirs is None else (entry.ntfs.get(name) or b"").upper()
            self.assertEqual(ours, theirs, name)
        if entry.ntfs["acl"] is not None:
            # wimlib gives the volume's default to files for which the image has no security descriptor.
            self.assertEqual(entry.ntfs["acl"].rstrip(b"\0"), reference.ntfs["acl"].rstrip(b"\0"), "acl")
        if reference.kind != "link" and kind_in_ntfs_3g(entry) == entry.kind:  # the kernel gives a FIFO no streams
            self.assertEqual(entry.streams, reference.streams)

    def test_attributes_as_wimlib_reads_them(self):
        """wimdir --detailed tells what stands in the image, before any volume made something of it."""
        listing = subprocess.run(["wimdir", self.path, str(INDEX), "--detailed", *self.parts()], check=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        checked = 0
        for line in listing.split(b"\n"):
            if line.startswith(b"Full Path "):
                path = line.partition(b'"')[2][:-1]
            elif line.startswith(b"Attributes "):
                value = os.getxattr(os.fsencode(self.root) + path, "system.ntfs_attrib", follow_symlinks=False)
                self.assertEqual(hex(int.from_bytes(value, "little")), hex(int(line.split()[-1], 16)), path)
                checked += 1
        self.assertEqual(checked, len(list_tree(self.root, ntfs=False)))

    def test_links_lead_inside(self):
        for path, entry in list_tree(self.root, ntfs=False).items():
            if entry.kind == "link":
                reached = os.path.realpath(os.path.join(os.fsencode(self.root), path))
                self.assertTrue((reached + b"/").startswith(os.fsencode(self.root) + b"/"), (path, entry.target))
        if not IMAGE.startswith("ntfs-"):
            return
        for link, target in LINKS.items():
            if target is not None:
                reached = os.path.realpath(os.path.join(self.root, link))
                self.assertTrue(os.path.samefile(reached, os.path.join(self.root, target)), (link, reached))
        with open(os.path.join(self.root, "links/absolute"), "rb") as file:
            self.assertEqual(file.read(6), b"deep\r\n")
        self.assertIn("deep.txt", os.listdir(os.path.join(self.root, "links/junction")))

    def test_streams_open_by_name(self):
        root = os.fsencode(self.root)
        for path, entry in list_tree(self.root).items():
            for name, value in entry.streams.items():
                with open(os.path.join(root, path) + b":" + name.removeprefix(b"user."), "rb") as file:
                    self.assertEqual(file.read(), value, (path, name))


class LinuxContentTest(ContentCase):
    apply_options = ("--unix-data",)

    def test_as_applied_to_a_directory(self):
        ours, theirs = list_tree(self.root, ntfs=True), self.applied_to_a_directory()
        self.assertEqual(sorted(ours), sorted(theirs))
        for path, reference in theirs.items():
            entry = ours[path]
            with self.subTest(path=path):
                self.assertEqual((entry.format, entry.mode, entry.owner, entry.device),
                                 (reference.format, reference.mode, reference.owner, reference.device))
                self.assertEqual((entry.size, entry.hash), (reference.size, reference.hash))
                self.assertEqual(entry.modified // 100, reference.modified // 100)
        self.assertEqual(link_groups(ours), link_groups(theirs))

    def test_extended_attributes(self):
        applied = os.path.join(self.directory, "applied")
        self.apply(applied)
        found = 0
        for path in list_tree(applied, ntfs=False):
            theirs = os.path.join(os.fsencode(applied), path)
            ours = os.path.join(os.fsencode(self.root), path)
            for name in os.listxattr(theirs, follow_symlinks=False):
                if name.startswith("user."):
                    self.assertEqual(os.getxattr(ours, name, follow_symlinks=False),
                                     os.getxattr(theirs, name, follow_symlinks=False), (path, name))
                    found += 1
        self.assertGreater(found, 0)

    test_links_lead_inside = WindowsContentTest.test_links_lead_inside


if __name__ == "__main__":
    IMAGE = sys.argv.pop(1)
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        INDEX = int(sys.argv.pop(1))
    unittest.main(defaultTest="LinuxContentTest" if os.path.basename(IMAGE) in LINUX_IMAGES else "WindowsContentTest")
