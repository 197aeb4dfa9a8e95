#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-write mounts through the service: edits, commits, discards, and what outlives which process."""

import contextlib
import hashlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

import processes
from dismd_client import Caller, Client, RpcFailure
from dismd_service import ServiceTestCase
from processes import wait_until

OWNER = 4242
KILLS = 20


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def read_anew(path):
    """Not from the kernel's cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


class ReadWriteTestCase(ServiceTestCase):
    """The service with an image of the test's own."""

    def setUp(self):
        super().setUp()
        self.wim = self.own_image("two-images.wim")
        self.root = self.mount_point()

    def mount_rw(self, image=None, root=None, index=1, client=None, **fields):
        return (client or self.client).mount(image or self.wim, root or self.root, index=index, read_only=False, **fields)

    def commit(self, root=None, client=None, **options):
        return list((client or self.client).stream("CommitImage", {"mount_path": root or self.root, "options": options}))[-1]

    def unmount(self, changes, root=None, client=None, **options):
        request = {"mount_path": root or self.root, "changes": f"CHANGES_{changes}"}
        if options:
            request["commit"] = options
        return list((client or self.client).stream("UnmountImage", request))[-1]

    def remount(self, root=None, client=None):
        return list((client or self.client).stream("RemountImage", {"mount_path": root or self.root}))[-1]

    def edit(self, root=None, word="edited"):
        root = root or self.root
        write(f"{root}/one.txt", word.encode())
        os.mkdir(f"{root}/made-{word}")
        write(f"{root}/made-{word}/big.bin", word.encode() * 100_000)
        os.rename(f"{root}/three/four.txt", f"{root}/three/five-{word}.txt")

    def assert_edited(self, root, word="edited"):
        self.assertEqual(read(f"{root}/one.txt"), word.encode())
        self.assertEqual(read(f"{root}/made-{word}/big.bin"), word.encode() * 100_000)
        self.assertEqual(read(f"{root}/three/five-{word}.txt"), b"four\n")

    def applied(self, index=1, image=None):
        """What wimlib makes of the image, after having verified it."""
        subprocess.run(["wimverify", image or self.wim], check=True, stdout=subprocess.DEVNULL)
        target = tempfile.mkdtemp(dir=self.directory)
        subprocess.run(["wimapply", image or self.wim, str(index), target], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return target

    def fails(self, reason):
        return self.FailureContext(self, reason)

    class FailureContext:
        def __init__(self, test, reason):
            self.test, self.reason, self.message = test, reason, None

        def __enter__(self):
            return self

        def __exit__(self, kind, error, _):
            self.test.assertIsInstance(error, RpcFailure)
            self.test.assertEqual(error.reason, self.reason, error.message)
            self.message = error.message
            return True

    def restart(self):
        """After the service's processes have been killed: starts it anew."""
        self.service.process.wait()
        self.service.process = None
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)

    def status(self, root=None):
        return self.client.get_mount(root or self.root)["status"]


