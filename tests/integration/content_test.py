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
import tempfile
import unittest

import ntfs_volume
from dismd_service import ServiceTestCase
from ntfs_volume import LINKS, run
from tree_listing import link_groups, list_tree

IMAGE = None
INDEX = 1

# What a WIM records of how NTFS stored a file, and an NTFS volume filled from it may do otherwise.
STORAGE_ATTRIBUTES = 0x200 | 0x800 | 0x80  # sparse, compressed, normal ("none of the others")
DIRECTORY = ntfs_volume.ATTRIBUTE_DIRECTORY


class ContentTest(ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.root = self.mount_point()
        self.path = self.image(IMAGE)
        self.client.mount(self.path, self.root, index=INDEX)

    def references(self):
        """wimapply's further arguments: the other parts of a split set."""
        stem, extension = os.path.splitext(self.path)
        if extension != ".swm":
            return ()
        return (f"--ref={stem}*.swm",)

    def apply(self, target):
        run("wimapply", self.path, str(INDEX), target, "--norpfix", *self.references())

    def test_as_applied_to_a_directory(self):
        applied = tempfile.mkdtemp(prefix="applied-", dir=self.directory)
        self.apply(applied)
        unix_data = os.path.basename(IMAGE) == "unix.wim"
        if unix_data:
            self.apply_unix(applied)
        ours, theirs = list_tree(self.root), list_tree(applied, ntfs=False)
        self.assertEqual(sorted(ours), sorted(theirs))
        for path, reference in theirs.items():
            with self.subTest(path=path):
                entry = ours[path]
                if reference.kind == "file" and entry.kind == "file":
                    self.assertEqual((entry.size, entry.hash), (reference.size, reference.hash))
                    # A WIM counts in 100 nanoseconds.
                    self.assertEqual(entry.modified // 100, reference.modified // 100)
                if unix_data:
                    self.assertEqual((entry.format, entry.mode, entry.owner, entry.device),
                                     (reference.format, reference.mode, reference.owner, reference.device))

    def apply_unix(self, applied):
        run("rm", "-rf", applied)
        run("wimapply", self.path, str(INDEX), applied, "--norpfix", "--unix-data")

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
        self.assertEqual(link_groups(ours), link_groups(theirs))

    def compare(self, entry, reference):
        if not reference.ntfs["reparse_data"]:
            self.assertEqual(entry.kind, reference.kind)
        if entry.kind == reference.kind == "file":
            self.assertEqual((entry.size, entry.hash), (reference.size, reference.hash))
            # ntfs-3g counts a short name as a link.
            self.assertEqual(entry.links, reference.links - (1 if reference.ntfs["dos_name"] else 0))
        self.assertEqual(entry.modified, reference.modified)
        ignored = STORAGE_ATTRIBUTES | DIRECTORY
        self.assertEqual(entry.attributes & ~ignored, reference.attributes & ~ignored)
        for name in ("dos_name", "crtime", "reparse_data", "ea", "object_id"):
            self.assertEqual(entry.ntfs.get(name), reference.ntfs.get(name), name)
        if entry.ntfs.get("acl") is not None:
            # wimlib gives the volume's default to files for which the image has no security descriptor.
            self.assertEqual(entry.ntfs["acl"].rstrip(b"\0"), reference.ntfs["acl"].rstrip(b"\0"), "acl")
        if reference.kind != "link":
            self.assertEqual(entry.streams, reference.streams)

    def test_attributes_as_wimlib_reads_them(self):
        """wimdir --detailed tells what stands in the image, before any volume made something of it."""
        listing = subprocess.run(["wimdir", self.path, str(INDEX), "--detailed", *self.references()], check=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        checked = 0
        path = None
        for line in listing.split(b"\n"):
            if line.startswith(b"Full Path "):
                path = line.partition(b'"')[2][:-1]
            elif line.startswith(b"Attributes ") and path is not None:
                with self.subTest(path=path):
                    value = os.getxattr(os.fsencode(self.root) + path, "system.ntfs_attrib", follow_symlinks=False)
                    self.assertEqual(hex(int.from_bytes(value, "little")), hex(int(line.split()[-1], 16)))
                checked += 1
        self.assertGreater(checked, 0)

    def test_links_lead_inside(self):
        if not IMAGE.startswith("ntfs-"):
            self.assert_no_link_leads_out()
            return
        for link, target in LINKS.items():
            with self.subTest(link=link):
                reached = os.path.realpath(os.path.join(self.root, link))
                if target is None:
                    self.assertTrue(reached.startswith(self.root + "/"), reached)
                else:
                    self.assertTrue(os.path.samefile(reached, os.path.join(self.root, target)), reached)
        with open(os.path.join(self.root, "links/absolute"), "rb") as file:
            self.assertEqual(file.read(6), b"deep\r\n")
        self.assertIn("deep.txt", os.listdir(os.path.join(self.root, "links/junction")))

    def assert_no_link_leads_out(self):
        for path, entry in list_tree(self.root, ntfs=False).items():
            if entry.kind == "link":
                reached = os.path.realpath(os.path.join(os.fsencode(self.root), path))
                self.assertTrue(reached.startswith(os.fsencode(self.root)), (path, entry.target))

    def test_streams_open_by_name(self):
        root = os.fsencode(self.root)
        for path, entry in list_tree(self.root).items():
            for name, value in entry.streams.items():
                with open(os.path.join(root, path) + b":" + name.removeprefix(b"user."), "rb") as file:
                    self.assertEqual(file.read(), value, (path, name))


if __name__ == "__main__":
    IMAGE = sys.argv.pop(1)
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        INDEX = int(sys.argv.pop(1))
    unittest.main()
