#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs that were written from Microsoft's documentation: documented_program.c, and the page of DismMountImage's own
example (tests/unit/client_example.c). What they have done is asked of wimlib."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

from dismd_service import ServiceTestCase  # noqa: E402

USER = 51234


class DocumentedProgramTest(ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.drive = os.path.join(self.directory, "drive")
        for name in ("", "/test", "/test/images", "/test/offline"):
            os.mkdir(self.drive + name)
            os.chown(self.drive + name, USER, USER)
        self.image_path = f"{self.drive}/test/images/myimage.wim"
        self.offline = f"{self.drive}/test/offline"
        os.rename(self.own_image("small.wim", uid=USER), self.image_path)

    def run_program(self, name, *arguments, **options):
        done = subprocess.run(
            [os.path.join(os.environ["DISMD_BIN_DIR"], name), *arguments], capture_output=True, text=True, check=False,
            timeout=120, user=USER, group=USER, extra_groups=[], cwd="/",
            env={**os.environ, "DISMD_ADDRESS": self.service.address, "DISMD_DRIVES": f"C:={self.drive}"}, **options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_service_an_image(self):
        text = self.run_program("documented_program", input=f"{self.offline}/edited.txt\n")
        for wanted in ("mounting: 100 %\n", "committing: 100 %\n", "unmounting: 100 %\n", "image 1: Small\n",
                       f"mounted: {self.offline}, read/write, status 0\n", "DismMountImage failed: 0x80070057\n",
                       "missing.wim"):
            self.assertIn(wanted, text)
        with open(f"{self.drive}/test/dism.log", encoding="utf-8") as file:
            self.assertRegex(file.read(), r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, Error +DISM   API: PID=\d+ TID=\d+ .*0x80070057")
        edited = subprocess.run(["wimextract", self.image_path, "1", "/edited.txt", "--to-stdout"], capture_output=True, check=True)
        self.assertEqual(edited.stdout, b"changed")
        self.assert_nothing_left(self.offline)

    def test_the_example_of_dism_mount_image(self):
        """As C99 and as C++."""
        for program in ("client_example_c", "client_example_cxx"):
            self.run_program(program)
            self.assert_nothing_left(self.offline)

    def test_a_program_that_ends_without_shutting_down(self):
        self.run_program("client_example_c", "leave")
        mount, = self.client.mounts()
        self.assertEqual((mount["mount_path"], mount["status"]), (self.offline, "MOUNT_STATUS_OK"))
        self.client.unmount(self.offline)
        self.assert_nothing_left(self.offline)


if __name__ == "__main__":
    unittest.main()
