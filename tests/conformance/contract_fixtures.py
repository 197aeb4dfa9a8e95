# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract's rows stand on: images in each format, and the set-ups that contract.tsv names.

A set-up is a method of Setting; its first words are the method's name, the rest its argument: "image two" calls
image("two"), "mount point not empty" calls mount_point("not empty"). They run in the order of the row.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

import disks  # noqa: E402
import ntfs_volume  # noqa: E402
import processes  # noqa: E402
from dismd_client import Caller  # noqa: E402
from dismd_service import Service  # noqa: E402
from ntfs_volume import run  # noqa: E402
from processes import wait_until  # noqa: E402

CALLER = 51234  # nobody here has this id
HELLO = b"Hello, world\n"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"

# Offsets in a WIM, and flags in its header.
FLAGS_OFFSET = 16
FLAG_READ_ONLY = 0x4
FLAG_WRITE_IN_PROGRESS = 0x40
IN_A_BLOB = 208 + 1000  # the header's 208 bytes are followed by file data

# Of ManagedDism's test images: what Windows Setup writes into the XML of a WIM.
WINDOWS = {
    "WINDOWS/ARCH": "9", "WINDOWS/EDITIONID": "WindowsPE", "WINDOWS/INSTALLATIONTYPE": "WindowsPE",
    "WINDOWS/PRODUCTNAME": "Microsoft Windows Operating System", "WINDOWS/PRODUCTTYPE": "WinNT",
    "WINDOWS/LANGUAGES/LANGUAGE": "en-US", "WINDOWS/LANGUAGES/DEFAULT": "en-US", "WINDOWS/SYSTEMROOT": "WINDOWS",
    "WINDOWS/VERSION/MAJOR": "6", "WINDOWS/VERSION/MINOR": "3", "WINDOWS/VERSION/BUILD": "9600",
    "WINDOWS/VERSION/SPBUILD": "16384", "WINDOWS/VERSION/SPLEVEL": "0",
}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def fill(tree):
    os.makedirs(f"{tree}/folder")
    write(f"{tree}/hello.txt", HELLO)
    # Two files that no codec makes small, so that a set split at 1 MiB has two parts.
    for number, name in enumerate(("noise", "more")):
        write(f"{tree}/folder/{name}.bin", b"".join(hashlib.sha256(b"%d %d" % (number, i)).digest()
                                                  for i in range(800 << 5)))


def make_wims(directory):
    tree = f"{directory}/tree"
    fill(tree)

    def capture(name, image_name, *options):
        run("wimcapture", tree, f"{directory}/{name}", image_name, "--no-acls", *options)

    capture("small.wim", "Small", "--compress=XPRESS")
    capture("two.wim", "First", "--compress=LZX")
    run("wimappend", tree, f"{directory}/two.wim", "Second", "--no-acls")
    capture("checked.wim", "Checked", "--compress=XPRESS", "--check")
    capture("solid.esd", "Solid", "--solid")
    capture("pipable.wim", "Pipable", "--pipable")
    run("wimsplit", f"{directory}/small.wim", f"{directory}/split.swm", "1")
    shutil.copyfile(f"{directory}/split.swm", f"{directory}/lonely.swm")
    shutil.copyfile(f"{directory}/two.wim", f"{directory}/windows.wim")
    run("wiminfo", f"{directory}/windows.wim", "1",
        *(f"--image-property={name}={value}" for name, value in WINDOWS.items()))
    shutil.rmtree(tree)

    def changed(name, source, offset, value):
        data = bytearray(read(f"{directory}/{source}"))
        data[offset] ^= value
        write(f"{directory}/{name}", data)

    changed("check-fails.wim", "checked.wim", IN_A_BLOB, 1)  # only the table tells
    changed("being-written.wim", "small.wim", FLAGS_OFFSET, FLAG_WRITE_IN_PROGRESS)
    changed("write-protected.wim", "small.wim", FLAGS_OFFSET, FLAG_READ_ONLY)


