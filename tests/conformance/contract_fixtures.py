# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract's rows stand on: a service for all of a format, and the set-ups that contract.tsv names.

A set-up is a method of Setting; its first words are the method's name, the rest its argument: "image two" calls
image("two"), "mount point not empty" calls mount_point("not empty"). They run in the order of the row.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile

from contract_images import make_images, read, write  # first: it says where the next are
import processes
from dismd_client import Caller
from dismd_service import Service
from ntfs_volume import run
from processes import wait_until

CALLER = 51234  # nobody here has this id
SFTP_SERVER = "/usr/lib/openssh/sftp-server"

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