class EditTest(ReadWriteTestCase):
    def test_discard_leaves_the_image_as_it_was(self):
        before = digest(self.wim)
        mount = self.mount_rw()
        self.assertFalse(mount.get("read_only", False))
        self.edit()
        self.assert_edited(self.root)
        wait_until(lambda: self.client.get_mount(self.root).get("has_changes"), 10, "the edits to be counted")
        self.unmount("DISCARD")
        self.assertEqual(digest(self.wim), before)
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])
        self.assert_nothing_left(self.root)

    def test_what_becomes_of_the_changes_must_be_said(self):
        self.mount_rw()
        with self.fails("INVALID_FLAGS"):
            self.unmount("UNSPECIFIED")
        self.unmount("DISCARD")
        self.client.mount(self.wim, self.root)
        with self.fails("MOUNT_READ_ONLY"):
            self.commit()
        with self.fails("MOUNT_READ_ONLY"):
            self.unmount("COMMIT")
        self.client.unmount(self.root)

    def test_commit_while_mounted(self):
        self.mount_rw()
        self.edit(word="first")
        self.commit()
        target = self.applied()
        self.assert_edited(target, "first")
        self.assertEqual(read(f"{self.applied(2)}/two.bin"), b"changed")
        self.assert_edited(self.root, "first")
        size = os.path.getsize(self.wim)
        mount = self.client.get_mount(self.root)
        self.assertEqual((mount.get("has_changes"), mount.get("changed_files")), (None, None))  # neither is said
        self.commit()  # nothing was changed since
        self.assertEqual(os.path.getsize(self.wim), size)
        write(f"{self.root}/one.txt", b"second")
        self.assertEqual(int(self.client.get_mount(self.root)["changed_files"]), 1)
        self.unmount("DISCARD")
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"first")

    def test_commit_at_unmount(self):
        self.mount_rw(index=2)
        self.edit()
        self.unmount("COMMIT", generate_integrity=True)
        self.assert_nothing_left(self.root)
        self.assert_edited(self.applied(2))
        self.assertEqual(read(f"{self.applied(1)}/one.txt"), b"one\n")
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])

    def test_append(self):
        self.mount_rw()
        self.edit()
        self.commit(append=True)
        self.assertEqual(self.client.get_mount(self.root)["image_index"], 3)
        self.assert_edited(self.applied(3))
        self.assertEqual(read(f"{self.applied(1)}/one.txt"), b"one\n")
        write(f"{self.root}/one.txt", b"later")
        self.unmount("COMMIT")
        self.assertEqual(read(f"{self.applied(3)}/one.txt"), b"later")
        self.assertEqual(read(f"{self.applied(1)}/one.txt"), b"one\n")

    def test_busy_unmount_commits_nothing(self):
        self.mount_rw()
        self.edit()
        before = digest(self.wim)
        with open(f"{self.root}/one.txt", "rb"):
            with self.fails("MOUNT_BUSY"):
                self.unmount("COMMIT", append=True)
            self.assertEqual(digest(self.wim), before)
            write(f"{self.root}/after.txt", b"after")
        self.unmount("COMMIT", append=True)
        self.assertEqual(read(f"{self.applied(3)}/after.txt"), b"after")
        self.assertEqual(subprocess.run(["wiminfo", self.wim], capture_output=True, text=True, check=True).stdout.count(
            "Display Name"), 0)
        self.assertNotEqual(subprocess.run(["wimapply", self.wim, "4", self.directory + "/none"], check=False,
                                           capture_output=True).returncode, 0)


