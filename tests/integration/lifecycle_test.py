#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting and stopping the service, as root and as an ordinary user; its gRPC face as any client sees it."""

import contextlib
import os
import pwd
import signal
import socket
import stat
import subprocess
import tempfile
import unittest

import processes
from dismd_client import Caller, Client, RpcFailure, grpc, stubs
from dismd_service import ServiceTestCase
from processes import wait_until
from tree_listing import list_tree

OWNER = 4241


class StopTest(ServiceTestCase):
    def test_sigterm_unmounts(self):
        roots = [self.mount_point(f"mnt{i}") for i in range(3)]
        for root in roots:
            self.client.mount(self.image("small.wim"), root)
        self.assertEqual(self.service.stop(), [])
        self.assertEqual([os.listdir(root) for root in roots], [[], [], []])

    def test_sigterm_with_a_busy_mount(self):
        """It is detached and its connection ended after the grace time, and the log names it."""
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        holder = subprocess.Popen(["sleep", "1000"], cwd=root)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        descriptor = os.open(root + "/two.bin", os.O_RDONLY)
        self.addCleanup(self.close_whatever_it_says, descriptor)
        log_path = self.service.log_path
        self.assertEqual(self.service.stop(), [])
        self.assertEqual(os.listdir(root), [])
        log = processes.read(log_path)
        self.assertIn(f"{root} is in use; it is taken away by force", log)
        # Tried many times a second, told once. And what ends because it is done has not failed.
        self.assertEqual(log.count("not unmounted"), 1)
        self.assertNotIn("ERROR", log)
        with self.assertRaises(OSError):
            os.pread(descriptor, 100, 150_000)

    @staticmethod
    def close_whatever_it_says(descriptor):
        with contextlib.suppress(OSError):  # its connection has ended
            os.close(descriptor)

    def test_sigterm_while_mounting(self):
        root = self.mount_point()
        pending = self.client.start("MountImage", {"image_path": self.image("huge.wim"), "mount_path": root,
                                                   "image_index": 1, "read_only": True, "check_integrity": True})
        next(iter(pending))
        self.assertEqual(self.service.stop(), [])
        self.assertEqual(os.listdir(root), [])

    def test_starts_again_after_being_killed(self):
        """SIGKILL of the broker: the next start with the same socket and state serves, and clears up what was left."""
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        below = processes.descendants(self.service.pid)
        self.service.process.kill()
        self.service.process.wait()
        self.service.process = None
        self.service.start()
        with Client(self.service.address) as client:
            client.call("CleanupMountpoints")
            for mount in client.mounts():
                client.unmount(mount["mount_path"])
        wait_until(lambda: not processes.mounts_below(root), 10, "the mount to be gone")
        wait_until(lambda: not any(map(processes.alive, below)), 20, "the processes of the first to end")

    def test_a_second_instance_on_the_same_socket_is_refused(self):
        second = subprocess.run([os.path.join(self.service.bin, "dismd"), "--socket", self.service.socket, "--state-dir",
                                 self.service.state], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=30, check=False)
        self.assertNotEqual(second.returncode, 0)
        self.assertTrue(second.stdout)
        self.assertEqual(self.client.mounts(), [])  # the first goes on

    def test_umount_by_hand(self):
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        subprocess.run(["umount", root], check=True)
        wait_until(lambda: self.client.mounts() == [], 10, "the mount to leave the list")
        self.assert_nothing_left(root)

    def test_unmount_of_a_busy_mount_names_the_holder_and_can_be_repeated(self):
        root = self.mount_point(uid=OWNER)
        with Caller(self.service.address, OWNER) as caller:
            caller.mount(self.image("small.wim"), root)
            holder = subprocess.Popen(["tail", "-f", root + "/one.txt"], user=OWNER, group=OWNER, extra_groups=[], cwd="/",
                                      stdout=subprocess.DEVNULL)
            self.addCleanup(holder.wait)
            self.addCleanup(holder.kill)
            wait_until(lambda: processes.has_open(holder.pid, root + "/one.txt"), 10, "tail to open the file")
            with self.assertRaises(RpcFailure) as caught:
                caller.unmount(root)
            self.assertEqual(caught.exception.reason, "MOUNT_BUSY")
            self.assertIn("tail", caught.exception.message)
            self.assertIn(str(holder.pid), caught.exception.message)
            self.assertEqual(caller.run("cat", root + "/one.txt").stdout, b"one\n")
            holder.kill()
            holder.wait()
            caller.unmount(root)
        self.assert_nothing_left(root)