def make_disks(directory, extension):
    def make(name, volume):
        raw = f"{directory}/raw"
        disks.make_disk(raw, ((disks.BASIC, 16, volume),))
        disks.convert(raw, f"{directory}/{name}.{extension}")
        os.unlink(raw)

    volume = f"{directory}/volume"
    disks.make_volume(volume, 16, lambda root: write(f"{root}/hello.txt", HELLO))
    make("small", volume)
    with ntfs_volume.mounted(volume) as root:
        write(f"{root}/hiberfil.sys", b"HIBR" + bytes(4096))
    make("hibernated", volume)
    with open(volume, "wb") as file:
        file.truncate(16 * disks.MIB)
        file.write(b"\xeb\x58\x90-FVE-FS-")
        file.seek(510)
        file.write(b"\x55\xaa")
    make("locked", volume)
    os.unlink(volume)


def make_images(directory, extension):
    """All images of a format, and the damaged ones, which are the same in each."""
    os.mkdir(directory)
    if extension == "wim":
        make_wims(directory)
    else:
        make_disks(directory, extension)
    small = read(f"{directory}/small.{extension}")
    write(f"{directory}/garbage.{extension}", hashlib.sha512(b"garbage").digest() * 2000)
    write(f"{directory}/empty.{extension}", b"")
    write(f"{directory}/short.{extension}", small[:len(small) // 2])
    write(f"{directory}/private.{extension}", small)
    write(f"{directory}/small.txt", small)
    write(f"{directory}/small", small)
    os.mkdir(f"{directory}/directory.{extension}")
    for name in os.listdir(directory):
        os.chmod(f"{directory}/{name}", 0o755 if name.startswith("directory") else 0o644)
    os.chmod(f"{directory}/private.{extension}", 0o600)
    os.chmod(directory, 0o755)


class World:
    """One service for all rows of a format."""

    def __init__(self, extension):
        self.extension = extension
        self.directory = tempfile.mkdtemp(prefix="contract-")
        os.chmod(self.directory, 0o755)
        self.images = f"{self.directory}/images"
        make_images(self.images, extension)
        self.seams = f"{self.directory}/seams"
        self.home = f"{self.directory}/home"
        for path in (self.seams, self.home, f"{self.directory}/service"):
            os.mkdir(path)
        os.chmod(self.seams, 0o777)
        os.chown(self.home, CALLER, CALLER)
        os.chmod(f"{self.directory}/service", 0o755)
        self.service = Service(f"{self.directory}/service", environment={"DISMD_TEST_SEAM_DIR": self.seams}).start()
        self.caller = Caller(self.service.address, CALLER)
        self.rows = 0

    def restart_service(self, stopped=lambda: None):
        """`stopped` is called in between."""
        self.caller.close()
        wrong = self.service.stop()
        stopped()
        self.service.start()
        self.caller = Caller(self.service.address, CALLER)
        assert not wrong, wrong

    def close(self):
        """What the service left behind, a list of sentences; and the end of its log."""
        self.caller.close()
        wrong = self.service.stop()
        log = self.service.end_of_log()
        shutil.rmtree(self.directory, ignore_errors=True)
        return wrong, log


class Setting:
    """What one row finds, for one client: image_path, point (the mount point), and how they were before."""

    def __init__(self, world):
        self.world = world
        world.rows += 1
        self.directory = f"{world.directory}/row-{world.rows}"
        os.mkdir(self.directory)
        os.chown(self.directory, CALLER, CALLER)
        self.undo, self.undo_last = contextlib.ExitStack(), contextlib.ExitStack()  # before and after unmounting
        self.undo_last.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.image("small")
        self.point = self.new_directory("mnt")
        # What the client is started with, and when it is cancelled.
        self.environment = {}
        self.prefix = ()
        self.cancel_at = self.seam = None
        self.signalled = False
        self.drives = self.drive_letter = None

    def prepare(self, set_ups):
        methods = sorted((name for name in dir(self) if not name.startswith("_")), key=len, reverse=True)
        for set_up in set_ups:
            method = next((m for m in methods if f"{set_up} ".startswith(m.replace("_", " ") + " ")), None)
            assert method, f"no such set-up: {set_up}"
            argument = set_up[len(method):].strip()
            getattr(self, method)(*((argument,) if argument else ()))
        self.before = self._image_bytes()

    def clean_up(self):
        """Takes away what the row has left as it should."""
        self.undo.close()
        for mount in self.world.caller.mounts():
            self.world.caller.call("CleanupMountpoints", {"mount_id": mount["mount_id"], "force": True})
        wait_until(lambda: not self.world.service.workers(), 20, "the workers to end")
        self.undo_last.close()

    def new_directory(self, name, uid=CALLER):
        path = f"{self.directory}/{name}"
        os.mkdir(path)
        os.chown(path, uid, uid)
        return path

    def _image_bytes(self):
        if not os.path.isfile(self.image_path):
            return None
        if self.image_path.startswith(self.directory):
            return hashlib.sha256(read(self.image_path)).digest()
        status = os.stat(self.image_path)  # root's: enough to see that nobody has written to it
        return status.st_size, status.st_mtime_ns, status.st_ino

    def image_is_as_before(self):
        return self._image_bytes() == self.before

    # ---- Images ----

    def image(self, name):
        """small, two, ...: one of make_images, root's and readable."""
        name = name if "." in name or name == "without an extension" else f"{name}.{self.world.extension}"
        self.image_path = f"{self.world.images}/{'small' if name == 'without an extension' else name}"

    def own_image(self, name="small"):
        """A copy that belongs to the caller."""
        self.image(name)
        name = os.path.basename(self.image_path)
        copy = f"{self.directory}/{name}"
        run("cp", "--sparse=always", self.image_path, copy)
        os.chown(copy, CALLER, CALLER)
        os.chmod(copy, 0o644)
        self.image_path = copy
        if name == "split.swm":
            shutil.copyfile(f"{self.world.images}/split2.swm", f"{self.directory}/split2.swm")

    def image_on_sshfs(self):
        """On a file system that speaks to another host: sshfs, its other end run here."""
        remote = self.new_directory("sshfs", uid=0)
        server = f"{self.directory}/sftp"
        write(server, f"#!/bin/sh\nexec {SFTP_SERVER}\n".encode())
        os.chmod(server, 0o755)
        run("sshfs", f"host:{self.world.images}", remote, "-o", f"ssh_command={server}", "-o", "allow_other,ro")
        self.undo_last.callback(run, "umount", remote)
        self.image_path = f"{remote}/{os.path.basename(self.image_path)}"

    def image_changed(self):
        """By another program."""
        with open(self.image_path, "ab") as file:
            file.write(b"a stranger's bytes")
        self.before = self._image_bytes()

    def image_updated(self):
        """By another program, which writes another image of that index."""
        run("wimupdate", self.image_path, "1", "--command=delete /hello.txt")
        self.before = self._image_bytes()

    def image_gone(self):
        os.unlink(self.image_path)

    def change_noticed(self):
        """By a read that reaches the file."""
        read_it = ("cat", f"{self.point}/folder/noise.bin")
        assert self.world.caller.run(*read_it).returncode != 0, "what another program changed can be read"
        wait_until(lambda: self.world.caller.mounts()[0]["status"] == "MOUNT_STATUS_INVALID", 20, "the mount to be invalid")

    # ---- Mount points ----

    def mount_point(self, kind):
        if kind == "missing":
            self.point += "-missing"
        elif kind == "a file":
            self.point += "-file"
            write(self.point, b"x")
        elif kind in ("not empty", "foreign and not empty", "filled meanwhile"):
            write(f"{self.point}/file", b"x")
        elif kind == "a root":
            run("mount", "-t", "tmpfs", "-o", f"size=1m,uid={CALLER},gid={CALLER}", "tmpfs", self.point)
            self.undo_last.callback(run, "umount", self.point)
        elif kind == "on proc":
            self.point = "/proc/self/fdinfo"
        else:
            assert kind == "foreign", kind
        if kind.startswith("foreign"):
            os.chown(self.point, 0, 0)

    def drive_letters(self):
        """Paths are given as C:\\..."""
        self.environment["DISMD_DRIVES"] = f"C:={self.world.directory}"
        self.drives = self.world.directory

    def a_free_drive_letter(self):
        self.environment["DISMD_DRIVES"] = f"*:={self.new_directory('drives')}"
        self.point, self.drive_letter = f"{self.directory}/drives/X", "X:\\"

    # ---- What is there already ----

    def mounted(self, how="read-only"):
        """By the same caller: read-only or read-write, at the mount point or "elsewhere"; of image 1 or "second"."""
        point = self.new_directory("other") if "elsewhere" in how else self.point
        self.world.caller.mount(self.image_path, point, index=2 if "second" in how else 1,
                                read_only="read-only" in how)

    def mounted_by_another_user(self):
        self.point = self.new_directory("theirs", uid=CALLER + 1)
        with Caller(self.world.service.address, CALLER + 1) as other:
            other.mount(self.image_path, self.point)

        def unmount():
            with Caller(self.world.service.address, CALLER + 1) as other:
                other.unmount(self.point)

        self.undo.callback(unmount)

    def edited(self, name="new.txt"):
        done = self.world.caller.run("sh", "-c", 'printf changed > "$0"', f"{self.point}/{name}")
        assert done.returncode == 0, done.stderr

    def service_restarted(self):
        self.world.restart_service()

    def service_stopped(self):
        self.world.caller.close()
        wrong = self.world.service.stop()
        assert not wrong, wrong

        def start():
            self.world.service.start()
            self.world.caller = Caller(self.world.service.address, CALLER)

        self.undo.callback(start)

    def in_use(self):
        """A process of the caller's has a file of the mount open."""
        holder = subprocess.Popen(["sh", "-c", f"exec 3< '{self.point}/hello.txt' && echo ready && exec cat"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=CALLER, group=CALLER,
                                  extra_groups=[], cwd="/")
        assert holder.stdout.readline() == b"ready\n"
        wait_until(lambda: processes.name(holder.pid) == "cat", 20, "the holder to be cat")

        def end():
            holder.stdin.close()
            holder.wait()
            holder.stdout.close()

        self.undo.callback(end)

    # ---- The caller ----

    def in_another_mount_namespace(self):
        self.prefix = ("unshare", "--mount")

    def event_signalled(self):
        self.signalled = True

    def cancelled(self, when):
        """at SEAM: the operation stops there, and is cancelled. from callback [at the end]: libdismapi's.

        "auto": by an event that resets itself. "too late at SEAM": past the point of no return.
        """
        self.cancel_at = when
        if " at " in f" {when}" and not when.startswith("from callback"):
            self.seam = f" {when} ".partition(" at ")[2].split()[0]
            write(self._seam_file("stop"), b"")
            self.undo.callback(self.let_go)

    def cancel(self, signal):
        """What is cancelled in time ends by itself, wherever it stands; what is too late must be let go."""
        self.wait_for_seam()
        signal()
        if self.cancel_at.startswith("too late"):
            self.let_go()

    def _seam_file(self, suffix):
        return f"{self.world.seams}/{self.seam}.{suffix}"

    def wait_for_seam(self):
        wait_until(lambda: os.path.exists(self._seam_file("reached")), 30, f"the operation to come to {self.seam}")

    def let_go(self):
        for suffix in ("stop", "reached"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._seam_file(suffix))


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
        return None if words in self.world.service.log() else "the log does not say so"

    def logged(self, number):
        """So many lines of DISM's format in the log at the mount point."""
        line = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, (Error|Info) +DISM   API: PID=\d+ TID=\d+ DismApi: .*HRESULT=0x[0-9A-F]{8} - Dism\w+\r"
        lines = read(f"{self.setting.point}/dism.log").split(b"\n")[:-1]
        return None if len(lines) == int(number) and all(re.fullmatch(line, text) for text in lines) else str(lines)

    def images(self, number):
        found = run("wiminfo", "--header", self.setting.image_path).decode()
        return None if f"Image Count                 = {number}\n" in found else found

    def has(self, argument):
        """NAME INDEX: the image holds the edited file, as wimlib reads it, and is sound."""
        name, index = argument.split()
        run("wimverify", self.setting.image_path)
        text = run("wimextract", self.setting.image_path, index, f"/{name}", "--to-stdout")
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