class ManyMountsTest(ReadWriteTestCase):
    def test_two_images_and_a_reader_of_one_file(self):
        second, reader = self.mount_point("second"), self.mount_point("reader")
        self.mount_rw(index=1)
        self.mount_rw(root=second, index=2)
        self.client.mount(self.wim, reader, index=1)
        with self.fails("ALREADY_MOUNTED_READ_WRITE"):
            self.mount_rw(root=self.mount_point("third"), index=1)
        self.edit(word="first")
        self.edit(second, word="second")
        self.commit()
        self.assertEqual([self.status(root) for root in (self.root, second, reader)], ["MOUNT_STATUS_OK"] * 3)
        self.commit(second)
        self.assertEqual(read(f"{reader}/one.txt"), b"one\n")
        self.assertEqual(len(read(f"{reader}/two.bin")), 200_000)
        write(f"{self.root}/again.txt", b"again")
        self.unmount("COMMIT")
        self.unmount("COMMIT", second)
        self.assertEqual(self.status(reader), "MOUNT_STATUS_OK")
        self.client.unmount(reader)
        self.assert_edited(self.applied(1), "first")
        self.assertEqual(read(f"{self.applied(1)}/again.txt"), b"again")
        self.assert_edited(self.applied(2), "second")

    def test_changed_by_another_program(self):
        self.mount_rw()
        self.edit()
        subprocess.run(["wiminfo", self.wim, "2", "Other name"], check=True, stdout=subprocess.DEVNULL)
        with self.fails("IMAGE_CHANGED"):
            self.commit()
        self.unmount("DISCARD")

    def test_attributes_and_names_of_the_image(self):
        """chmod, chown, link and rename of a mounted image change its ctime, and nothing that the mount stands on."""
        reader = self.mount_point("reader")
        self.mount_rw()
        self.client.mount(self.wim, reader, index=2)
        self.edit()
        for change in (lambda: os.chmod(self.wim, 0o660), lambda: os.chown(self.wim, os.getuid(), 4242),
                       lambda: os.link(self.wim, self.wim + ".link"), lambda: os.rename(self.wim, self.wim + ".moved"),
                       lambda: os.rename(self.wim + ".moved", self.wim), lambda: os.unlink(self.wim + ".link")):
            change()
            self.assertEqual(read_anew(f"{reader}/two.bin"), b"changed")
            write(f"{self.root}/again.txt", b"again")
            self.commit()
        os.chmod(self.wim, 0o600)
        self.assertEqual(read_anew(f"{reader}/one.txt"), b"one\n")
        self.assertEqual(len(read_anew(f"{self.root}/two.bin")), 200_000)
        self.assertEqual([self.status(root) for root in (self.root, reader)], ["MOUNT_STATUS_OK"] * 2)
        self.unmount("COMMIT")
        self.client.unmount(reader)
        self.assert_edited(self.applied())
        self.assertEqual(read(f"{self.applied()}/again.txt"), b"again")

    def test_changed_by_another_program_that_puts_the_time_back(self):
        self.mount_rw()
        self.edit()
        before = os.stat(self.wim)
        with open(self.wim, "r+b") as file:
            file.seek(0x18)
            file.write(b"another identity")
        os.utime(self.wim, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = digest(self.wim)
        with self.fails("IMAGE_CHANGED"):
            self.commit()
        self.assertEqual(digest(self.wim), changed)
        self.unmount("DISCARD")

    def test_locked_by_another_program(self):
        self.mount_rw()
        self.edit()
        holder = subprocess.Popen(["flock", self.wim, "-c", "echo held; read line"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.wait)
        self.assertEqual(holder.stdout.readline(), "held\n")
        before = digest(self.wim)
        with self.fails("IMAGE_IN_USE"):
            self.commit()
        self.assertEqual(digest(self.wim), before)
        holder.communicate("\n")
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_refusals(self):
        for part in (2, 3):
            self.own_image(f"ntfs-split{part}.swm")
        for name, reason in (("ntfs-split.swm", "SPLIT_IMAGE"), ("ntfs-solid.esd", "SOLID_IMAGE"),
                             ("ntfs-pipable.wim", "IMAGE_READ_ONLY")):
            with self.subTest(name):
                with self.fails(reason):
                    self.mount_rw(self.own_image(name))
        with Caller(self.service.address, OWNER) as caller:
            with self.fails("IMAGE_READ_ONLY"):
                self.mount_rw(root=self.mount_point("owned", uid=OWNER), client=caller)
        self.assert_nothing_left(self.root)


class NewFileTest(ReadWriteTestCase):
    """A new file that is open for writing alone is written past the page cache: nobody else may notice."""

    def setUp(self):
        super().setUp()
        self.mount_rw()
        self.path = f"{self.root}/new"
        self.maker = self.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def open(self, flags):
        descriptor = os.open(self.path, flags, 0o644)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_readers_and_writers_see_each_other(self):
        shadow = bytearray()
        others = [self.open(os.O_RDONLY), self.open(os.O_RDWR | os.O_APPEND), self.open(os.O_WRONLY)]
        chance = random.Random(1)
        for _ in range(300):
            data = chance.randbytes(chance.choice((1, 80, 4096, 5000, 70_000)))
            writer = chance.choice((self.maker, others[1], others[2]))
            offset = len(shadow) if writer == others[1] else chance.randrange(len(shadow) + 1)
            if writer == others[1]:
                os.write(writer, data)
            else:
                os.pwrite(writer, data, offset)
            shadow[offset:offset + len(data)] = data
            self.assertEqual(os.fstat(others[0]).st_size, len(shadow))
            at = chance.randrange(len(shadow))
            self.assertEqual(os.pread(others[0], 10_000, at), shadow[at:at + 10_000])
            if chance.randrange(20) == 0:
                size = chance.randrange(len(shadow))
                os.ftruncate(chance.choice((self.maker, others[1])), size)
                del shadow[size:]
                shadow.extend(b"x" * (len(shadow) == 0))
                os.pwrite(self.maker, shadow[-1:], len(shadow) - 1)
        self.assertEqual(read(self.path), shadow)
        self.commit()
        self.assertEqual(read(f"{self.applied()}/new"), shadow)

    def test_mapped_meanwhile_and_afterwards(self):
        os.write(self.maker, b"a" * 8192)
        other = self.open(os.O_RDWR)
        with mmap.mmap(other, 8192) as mapping:
            self.assertEqual(mapping[:], b"a" * 8192)
            os.pwrite(self.maker, b"b" * 10, 4090)
            wait_until(lambda: mapping[4090:4100] == b"b" * 10, 10, "the mapping to show what was written")
            mapping[0:3] = b"map"
            self.assertEqual(os.pread(other, 4, 0), b"mapa")
            os.pwrite(self.maker, b"PA", 2)
            wait_until(lambda: mapping[0:4] == b"maPA", 10, "the mapping to show what was written")
            mapping[8000:8003] = b"end"
        os.pwrite(self.maker, b"last", 5000)
        wanted = bytearray(b"a" * 8192)
        wanted[0:4], wanted[4090:4100], wanted[5000:5004], wanted[8000:8003] = b"maPA", b"b" * 10, b"last", b"end"
        self.assertEqual(read(self.path), wanted)

    def test_read_by_mapping_as_soon_as_it_is_closed(self):
        for number in range(200):
            path = f"{self.root}/f{number}"
            data = b"%04d" % number * (1 + number * 7)
            write(path, data)
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
                self.assertEqual(mapping[:], data)
                mapping[0:1] = b"M"
            self.assertEqual(read(path), b"M" + data[1:])


class CrashTest(ReadWriteTestCase):
    def test_worker_killed_under_load(self):
        """Readers and writers see no error, and nothing that was acknowledged is lost."""
        self.mount_rw()
        stop = threading.Event()
        errors, written = [], [0] * 3

        def work(number):
            try:
                path = f"{self.root}/file-{number}"
                with open(path, "wb", buffering=0) as file:
                    while not stop.is_set():
                        assert file.write(f"{written[number]:8d}".encode()) == 8
                        written[number] += 1
                        if written[number] % 50 == 0:
                            other = f"{path}.{written[number]}"
                            os.mkdir(other)
                            os.rename(other, other + ".renamed")
                            os.rmdir(other + ".renamed")
                            assert read(f"{self.root}/three/four.txt") == b"four\n"
            except Exception as error:  # told by the test
                errors.append(repr(error))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            before = list(written)
            wait_until(lambda: errors or all(now > then for now, then in zip(written, before)), 30, "work to go on")
            worker = self.client.get_mount(self.root)["worker_pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            wait_until(lambda: self.client.get_mount(self.root).get("worker_pid", worker) != worker, 30, "a replacement")
        stop.set()
        for thread in threads:
            thread.join(60)
        self.assertEqual(errors, [])
        for number in range(3):
            self.assertEqual(read(f"{self.root}/file-{number}"),
                             b"".join(b"%8d" % i for i in range(written[number])))
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.unmount("COMMIT")
        self.assertEqual(os.path.getsize(f"{self.applied()}/file-0"), 8 * written[0])

    def test_worker_killed_while_a_new_file_is_open(self):
        """Whoever opens it after the death sees what its maker goes on writing."""
        self.mount_rw()
        path = f"{self.root}/new"
        maker = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.addCleanup(os.close, maker)
        os.write(maker, b"before ")
        worker = self.client.get_mount(self.root)["worker_pid"]
        os.kill(worker, signal.SIGKILL)
        with open(path, "rb", buffering=0) as reader:
            self.assertEqual(reader.read(100), b"before ")
            for number in range(50):
                os.write(maker, b"%02d" % number)
                self.assertEqual(reader.read(100), b"%02d" % number)

    def test_read_only_worker_killed(self):
        self.client.mount(self.wim, self.root)
        with open(f"{self.root}/two.bin", "rb") as file:
            start = file.read(1000)
            worker = self.client.get_mount(self.root)["worker_pid"]
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: self.client.get_mount(self.root).get("worker_pid", worker) != worker, 20, "a replacement")
            file.seek(0)
            self.assertEqual(file.read(1000), start)
        self.assertEqual(read(f"{self.root}/one.txt"), b"one\n")
        self.client.unmount(self.root)
        self.assert_nothing_left(self.root)

    def test_front_killed(self):
        self.mount_rw()
        self.edit()
        front = self.service.front()
        os.kill(front, signal.SIGKILL)
        self.client.close()
        wait_until(self.serves, 20, "a new front")
        self.client = Client(self.service.address)
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def serves(self):
        with Caller(self.service.address, 0) as caller:
            try:
                caller.mounts()
                return True
            except RpcFailure:
                return False

    def test_broker_killed(self):
        """Its mounts go on, and the next one adopts them."""
        self.mount_rw()
        self.edit()
        reader = self.mount_point("reader")
        self.client.mount(self.wim, reader, index=2)
        worker = self.client.get_mount(self.root)["worker_pid"]
        self.service.process.kill()
        self.assert_edited(self.root)
        self.restart()
        self.assertEqual(self.client.get_mount(self.root)["worker_pid"], worker)
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        os.kill(worker, signal.SIGKILL)  # the new one can replace it
        self.assert_edited(self.root)
        self.assertEqual(read(f"{reader}/one.txt"), b"one\n")
        self.client.unmount(reader)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_hand_over(self):
        self.mount_rw()
        self.edit()
        front = self.service.front()
        self.service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not processes.alive(front), 20, "the front to end")
        self.client.close()
        wait_until(self.serves, 20, "the next to serve")
        self.client = Client(self.service.address)
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_all_killed_and_remounted(self):
        self.mount_rw()
        self.edit()
        os.sync()
        for pid in (self.service.pid, *processes.descendants(self.service.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", self.root], check=True)
        self.restart()
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        with self.fails("NEEDS_REMOUNT"):
            self.commit()
        self.assertEqual(self.client.call("CleanupMountpoints").get("removed", []), [])
        self.remount()
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.assert_edited(self.root)
        with self.fails("NOT_REMOUNTABLE"):
            self.remount()
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_sigterm_keeps_edits(self):
        self.mount_rw()
        self.edit()
        self.assertEqual(self.service.stop(), [])
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        write(f"{self.root}/in-the-way", b"")
        with self.fails("MOUNT_POINT_NOT_EMPTY"):
            self.remount()
        os.unlink(f"{self.root}/in-the-way")
        self.remount()
        self.assert_edited(self.root)
        self.unmount("DISCARD")
        self.assertEqual(read(f"{self.applied()}/one.txt"), b"one\n")

    def test_remount_of_a_changed_image(self):
        self.mount_rw()
        self.edit()
        self.assertEqual(self.service.stop(), [])
        kept = self.wim + ".kept"
        shutil.copy2(self.wim, kept)
        subprocess.run(["wimupdate", self.wim, "1", "--command=delete /two.bin"], check=True, stdout=subprocess.DEVNULL)
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)
        with self.fails("IMAGE_CHANGED"):
            self.remount()
        self.assertEqual(self.client.call("CleanupMountpoints").get("removed", []), [], "edits that can be brought back")
        shutil.copy2(kept, self.wim)
        self.remount()
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_cleanup_keeps_edits(self):
        """Also of a mount whose image or directory is gone; the others, and those that are mounted, stay as they are."""
        no_image, no_directory, changed = (self.mount_point(name) for name in ("no-image", "no-directory", "changed"))
        files = {}
        for root in (no_image, no_directory, changed):
            files[root] = shutil.copyfile(self.wim, f"{root}.wim")
            self.mount_rw(files[root], root)
            self.edit(root)
        self.assertEqual(self.service.stop(), [])
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)
        self.mount_rw()
        self.client.mount(files[changed], reader := self.mount_point("reader"), index=2)
        with open(files[changed], "r+b") as file:  # the reader's is invalid by that, and its edits are not lost
            file.write(b"?")
            file.seek(0)
            file.write(b"M")
        with contextlib.suppress(OSError):
            read(f"{reader}/two.bin")
        wait_until(lambda: self.status(reader) == "MOUNT_STATUS_INVALID", 20, "the reader to be invalid")
        self.assertEqual([mount["mount_path"] for mount in self.client.call("CleanupMountpoints")["removed"]], [reader])
        self.assertEqual(os.listdir(reader), [])

        os.rename(files[no_image], kept := files[no_image] + ".kept")
        os.rmdir(no_directory)
        write(no_directory, b"a file now")
        for _ in range(2):  # what it says of them does not make them fair game
            cleaned = self.client.call("CleanupMountpoints")
            self.assertEqual(cleaned.get("removed", []), [])
            kept_mounts = {mount["mount_path"]: mount for mount in cleaned["kept"]}
            self.assertEqual(sorted(kept_mounts), sorted((no_image, no_directory)))
            self.assertTrue(all(mount["has_changes"] for mount in kept_mounts.values()))
            self.assertIn(files[no_image], kept_mounts[no_image]["status_message"])
            self.assertIn(no_directory, kept_mounts[no_directory]["status_message"])
            with self.fails("NEEDS_REMOUNT"):
                self.client.call("CleanupMountpoints", {"mount_path": no_image})
        os.rename(kept, files[no_image])
        self.remount(no_image)
        self.assert_edited(no_image)
        self.unmount("DISCARD", no_image)
        os.rename(files[no_image], kept)
        removed = self.client.call("CleanupMountpoints", {"mount_path": no_directory, "force": True})["removed"]
        self.assertEqual([mount["mount_path"] for mount in removed], [no_directory])
        self.assertTrue(removed[0]["has_changes"] and int(removed[0]["changed_files"]) > 0)
        self.assertEqual(sorted(mount["mount_path"] for mount in self.client.mounts()), sorted((self.root, changed)))
        self.assertEqual(len(os.listdir(f"{self.service.state}/staging")), 2)
        self.remount(changed)
        self.assert_edited(changed)
        self.unmount("DISCARD", changed)
        self.unmount("DISCARD")
        self.assertEqual(digest(kept), digest(self.wim))

    def test_cleanup_of_an_image_that_others_changed(self):
        """The mount is freed, its edits are kept, and remounted when the file is what it was."""
        self.mount_rw()
        self.edit()
        self.mount_rw(second := self.own_image("small.wim"), untouched := self.mount_point("untouched"))
        kept = shutil.copy2(self.wim, self.wim + ".kept")
        for image in (self.wim, second):
            with open(image, "ab") as file:
                file.write(b"more")
        with contextlib.suppress(OSError):
            read(f"{self.root}/two.bin")
        with contextlib.suppress(OSError):
            list(map(read, (entry.path for entry in os.scandir(untouched) if entry.is_file())))
        for root in (self.root, untouched):
            wait_until(lambda: self.status(root) == "MOUNT_STATUS_INVALID", 20, "the mount to be invalid")
        cleaned = self.client.call("CleanupMountpoints")
        self.assertEqual([mount["mount_path"] for mount in cleaned["removed"]], [untouched])
        self.assertEqual([mount["mount_path"] for mount in cleaned["kept"]], [self.root])
        self.assertEqual(os.listdir(self.root), [])
        self.assertEqual(self.status(), "MOUNT_STATUS_NEEDS_REMOUNT")
        shutil.copy2(kept, self.wim)
        self.remount()
        self.assert_edited(self.root)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())

    def test_cleanup_while_the_medium_is_not_mounted(self):
        medium = tempfile.mkdtemp(prefix="medium-")
        self.addCleanup(os.rmdir, medium)
        subprocess.run(["mount", "-t", "tmpfs", "none", medium], check=True)
        try:
            self.mount_rw(shutil.copy2(self.wim, f"{medium}/image.wim"))
            self.edit()
            self.assertEqual(self.service.stop(), [])
            # Out of sight, as a medium that was taken out: what is on it stays.
            subprocess.run(["mount", "-t", "tmpfs", "none", medium], check=True)
            self.service.start()
            self.client.close()
            self.client = Client(self.service.address)
            cleaned = self.client.call("CleanupMountpoints")
            self.assertEqual(([], [self.root]),
                             (cleaned.get("removed", []), [mount["mount_path"] for mount in cleaned["kept"]]))
            subprocess.run(["umount", medium], check=True)
            self.remount()
            self.assert_edited(self.root)
            self.unmount("DISCARD")
        finally:
            while os.path.ismount(medium):
                subprocess.run(["umount", "-l", medium], check=True)

    def test_forced_cleanup_says_what_is_thrown_away(self):
        self.mount_rw()
        self.edit()
        with self.fails("MOUNT_BUSY"):
            self.client.call("CleanupMountpoints", {"mount_path": self.root})
        removed = self.client.call("CleanupMountpoints", {"mount_path": self.root, "force": True})["removed"]
        self.assertEqual([mount["mount_path"] for mount in removed], [self.root])
        self.assertTrue(removed[0]["has_changes"])
        self.assertGreater(int(removed[0]["staged_bytes"]), 600_000)
        self.assertEqual(self.client.mounts(), [])
        self.assertEqual(os.listdir(f"{self.service.state}/staging"), [])