class RootlessTest(ServiceTestCase):
    """An ordinary user runs the same dismd; mounts are made by fusermount3."""

    USER = "nobody"

    def setUp(self):
        # fusermount3 wants a user with a name.
        self.user = pwd.getpwnam(self.USER)
        self.service_options = {"uid": self.user.pw_uid, "gid": self.user.pw_gid}
        self.open_dev_fuse()
        super().setUp()

    def open_dev_fuse(self):
        """udev lets everyone open /dev/fuse, which fusermount3 does as the user. Where no udev runs: for this test."""
        mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
        if mode & 0o006 != 0o006:
            os.chmod("/dev/fuse", 0o666)
            self.addCleanup(os.chmod, "/dev/fuse", mode)

    def new_service(self):
        service = super().new_service()
        os.chown(service.directory, self.user.pw_uid, self.user.pw_gid)
        return service

    def test_mount_read_unmount(self):
        with Caller(self.service.address, self.user.pw_uid, self.user.pw_gid) as caller:
            self.assertTrue(caller.call("GetServerInfo")["rootless"])
            root = self.mount_point(uid=self.user.pw_uid, gid=self.user.pw_gid)
            caller.mount(self.image("ntfs-xpress.wim"), root)
            self.assertEqual(caller.run("cat", root + "/plain.txt").stdout, b"plain\r\n")
            count = int(caller.run("bash", "-c", 'find "$0" | wc -l', root).stdout)
            self.assertGreater(count, 1500)
            options = next(line for line in processes.read("/proc/self/mountinfo").splitlines() if f" {root} " in line)
            self.assertIn("nosuid", options)
            self.assertIn("nodev", options)
            caller.unmount(root)
            self.assertEqual(os.listdir(root), [])

    def test_scratch_directory(self):
        uid, gid = self.user.pw_uid, self.user.pw_gid
        with Caller(self.service.address, uid, gid) as caller:
            root, scratch = (self.mount_point(name, uid, gid) for name in ("mnt", "scratch"))
            mount = caller.mount(self.own_image("small.wim", uid), root, read_only=False, scratch_directory=scratch)
            self.assertEqual(os.listdir(scratch), [f"dismd-{mount['mount_id']}"])
            self.assertEqual(caller.run("touch", root + "/new").returncode, 0)
            caller.unmount(root)
            self.assertEqual(os.listdir(scratch), [])

    @contextlib.contextmanager
    def mounts_that_go_on(self):
        """A mount that is read, and one with edits; the next dismd, after the body, has them as they were."""
        uid, gid = self.user.pw_uid, self.user.pw_gid
        reader, writer = (self.mount_point(name, uid, gid) for name in ("reader", "writer"))
        wim = self.own_image("small.wim", uid)
        with Caller(self.service.address, uid, gid) as caller:
            caller.mount(self.image("ntfs-xpress.wim"), reader)
            caller.mount(wim, writer, read_only=False)
            self.assertEqual(caller.run("cp", reader + "/plain.txt", writer + "/new").returncode, 0)
            workers = {root: caller.get_mount(root)["worker_pid"] for root in (reader, writer)}
        program = subprocess.Popen(["bash", "-c", 'exec 3< "$0"; echo open; read -r; cat <&3', writer + "/one.txt"],
                                   user=uid, group=gid, extra_groups=[], cwd="/", stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        self.addCleanup(program.stdout.close)
        self.addCleanup(program.wait)
        self.addCleanup(program.kill)
        self.assertEqual(program.stdout.readline(), b"open\n")
        yield
        with Caller(self.service.address, uid, gid) as caller:
            for root, worker in workers.items():
                mount = caller.get_mount(root)
                self.assertEqual((mount["status"], mount["worker_pid"]), ("MOUNT_STATUS_OK", worker))
            self.assertEqual(program.communicate(b"\n", timeout=60)[0], b"one\n")
            for worker in workers.values():  # the new one can replace them
                os.kill(worker, signal.SIGKILL)
            self.assertEqual(caller.run("cat", reader + "/plain.txt").stdout, b"plain\r\n")
            self.assertEqual(caller.run("cat", writer + "/new").stdout, b"plain\r\n")
            caller.unmount(reader)
            caller.unmount(writer, changes="CHANGES_COMMIT")
        with tempfile.TemporaryDirectory(dir=self.directory) as applied:
            subprocess.run(["wimapply", wim, "1", applied], check=True, stdout=subprocess.DEVNULL)
            self.assertEqual(processes.read(applied + "/new"), "plain\n")
        self.assertEqual(processes.mounts_below(self.directory), [])

    def test_hand_over(self):
        with self.mounts_that_go_on():
            front = self.service.front()
            self.service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not processes.alive(front), 20, "the front to end")
            wait_until(self.service.ready, 20, "the next to serve")

    def test_broker_killed(self):
        with self.mounts_that_go_on():
            self.service.process.kill()
            self.service.process.wait()
            self.service.process = None
            self.service.start()

    def test_nothing_of_it_runs_as_root(self):
        with Caller(self.service.address, self.user.pw_uid, self.user.pw_gid) as caller:
            root = self.mount_point(uid=self.user.pw_uid, gid=self.user.pw_gid)
            caller.mount(self.image("small.wim"), root)
            for pid in self.service.pids() + self.service.spare_workers():
                uids = next(line for line in processes.read(f"/proc/{pid}/status").splitlines() if line.startswith("Uid:"))
                self.assertEqual(set(uids.split()[1:]), {str(self.user.pw_uid)})
            caller.unmount(root)


