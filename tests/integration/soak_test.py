#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs made to find faults of file systems, on a read-write mount: `fio --verify` and stress-ng's class filesystem.

Environment: DISMD_SOAK_SECONDS (how long each runs, default 15).
"""

import os
import shutil
import subprocess
import unittest

from dismd_service import ServiceTestCase

SECONDS = int(os.environ.get("DISMD_SOAK_SECONDS", "15"))
SLACK_SECONDS = 120  # for what begins before the end
MIB = 1 << 20

# Of the class, what is of other file systems, or what FUSE mounts have not.
LEFT_OUT = ("binderfs", "procfs", "bind-mount", "verity")
# In the usual run, all at once.
SOME = ("chmod", "copy-file", "dentry", "dir", "fallocate", "filename", "flock", "fpunch", "getdent", "link", "locka", "open",
        "rename", "symlink", "sync-file", "touch", "utime", "xattr")


class SoakTest(ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.root = self.mount_point()
        self.wim = self.own_image("ntfs-lzx.wim")
        self.client.mount(self.wim, self.root, read_only=False, unix_data=True)

    def run_program(self, *command):
        self.assertTrue(shutil.which(command[0]), f"{command[0]} is missing: packaging/install-packages.sh soak")
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False,
                              timeout=SECONDS + SLACK_SECONDS)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-4000:])
        return done.stdout + done.stderr

    def finish(self):
        """It can still be committed, and wimlib finds no fault."""
        self.client.unmount(self.root, "CHANGES_COMMIT")
        subprocess.run(["wimverify", self.wim], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def test_fio(self):
        """Random writes of all sizes, each read back and compared, through write(2) and through a shared mapping."""
        share = max(2, SECONDS // 4)
        for engine, more in (("psync", []), ("psync", ["--direct=1"]), ("mmap", []), ("libaio", ["--iodepth=8"])):
            output = self.run_program(
                "fio", "--name=verify", f"--directory={self.root}", "--rw=randrw", "--bsrange=4k-256k", f"--size={16 * MIB}",
                "--numjobs=2", f"--ioengine={engine}", "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1",
                "--do_verify=1", "--time_based", f"--runtime={share}", "--group_reporting", *more)
            self.assertIn("err= 0", output)
        self.finish()

    def test_stress(self):
        folder = f"{self.root}/stress"
        os.mkdir(folder)
        if SECONDS < 60:
            which = [argument for name in SOME for argument in (f"--{name}", "1")] + ["--timeout", f"{SECONDS}s"]
        else:
            which = ["--class", "filesystem", "--exclude", ",".join(LEFT_OUT), "--seq", "1", "--timeout", f"{SECONDS // 50}s"]
        self.run_program("stress-ng", *which, "--verify", "--temp-path", folder, "--no-rand-seed")
        self.assertEqual(os.listdir(folder), [])
        self.finish()


if __name__ == "__main__":
    unittest.main()
