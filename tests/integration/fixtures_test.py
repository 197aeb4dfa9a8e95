#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign images that are not whole: damaged, cyclic, hostile. The sound ones are content_test.py's."""

import errno
import os
import unittest

from dismd_client import RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until
from tree_listing import list_tree

REFUSED = {
    "wimlib/cyclic.wim": "BAD_IMAGE_FORMAT",
    "wimlib/fuzz-wim-0.wim": "BAD_IMAGE_FORMAT",
    "managedwimlib/Split2.swm": "BAD_IMAGE_FORMAT",
    # Its directory tree is what does not match its integrity table; it cannot be read at all.
    "managedwimlib/VerifyFail.wim": "BAD_IMAGE_FORMAT",
}
DAMAGED = ("wimlib/corrupted_file_1.wim", "wimlib/corrupted_file_2.wim")


class FixturesTest(ServiceTestCase):
    def test_refused(self):
        for name, reason in REFUSED.items():
            with self.subTest(image=name):
                root = self.mount_point(name.replace("/", "-"))
                with self.assertRaises(RpcFailure) as caught:
                    self.client.mount(self.image(name), root)
                self.assertEqual(caught.exception.reason, reason)
                self.assertIn(os.path.basename(name), caught.exception.message)
                self.assert_nothing_left(root)

    def test_damaged_blobs(self):
        """The tree is there; reading what is damaged gives EIO and is told of; the rest reads."""
        for name in DAMAGED:
            with self.subTest(image=name):
                root = self.mount_point(name.replace("/", "-"))
                self.client.mount(self.image(name), root)
                damaged = 0
                for top, _, files in os.walk(root):
                    for file_name in files:
                        try:
                            with open(os.path.join(top, file_name), "rb") as file:
                                file.read()
                        except OSError as error:
                            self.assertEqual(error.errno, errno.EIO)
                            damaged += 1
                self.assertGreater(damaged, 0)
                # The worker tells the front on its own; the reader may be faster.
                wait_until(lambda: int(self.client.get_mount(root).get("damaged_file_count", 0)) >= damaged, 10,
                           "the damage to be told of")
                mount = self.client.get_mount(root)
                self.assertEqual(int(mount["damaged_file_count"]), damaged)
                self.assertEqual(mount["status"], "MOUNT_STATUS_OK")
                self.client.unmount(root)

    def test_integrity_tables(self):
        for name, wanted in (("managedwimlib/VerifySuccess.wim", ""), ("managedwimlib/VerifyFail.wim", "BAD_IMAGE_FORMAT"),
                             ("managedwimlib/MultiImage.wim", ""), ("managedwimlib/XPRESS.wim", "")):
            with self.subTest(image=name):
                root = self.mount_point(name.replace("/", "-"))
                try:
                    self.client.mount(self.image(name), root, check_integrity=True)
                    reason = ""
                    self.client.unmount(root)
                except RpcFailure as failure:
                    reason = failure.reason
                self.assertEqual(reason, wanted)
                self.assert_nothing_left(root)

    def test_a_part_is_missing(self):
        copy = self.own_image("managedwimlib/Split.swm")
        root = self.mount_point()
        with self.assertRaises(RpcFailure) as caught:
            self.client.mount(copy, root)
        self.assertEqual(caught.exception.reason, "PART_MISSING")
        self.assertIn("Split2.swm", caught.exception.message)
        self.assert_nothing_left(root)

    def test_every_truncation_is_refused_or_serves(self):
        """A small image cut after each of many bytes: an error with a reason, or a mount whose reads end. Never a crash."""
        with open(self.image("managedwimlib/LZX.wim"), "rb") as file:
            whole = file.read()
        copy = os.path.join(self.directory, "cut.wim")
        root = self.mount_point()
        for length in range(0, len(whole), 61):
            with open(copy, "wb") as file:
                file.write(whole[:length])
            with self.subTest(length=length):
                try:
                    self.client.mount(copy, root)
                except RpcFailure as failure:
                    self.assertEqual(failure.reason, "BAD_IMAGE_FORMAT")
                    continue
                for top, _, files in os.walk(root):
                    for name in files:
                        try:
                            with open(os.path.join(top, name), "rb") as file:
                                file.read()
                        except OSError as error:
                            self.assertEqual(error.errno, errno.EIO)
                self.client.unmount(root)

    def test_long_paths(self):
        root = self.mount_point()
        self.client.mount(self.image("wimlib/longpaths.wim"), root)
        self.assertGreater(max(map(len, list_tree(root))), 260)


if __name__ == "__main__":
    unittest.main()