class SeamTestCase(ReadWriteTestCase):
    """With files by which processes of the service are stopped."""

    def setUp(self):
        self.seams = tempfile.mkdtemp(prefix="seams-")
        self.addCleanup(shutil.rmtree, self.seams, ignore_errors=True)
        os.chmod(self.seams, 0o777)
        self.service_options = {"environment": {"DISMD_TEST_SEAM_DIR": self.seams}}
        super().setUp()


class GivenUpTest(SeamTestCase):
    def test_after_deaths_without_an_answer(self):
        """Whoever waits for the mount gets an error then; its edits are not lost."""
        self.mount_rw()
        self.edit()
        write(f"{self.seams}/worker-resuming.stop", b"")
        os.kill(self.client.get_mount(self.root)["worker_pid"], signal.SIGKILL)
        reader = subprocess.Popen(["cat", f"{self.root}/two.bin"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(reader.kill)

        def given_up():
            for worker in self.service.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            return self.status() == "MOUNT_STATUS_INVALID"

        wait_until(given_up, 30, "the mount to be given up")
        self.assertTrue(reader.communicate(timeout=20)[1])
        self.assertNotEqual(reader.returncode, 0)
        os.unlink(f"{self.seams}/worker-resuming.stop")
        self.assertEqual(self.service.stop(), [])  # keeps what can be kept
        self.service.start()
        self.client.close()
        self.client = Client(self.service.address)
        self.remount()
        self.assert_edited(self.root)
        self.unmount("DISCARD")


class CommitCrashTest(SeamTestCase):
    """kill -9 of the worker at a step of a commit: the image is the old one or the new one, and the call tells which."""

    def crash_at(self, seam, run):
        """Runs `run` in a thread, kills the worker at the seam; returns the failure or None."""
        stop, reached = (os.path.join(self.seams, f"{seam}.{end}") for end in ("stop", "reached"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(reached)  # by a commit before
        write(stop, b"")
        outcome = []

        def call():
            try:
                run()
                outcome.append(None)
            except RpcFailure as failure:
                outcome.append(failure)

        worker = self.client.get_mount(self.root)["worker_pid"]
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: os.path.exists(reached) or outcome, 30, f"the commit to reach {seam}")
        self.assertEqual(outcome, [])
        os.unlink(stop)
        os.kill(worker, signal.SIGKILL)
        thread.join(90)
        self.assertEqual(len(outcome), 1)
        return outcome[0]

    def test_before_anything_was_written(self):
        self.mount_rw()
        self.edit()
        before = digest(self.wim)
        failure = self.crash_at("worker-commit-begun", self.commit)
        self.assertEqual(failure.reason, "WORKER_DIED")
        self.assertEqual(digest(self.wim), before)
        self.assert_edited(self.root)
        self.commit()
        self.assert_edited(self.applied())
        self.unmount("DISCARD")

    def test_after_the_header(self):
        for seam in ("worker-commit-written", "worker-commit-finished"):
            with self.subTest(seam):
                self.mount_rw()
                word = seam[-5:]
                write(f"{self.root}/{word}", word.encode())
                self.assertIsNone(self.crash_at(seam, self.commit))
                self.assertEqual(read(f"{self.applied()}/{word}"), word.encode())
                self.assertEqual(read(f"{self.root}/{word}"), word.encode())
                self.unmount("DISCARD")

    def test_at_unmount(self):
        """Nothing is appended twice, whenever the worker dies; and a commit that was not done leaves the mount."""
        self.mount_rw()
        self.edit()
        failure = self.crash_at("worker-commit-begun", lambda: self.unmount("COMMIT", append=True))
        self.assertEqual(failure.reason, "WORKER_DIED")
        self.assertEqual(self.status(), "MOUNT_STATUS_OK")
        self.assert_edited(self.root)
        self.assertIsNone(self.crash_at("worker-commit-written", lambda: self.unmount("COMMIT", append=True)))
        self.assertEqual(self.client.mounts(), [])
        self.assert_edited(self.applied(3))
        self.assertNotEqual(subprocess.run(["wimapply", self.wim, "4", self.directory + "/none"], check=False,
                                           capture_output=True).returncode, 0)

    def test_cancelled_commit(self):
        self.mount_rw()
        self.edit()
        before = digest(self.wim)
        stop = os.path.join(self.seams, "worker-commit-begun.stop")
        write(stop, b"")
        pending = self.client.start("CommitImage", {"mount_path": self.root})
        operation = next(iter(pending)).operation.operation_id
        wait_until(lambda: os.path.exists(stop.replace(".stop", ".reached")), 20, "the commit to begin")
        with self.fails("OPERATION_IN_PROGRESS"):
            self.commit()
        self.client.call("CancelOperation", {"operation_id": operation})
        wait_until(lambda: "CANCELLED" in str(self.client.call("GetOperation", {"operation_id": operation})), 20,
                   "the commit to end")
        os.unlink(stop)
        self.assertEqual(digest(self.wim), before)
        self.unmount("COMMIT")
        self.assert_edited(self.applied())


class FullDiskTest(ReadWriteTestCase):
    def new_service(self):
        service = super().new_service()
        # Not below the test's directory, where no mount may be left when the service has stopped.
        service.state = tempfile.mkdtemp(prefix="state-")
        self.addCleanup(os.rmdir, service.state)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", service.state], check=True)
        self.addCleanup(subprocess.run, ["umount", service.state], check=True)
        return service

    def test_goes_on_when_there_is_space(self):
        filler = f"{self.service.state}/filler"
        self.mount_rw()
        write(f"{self.root}/before", b"before")
        write(filler, bytes(8 << 20))
        with self.assertRaises(OSError):
            write(f"{self.root}/large", bytes(12 << 20))
        os.unlink(f"{self.root}/large")
        os.unlink(filler)
        write(f"{self.root}/large", b"x" * (4 << 20))
        self.assertEqual(read(f"{self.root}/before"), b"before")
        self.unmount("COMMIT")
        target = self.applied()
        self.assertEqual(read(f"{target}/large"), b"x" * (4 << 20))
        self.assertEqual(read(f"{target}/before"), b"before")


if __name__ == "__main__":
    unittest.main()