class PrivilegeTest(ServiceTestCase):
    """Who runs as whom, and with what."""

    def status(self, pid, field):
        return next(line.split(":", 1)[1].split() for line in processes.read(f"/proc/{pid}/status").splitlines()
                    if line.startswith(field + ":"))

    def check_unprivileged(self, pid, uid=None):
        uids = self.status(pid, "Uid")
        self.assertEqual(len(set(uids)), 1)
        if uid is not None:
            self.assertEqual(uids[0], str(uid))
        self.assertNotEqual(uids[0], "0")
        for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
            self.assertEqual(int(self.status(pid, kind)[0], 16), 0, kind)

    def test_front(self):
        self.check_unprivileged(self.service.front())

    def test_worker_of_a_user(self):
        with Caller(self.service.address, OWNER) as caller:
            root = self.mount_point(uid=OWNER)
            worker = caller.mount(self.image("small.wim"), root)["worker_pid"]
            self.check_unprivileged(worker, OWNER)
            self.assertEqual(self.status(worker, "NoNewPrivs"), ["1"])
            self.assertEqual(self.status(worker, "Seccomp"), ["2"])
            caller.unmount(root)

    def test_worker_of_root(self):
        root = self.mount_point()
        self.check_unprivileged(self.client.mount(self.image("small.wim"), root)["worker_pid"])

    def test_mount_options(self):
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        line = next(line for line in processes.read("/proc/self/mountinfo").splitlines() if f" {root} " in line)
        options = line.split(" ")[5].split(",")
        for wanted in ("ro", "nosuid", "nodev"):
            self.assertIn(wanted, options)


class GrpcTest(ServiceTestCase):
    """The service from a language that shares no code with it."""

    def test_health(self):
        health = stubs().health_rpc.HealthStub(self.client.channel)
        serving = stubs().health.HealthCheckResponse.SERVING
        answer = health.Check(stubs().health.HealthCheckRequest(), timeout=30)
        self.assertEqual(answer.status, serving)

    def test_reflection(self):
        reflection = stubs().reflection_rpc.ServerReflectionStub(self.client.channel)
        request = stubs().reflection.ServerReflectionRequest
        requests = iter((request(list_services=""), request(file_containing_symbol="dismd.v1.Dismd")))
        answers = list(reflection.ServerReflectionInfo(requests, timeout=30))
        names = [service.name for service in answers[0].list_services_response.service]
        self.assertIn("dismd.v1.Dismd", names)
        self.assertTrue(answers[1].file_descriptor_response.file_descriptor_proto)

    def test_mount(self):
        root = self.mount_point()
        mount = self.client.mount(self.image("ntfs-lzx.wim"), root, check_integrity=True)
        self.assertEqual((mount["mount_path"], mount["image_index"], mount["image_name"], mount["status"], mount["read_only"]),
                         (root, 1, "NTFS", "MOUNT_STATUS_OK", True))
        self.assertGreater(len(list_tree(root)), 1500)
        stats = self.client.get_mount(root)["stats"]
        self.assertGreater(int(stats["requests"]), 0)
        self.assertGreater(int(stats["bytes_read"]), 5 << 20)
        self.client.unmount(root)
        self.assertEqual(self.client.mounts(), [])

    def test_error_details(self):
        with self.assertRaises(RpcFailure) as caught:
            self.client.mount("/nowhere/x.wim", self.mount_point())
        self.assertEqual(caught.exception.reason, "IMAGE_NOT_FOUND")
        self.assertIn("/nowhere/x.wim", caught.exception.message)

    def test_image_info(self):
        images = self.client.call("GetImageInfo", {"image_path": self.image("two-images.wim")})["images"]
        self.assertEqual([image["image_name"] for image in images], ["First", "Second"])
        self.assertEqual([int(image["file_count"]) for image in images], [3, 3])

    def test_a_mount_that_serves_is_not_remounted(self):
        root = self.mount_point()
        self.client.mount(self.image("small.wim"), root)
        with self.assertRaises(RpcFailure) as caught:
            list(self.client.stream("RemountImage", {"mount_path": root}))
        self.assertEqual(caught.exception.reason, "NOT_REMOUNTABLE")

    def test_deadline_cancels_the_mount(self):
        root = self.mount_point()
        request = stubs().dismd.MountImageRequest(image_path=self.image("huge.wim"), mount_path=root, image_index=1,
                                                  read_only=True, check_integrity=True)
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.client.stub.MountImage(request, timeout=0.001))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assert_nothing_left(root)

    def test_garbage_on_the_socket(self):
        for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.service.socket)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(20)
                try:
                    while client.recv(4096):
                        pass
                except ConnectionError:
                    pass
        self.assertEqual(self.client.mounts(), [])


if __name__ == "__main__":
    unittest.main()
