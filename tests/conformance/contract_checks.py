# SPDX-License-Identifier: GPL-3.0-or-later
"""What contract.tsv can ask for afterwards."""

import os
import re

from contract_images import DISK_VOLUME_MIB, HELLO, read  # first: it says where the next are
import ntfs_volume
import processes
from ntfs_volume import run
from processes import wait_until


class After:
    """The checks of contract.tsv's last column, methods as the set-ups are. Each returns what is wrong, or None."""

    def __init__(self, setting, answer):
        self.setting, self.answer = setting, answer
        self.world = setting.world

    def check(self, checks):
        wrong = []
        for check in checks:
            name, _, argument = check.partition(" ")
            method = getattr(self, name.replace("-", "_"), None)
            assert method, f"no such check: {check}"
            found = method(argument) if argument else method()
            if found:
                wrong.append(f"{check}: {found}")
        return wrong

    def _mounts(self):
        return self.world.caller.mounts()

    def nothing(self):
        """No mount, no process, the image file as it was."""
        try:
            wait_until(lambda: not self.world.service.workers(), 20, "the workers to end")
        except AssertionError as error:
            return str(error)
        mounts = [mount["mount_path"] for mount in self._mounts()] + processes.mounts_below(self.setting.directory)
        allowed = [self.setting.point] if os.path.ismount(self.setting.point) else []  # the row's own file system
        left = [path for path in mounts if path not in allowed and not path.endswith("/sshfs")]
        if left:
            return f"there are mounts: {left}"
        return self.unchanged()

    def unchanged(self):
        return None if self.setting.image_is_as_before() else "the image file has changed"

    def mounted(self, mode="read-only"):
        """There is one mount of ours, whose files can be read."""
        mounts = self._mounts()
        if [mount["mount_path"] for mount in mounts] != [self.setting.point]:
            return f"there is {mounts}"
        if mounts[0].get("read_only", False) != (mode == "read-only"):
            return "it is the other mode"
        if mounts[0]["status"] != "MOUNT_STATUS_OK":
            return mounts[0]["status"]
        text = self.world.caller.run("cat", f"{self.setting.point}/hello.txt")
        return None if text.stdout == HELLO else f"hello.txt: {text}"

    def mounts(self, number):
        found = len(self._mounts())
        return None if found == int(number) else f"there are {found}"

    def status(self, status):
        mounts = self._mounts()
        wanted = f"MOUNT_STATUS_{status.upper().replace('-', '_')}"
        return None if [mount["status"] for mount in mounts] == [wanted] else str(mounts)

    def warns(self, words):
        """The service's log says so of the image file."""
        return None if f"{self.setting.image_path} {words}" in self.world.service.log() else "the log does not say so"

    def logged(self, number):
        """So many lines of DISM's format in the log at the mount point."""
        line = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, (Error|Info) +DISM   API: PID=\d+ TID=\d+ DismApi: .*HRESULT=0x[0-9A-F]{8} - Dism\w+\r"
        lines = read(f"{self.setting.point}/dism.log").split(b"\n")[:-1]
        return None if len(lines) == int(number) and all(re.fullmatch(line, text) for text in lines) else str(lines)

    def images(self, number):
        found = run("wiminfo", "--header", self.setting.image_path).decode()
        return None if f"Image Count                 = {number}\n" in found else found

    def has(self, argument):
        """NAME INDEX: the image holds the edited file, as wimlib (of a disk: ntfs-3g) reads it, and is sound."""
        name, index = argument.split()
        if self.world.extension != "wim":
            return self._has_on_disk(name)
        run("wimverify", self.setting.image_path)
        text = run("wimextract", self.setting.image_path, index, f"/{name}", "--to-stdout")
        return None if text == b"changed" else f"it holds {text!r}"

    def _has_on_disk(self, name):
        raw, volume = f"{self.setting.directory}/raw", f"{self.setting.directory}/volume"
        kind = {"vhd": "vpc", "vhdx": "vhdx"}[self.world.extension]
        run("qemu-img", "convert", "-f", kind, "-O", "raw", self.setting.image_path, raw)
        run("dd", f"if={raw}", f"of={volume}", "bs=1M", "skip=1", f"count={DISK_VOLUME_MIB}", "conv=sparse", "status=none")
        run("ntfsfix", "--no-action", volume)
        with ntfs_volume.mounted(volume, "ro") as root:
            text = read(f"{root}/{name}")
        return None if text == b"changed" else f"it holds {text!r}"

    def lacks(self, argument):
        name, index = argument.split()
        listing = run("wimdir", self.setting.image_path, index).decode().splitlines()
        return None if f"/{name}" not in listing else "it is there"

    def checkable(self):
        """The file has an integrity table, and it is right."""
        run("wimapply", "--check", self.setting.image_path, "1", self.setting.new_directory("applied", uid=0))
        found = run("wiminfo", "--header", self.setting.image_path).decode() + run("wiminfo", self.setting.image_path).decode()
        return None if "Integrity" in found else "there is no integrity table"

    def tells(self, wanted):
        """"name=First": the n-th thing told has this field. "count=2"; "status=Ok"."""
        key, _, value = wanted.partition("=")
        value = value.replace("IMAGE", self.setting.image_path).replace("MOUNT", self.setting.point)
        if key == "count":
            return None if len(self.answer) == int(value) else f"there are {len(self.answer)}"
        found = [str(item.get(key)) for item in self.answer]
        return None if value in found else f"it tells {found}"
