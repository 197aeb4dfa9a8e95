#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks (VHD, VHDX) mounted read-only: what is on them, against ntfs-3g; which volume; what cannot be mounted."""

import json
import os
import shutil
import struct
import subprocess
import threading
import unittest

import content_test
import disks
import ntfs_volume
import registry_hive
from disks import BASIC, EFI, MIB, RECOVERY
from dismd_client import Caller, RpcFailure
from dismd_service import Service, ServiceTestCase
from processes import wait_until
from tree_listing import link_groups, list_tree


class DiskTestCase(ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.root = self.mount_point()

    def path(self, name):
        return os.path.join(self.directory, name)

    def make_vhdx(self, parts, label="gpt", name="made.vhdx"):
        raw = self.path("made.raw")
        disks.make_disk(raw, parts, label)
        disks.convert(raw, self.path(name))
        os.unlink(raw)
        return self.path(name)

    def volume(self, name, *files, mib=8):
        """An NTFS volume with these empty files and directories ("Windows/")."""
        path = self.path(name)

        def fill(root):
            for entry in files:
                os.makedirs(os.path.join(root, os.path.dirname(entry)), exist_ok=True)
                if not entry.endswith("/"):
                    ntfs_volume.write(os.path.join(root, entry), entry.encode())

        disks.make_volume(path, mib, fill)
        return path

    def refused(self, image, **fields):
        with self.assertRaises(RpcFailure) as caught:
            self.client.mount(image, self.root, **fields)
        self.assert_nothing_left(self.root)
        self.assertIn(os.path.basename(image), caught.exception.message)
        return caught.exception


class ContentTest(DiskTestCase):
    """Each format against ntfs-3g on the volume that is in it."""

    def compare_all(self, ours, theirs):
        self.assertEqual(sorted(ours), sorted(theirs))
        for path, reference in theirs.items():
            with self.subTest(path=path):
                content_test.WindowsContentTest.compare(self, ours[path], reference)
        self.assertEqual(link_groups(ours), link_groups(theirs))

    def check(self, name):
        self.client.mount(self.image(name), self.root)
        ours = list_tree(self.root)
        with ntfs_volume.mounted(self.image("disk-volume.ntfs"), "ro", "streams_interface=xattr") as mounted:
            theirs = list_tree(mounted)
        self.assertGreater(len(theirs), 1500)
        self.compare_all(ours, theirs)

    def test_fixed_vhd(self):
        self.check("disk-fixed.vhd")

    def test_dynamic_vhd(self):
        self.check("disk-dynamic.vhd")

    def test_fixed_vhdx(self):
        self.check("disk-fixed.vhdx")

    def test_dynamic_vhdx(self):
        self.check("disk-dynamic.vhdx")

    def test_small_blocks(self):
        self.check("disk-dynamic-1m.vhdx")

    def test_encrypted_files(self):
        """As they lie there, in the form that ntfs-3g calls efs_raw: nobody here has their keys."""

        def fill(root):
            os.mkdir(os.path.join(root, "directory"))
            for name, sectors, padding in (("small", 1, 500), ("directory/large", 300, 100), ("whole", 4, 0)):
                path = os.path.join(root, name)
                # Whole sectors, and how many bytes of the last one do not count.
                ntfs_volume.write(path, os.urandom(sectors * 512) + struct.pack("<H", padding))
                os.setxattr(path, "system.ntfs_efsinfo", struct.pack("<4I60x", 76, 0, 2, 1))

        disks.make_volume(self.path("volume"), 8)
        with ntfs_volume.mounted(self.path("volume")) as mounted:
            fill(mounted)
        self.client.mount(self.make_vhdx(((BASIC, 8, self.path("volume")),)), self.root)
        ours = list_tree(self.root)
        with ntfs_volume.mounted(self.path("volume"), "ro") as mounted:
            self.assertTrue(struct.unpack("<I", os.getxattr(f"{mounted}/small", "system.ntfs_attrib"))[0] & 0x4000)
            theirs = list_tree(mounted)
            for path, entry in theirs.items():
                # ntfs-3g lists it under this name, and answers to ours.
                keys = entry.streams.pop(b"user.ntfs.efsinfo", None)
                if entry.kind == "file":
                    self.assertEqual(os.getxattr(os.path.join(os.fsencode(self.root), path), "system.ntfs_efsinfo"), keys)
            self.compare_all(ours, theirs)

    def test_links_lead_inside(self):
        self.client.mount(self.image("disk-dynamic.vhdx"), self.root)
        for link, target in ntfs_volume.LINKS.items():
            reached = os.path.realpath(os.path.join(self.root, link))
            self.assertTrue((reached + "/").startswith(self.root + "/"), (link, reached))
            if target is not None:
                self.assertTrue(os.path.samefile(reached, os.path.join(self.root, target)), (link, reached))

    def test_by_many_readers(self):
        self.client.mount(self.image("disk-dynamic.vhdx"), self.root)
        trees = [None] * 4

        def read(number):
            trees[number] = {path: entry.hash for path, entry in list_tree(self.root, ntfs=False).items()}

        threads = [threading.Thread(target=read, args=(i,)) for i in range(len(trees))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tree in trees:
            self.assertEqual(tree, trees[0])
        self.assertGreater(len(trees[0]), 1500)

    def test_the_file_is_not_written_to(self):
        copy = self.own_image("disk-dynamic.vhdx")
        before = os.stat(copy)
        self.client.mount(copy, self.root)
        list_tree(self.root)
        self.client.unmount(self.root)
        self.assertEqual(os.stat(copy).st_mtime_ns, before.st_mtime_ns)

    def test_another_user(self):
        with Caller(self.service.address, 4242) as caller:
            root = self.mount_point("theirs", uid=4242)
            caller.mount(self.image("disk-dynamic.vhd"), root)
            self.assertEqual(caller.run("cat", f"{root}/plain.txt").stdout, b"plain\r\n")
            self.assertNotEqual(subprocess.run(["ls", root], capture_output=True, check=False).returncode, 0)
            caller.unmount(root)


class VolumeTest(DiskTestCase):
    """Which partition is mounted, and why none is."""

    def test_the_only_ntfs_volume(self):
        mount = self.client.mount(self.image("disk-dynamic.vhdx"), self.root)
        self.assertEqual(mount["partition"], 3)
        self.assertEqual(mount["image_type"], "IMAGE_TYPE_VHD")

    def test_the_one_with_windows(self):
        data, windows = self.volume("data", "data.txt"), self.volume("windows", "Windows/win.ini")
        image = self.make_vhdx(((BASIC, 8, data), (BASIC, 8, windows)))
        self.assertEqual(self.client.mount(image, self.root)["partition"], 2)
        self.assertEqual(os.listdir(self.root), ["Windows"])
        self.client.unmount(self.root)
        self.client.mount(image, self.root, partition=1)
        self.assertEqual(os.listdir(self.root), ["data.txt"])

    def test_recovery_volumes_are_not_meant(self):
        data, recovery = self.volume("data", "data.txt"), self.volume("recovery", "Recovery/")
        image = self.make_vhdx(((RECOVERY, 8, recovery), (BASIC, 8, data)))
        self.assertEqual(self.client.mount(image, self.root)["partition"], 2)
        self.client.unmount(self.root)
        alone = self.make_vhdx(((RECOVERY, 8, recovery),), name="alone.vhdx")
        self.assertEqual(self.client.mount(alone, self.root)["partition"], 1)

    def test_several(self):
        first, second = self.volume("first", "one.txt"), self.volume("second", "two.txt")
        image = self.make_vhdx(((BASIC, 8, first), (EFI, 2, None), (BASIC, 8, second)))
        failure = self.refused(image)
        self.assertEqual(failure.reason, "AMBIGUOUS_PARTITION")
        for text in ("partition 1: 8 MiB, NTFS (basic data)", "partition 2", "partition 3", "--partition"):
            self.assertIn(text, failure.message)
        failure = self.refused(image, partition=4)
        self.assertEqual(failure.reason, "PARTITION_NOT_FOUND")
        self.assertIn("partition 3: 8 MiB", failure.message)
        self.assertEqual(self.refused(image, partition=2).reason, "UNSUPPORTED_VOLUME")
        self.assertEqual(self.client.mount(image, self.root, partition=3)["partition"], 3)
        self.assertEqual(os.listdir(self.root), ["two.txt"])

    def test_a_volume_that_reaches_beyond_its_partition(self):
        """As mkntfs makes it on a loop device that is told where the partition begins, and not where it ends."""
        volume = self.volume("volume", "file.txt")
        raw = self.path("made.raw")
        disks.make_disk(raw, ((BASIC, 7, volume),), size_mib=9)
        disks.convert(raw, self.path("beyond.vhdx"))
        self.client.mount(self.path("beyond.vhdx"), self.root)
        self.assertEqual(os.listdir(self.root), ["file.txt"])
        self.client.unmount(self.root)
        # Not where that is another's.
        disks.make_disk(raw, ((BASIC, 7, volume), (BASIC, 4, None)))
        disks.convert(raw, self.path("overlap.vhdx"))
        self.assertEqual(self.refused(self.path("overlap.vhdx"), partition=1).reason, "BAD_IMAGE_FORMAT")

    def test_mbr_and_no_table(self):
        volume = self.volume("volume", "file.txt")
        for name in ("mbr.vhd", "mbr.vhdx"):
            image = self.make_vhdx((("7", 8, volume),), label="dos", name=name)
            self.client.mount(image, self.root)
            self.assertEqual(os.listdir(self.root), ["file.txt"])
            self.client.unmount(self.root)
        bare = self.path("bare.vhdx")
        disks.convert(volume, bare)
        self.assertEqual(self.client.mount(bare, self.root)["partition"], 1)
        self.assertEqual(os.listdir(self.root), ["file.txt"])

    def test_no_ntfs(self):
        fat = self.path("fat")
        with open(fat, "wb") as file:
            file.truncate(8 * MIB)
        ntfs_volume.run("/sbin/mkfs.vfat", fat)
        failure = self.refused(self.make_vhdx(((BASIC, 8, fat),)))
        self.assertEqual(failure.reason, "UNSUPPORTED_VOLUME")
        self.assertIn("FAT", failure.message)
        self.assertEqual(self.refused(self.make_vhdx(((BASIC, 8, None),), name="empty.vhdx")).reason, "UNSUPPORTED_VOLUME")

    def boot_sector(self, name, oem):
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(8 * MIB)
            file.write(b"\xeb\x58\x90" + oem.ljust(8, b"\0"))
            file.seek(510)
            file.write(b"\x55\xaa")
        return path

    def test_bitlocker_and_refs(self):
        locked, recovery = self.boot_sector("locked", b"-FVE-FS-"), self.volume("recovery", "Recovery/")
        image = self.make_vhdx(((EFI, 2, None), (BASIC, 8, locked), (RECOVERY, 8, recovery)))
        self.assertEqual(self.refused(image).reason, "ENCRYPTED_VOLUME")
        refs = self.make_vhdx(((BASIC, 8, self.boot_sector("refs", b"ReFS")),), name="refs.vhdx")
        self.assertEqual(self.refused(refs).reason, "REFS_VOLUME")

    def test_dynamic_disk(self):
        self.assertEqual(self.refused(self.make_vhdx((("42", 8, None),), label="dos")).reason, "DYNAMIC_DISK")


class RefusalTest(DiskTestCase):
    def test_index_and_name(self):
        image = self.image("disk-dynamic.vhdx")
        for index in (0, 2):
            self.assertEqual(self.refused(image, index=index).reason, "INVALID_IMAGE_INDEX")
        self.assertEqual(self.refused(image, image_name="Windows").reason, "INVALID_IMAGE_NAME")

    def test_flags(self):
        self.assertEqual(self.refused(self.image("disk-dynamic.vhdx"), check_integrity=True).reason, "INVALID_FLAGS")
        self.assertEqual(self.refused(self.image("small.wim"), partition=1).reason, "INVALID_FLAGS")

    def test_what_is_no_disk(self):
        for name in ("text.vhd", "text.vhdx"):
            ntfs_volume.write(self.path(name), b"not a disk\n" * 1000)
            self.assertEqual(self.refused(self.path(name)).reason, "BAD_IMAGE_FORMAT")
        ntfs_volume.write(self.path("empty.vhdx"), b"")
        self.assertEqual(self.refused(self.path("empty.vhdx")).reason, "BAD_IMAGE_FORMAT")
        shutil.copyfile(self.image("small.wim"), self.path("wim.vhdx"))
        self.assertEqual(self.refused(self.path("wim.vhdx")).reason, "BAD_IMAGE_FORMAT")

    def test_truncated(self):
        for name in ("disk-dynamic.vhdx", "disk-fixed.vhdx", "disk-dynamic.vhd", "disk-fixed.vhd"):
            for size in (100, 70_000, 3 << 20, 6 << 20):
                with self.subTest(image=name, size=size):
                    copy = self.own_image(name)
                    os.truncate(copy, size)
                    self.assertEqual(self.refused(copy).reason, "BAD_IMAGE_FORMAT")

    def test_changed_while_mounted(self):
        copy = self.own_image("disk-dynamic.vhdx")
        self.client.mount(copy, self.root)
        with open(copy, "r+b") as file:
            file.seek(64 * 1024 * 3)
            file.write(b"changed by another program")
        with self.assertRaises(OSError):
            list_tree(self.root)
        wait_until(lambda: self.client.get_mount(self.root)["status"] == "MOUNT_STATUS_INVALID", 10, "the mount to be invalid")
        self.client.unmount(self.root)


class InfoTest(DiskTestCase):
    def info(self, image):
        return self.client.call("GetImageInfo", {"image_path": image})

    def test_of_a_disk(self):
        info = self.info(self.image("disk-dynamic.vhdx"))
        file, = info["disk"]["chain"]
        self.assertEqual((file["format"], file["disk_type"]), ("VHDX", "dynamic"))
        self.assertEqual(info["disk"]["partition_table"], "gpt")
        kinds = [(p["number"], p["type"], p.get("file_system", "")) for p in info["disk"]["partitions"]]
        self.assertEqual(kinds, [(1, "EFI system", "FAT"), (2, "Microsoft reserved", ""), (3, "basic data", "NTFS")])
        self.assertTrue(info["disk"]["partitions"][2]["is_default"])
        self.assertEqual(info["disk"]["partitions"][2]["label"], "Windows")
        self.assertEqual(info["images"][0]["image_type"], "IMAGE_TYPE_VHD")
        self.assertEqual(int(file["virtual_size"]), int(info["images"][0]["image_size"]))

    def test_where_nothing_can_be_mounted(self):
        image = self.make_vhdx(((BASIC, 8, None),))
        info = self.info(image)
        self.assertEqual(len(info["images"]), 1)
        self.assertNotIn("is_default", info["disk"]["partitions"][0])

    def test_of_the_windows_on_a_volume(self):
        """Its version and edition, out of its registry: in the answer, by dismctl, and by DismGetImageInfo (dism)."""
        software = {"Microsoft": {"Windows NT": {"CurrentVersion": {
            "ProductName": "Windows 11 Pro", "EditionID": "Professional", "InstallationType": "Client",
            "CurrentMajorVersionNumber": 10, "CurrentMinorVersionNumber": 0, "CurrentBuildNumber": "22631", "UBR": 3007,
            "BuildLabEx": "22621.1.amd64fre.ni_release.220506-1250"}}}}
        system = {"Select": {"Current": 1}, "ControlSet001": {"Control": {
            "ProductOptions": {"ProductType": "WinNT"}, "MUI": {"UILanguages": {"de-DE": {}, "en-US": {}}}}}}

        def fill(root):
            config = os.path.join(root, "Windows/System32/config")
            os.makedirs(config)
            ntfs_volume.write(os.path.join(config, "SOFTWARE"), registry_hive.build(software))
            ntfs_volume.write(os.path.join(config, "SYSTEM"), registry_hive.build(system))

        disks.make_volume(self.path("windows"), 8, fill, label="System drive")
        for name in ("windows.vhdx", "windows.vhd"):
            image = self.make_vhdx(((EFI, 2, None), (BASIC, 8, self.path("windows"))), name=name)
            info, = self.info(image)["images"]
            wanted = {"product_name": "Windows 11 Pro", "edition_id": "Professional", "installation_type": "Client",
                      "product_type": "WinNT", "major_version": 10, "build": 22631, "service_pack_build": 3007,
                      "architecture": 9, "languages": ["de-DE", "en-US"], "system_root": "WINDOWS"}
            self.assertEqual({key: info.get(key) for key in wanted}, wanted)
            text = self.command("dismctl", "--address", self.service.address, "info", image)
            for row in ("Windows 11 Pro", "Professional", "10.0.22631.3007", "System drive", "Windows, mounted by default"):
                self.assertIn(row, text)
            text = self.command("dism", "/English", "/Get-ImageInfo", f"/ImageFile:{image}", "/Index:1")
            for row in ("Version : 10.0.22631", "ServicePack Build : 3007", "Edition : Professional", "Architecture : x64"):
                self.assertIn(row, text)

    def command(self, program, *arguments):
        return subprocess.run([os.path.join(os.environ["DISMD_BIN_DIR"], program), *arguments], check=True, text=True,
                              stdout=subprocess.PIPE, env={**os.environ, "DISMD_ADDRESS": self.service.address}).stdout

    def test_by_the_command(self):
        command = [os.path.join(os.environ["DISMD_BIN_DIR"], "dismctl"), "--address", self.service.address, "info",
                   self.image("disk-dynamic.vhdx")]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for wanted in ("VHDX, dynamic", "Partition table: gpt", "NTFS", "mounted by default"):
            self.assertIn(wanted, text)
        parsed = json.loads(subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE).stdout)
        self.assertEqual(parsed["disk"]["partitions"][2]["file_system"], "NTFS")


class FixtureTest(DiskTestCase):
    """Disks that Windows made."""

    def test_chains(self):
        for kind in ("vhd", "vhdx"):
            with self.subTest(kind=kind):
                image = self.image(f"dfvfs/ntfs-differential.{kind}")
                info = self.client.call("GetImageInfo", {"image_path": image})
                names = [file["name"] for file in info["disk"]["chain"]]
                self.assertEqual(names, [f"ntfs-differential.{kind}", f"ntfs-parent.{kind}"])
                self.client.mount(image, self.root)
                self.assertGreater(len(list_tree(self.root)), 1)
                self.client.unmount(self.root)

    def test_a_parent_that_is_missing(self):
        for kind in ("vhd", "vhdx"):
            image = self.own_image(f"dfvfs/ntfs-differential.{kind}")
            failure = self.refused(image)
            self.assertEqual(failure.reason, "PART_MISSING")
            self.assertIn(f"ntfs-parent.{kind}", failure.message)

    def test_a_parent_of_another_disk(self):
        shutil.copyfile(self.image("disk-dynamic.vhdx"), self.path("ntfs-parent.vhdx"))
        self.refused(self.own_image("dfvfs/ntfs-differential.vhdx"))

    def test_a_parent_that_the_caller_may_not_read(self):
        image = self.own_image("dfvfs/ntfs-differential.vhdx", uid=4242)
        parent = self.own_image("dfvfs/ntfs-parent.vhdx")
        os.chmod(parent, 0o600)
        root = self.mount_point("theirs", uid=4242)
        with Caller(self.service.address, 4242) as caller:
            with self.assertRaises(RpcFailure):
                caller.mount(image, root)
            os.chown(parent, 4242, 4242)
            caller.mount(image, root)
            caller.unmount(root)

    def test_a_parent_where_the_service_was_told(self):
        """Not beneath the image's directory: in one that --parents names, opened as the caller."""
        parents = self.path("parents")
        os.mkdir(parents)
        closed = self.path("closed")  # to this caller; it hides nothing behind it
        os.mkdir(closed, 0o700)
        other = Service(self.path("other"), arguments=["--parents", self.path("missing"), "--parents", closed,
                                                       f"--parents={parents}"])
        os.makedirs(other.directory)
        os.chmod(other.directory, 0o755)
        other.start()
        self.addCleanup(lambda: self.assertEqual(other.stop(), []))
        for kind in ("vhd", "vhdx"):
            image = self.own_image(f"dfvfs/ntfs-differential.{kind}", uid=4242)
            with Caller(self.service.address, 4242) as caller, self.assertRaises(RpcFailure) as caught:
                caller.mount(image, self.mount_point(f"refused-{kind}", uid=4242))
            self.assertEqual(caught.exception.reason, "PART_MISSING")
            parent = os.path.join(parents, f"ntfs-parent.{kind}")
            shutil.copyfile(self.image(f"dfvfs/ntfs-parent.{kind}"), parent)
            with Caller(other.address, 4242) as caller:
                root = self.mount_point(f"found-{kind}", uid=4242)
                caller.mount(image, root)
                caller.unmount(root)
                os.chmod(parent, 0o600)
                with self.assertRaises(RpcFailure) as caught:
                    caller.mount(image, root)
                self.assertEqual(caught.exception.reason, "ACCESS_DENIED")

    def test_contents_of_a_windows_disk(self):
        """Files and their bytes as 7zz reads them out of the same disk."""
        for name in ("ntfs-dynamic.vhd", "ntfs-dynamic.vhdx", "ntfs-fixed.vhdx"):
            with self.subTest(image=name):
                raw = self.path("7zz.raw")
                kind = "vpc" if name.endswith(".vhd") else "vhdx"
                ntfs_volume.run("qemu-img", "convert", "-f", kind, "-O", "raw", self.image(f"dfvfs/{name}"), raw)
                out = self.path(f"7zz-{name}")
                listing = ntfs_volume.run("7zz", "l", "-ba", "-slt", raw).decode()
                volumes = [line[7:] for line in listing.splitlines() if line.startswith("Path = ")]
                ntfs_volume.run("7zz", "x", f"-o{out}", raw)
                inner = [volume for volume in volumes if volume.endswith(".ntfs")]
                os.makedirs(f"{out}/tree")
                ntfs_volume.run("7zz", "x", f"-o{out}/tree", os.path.join(out, inner[0]) if inner else raw)
                self.client.mount(self.image(f"dfvfs/{name}"), self.root)
                for path, entry in list_tree(self.root, ntfs=False).items():
                    if entry.kind == "file":
                        with open(os.path.join(os.fsencode(out), b"tree", path), "rb") as file:
                            with open(os.path.join(os.fsencode(self.root), path), "rb") as own:
                                self.assertEqual(own.read(), file.read(), path)
                self.client.unmount(self.root)
                os.unlink(raw)


if __name__ == "__main__":
    unittest.main()
